//! Tests of bodies that are polled after the handler has returned, and of WebSockets.

use std::convert::Infallible;
use std::io::{Read, Write};

use actix_web::web::{self, Bytes, Payload};
use actix_web::{Error, HttpRequest, HttpResponse, rt};
use futures_util::StreamExt;
use pollwatch::{Certainty, Stall, Watchdog};
use test_support::*;

use crate::fixture::Fixture;

#[test]
fn a_streamed_body_blocks_under_the_route_of_its_request() {
    let fixture = Fixture::start();
    let server = fixture.serve(1, |config| {
        let stream = async || {
            let chunks = futures_util::stream::iter(0..3).map(|n| {
                if n == 1 {
                    block(THRESHOLD * 3);
                }
                Ok::<_, Infallible>(Bytes::from(format!("chunk {n};")))
            });
            HttpResponse::Ok().streaming(chunks)
        };
        config.route("/stream/{id}", web::get().to(stream)).route("/whole", web::get().to(async || "a whole body"));
    });
    let reply = get(server.addr, "/stream/7");
    for n in 0..3 {
        assert!(reply.body.contains(&format!("chunk {n};")), "{reply:?}");
    }
    let stall = fixture.wait_stall("/stream/{id}");
    assert!(stall.elapsed >= THRESHOLD, "{stall}");
    fixture.wait_requests("/stream/{id}", &[("GET", "2xx", 1)]);

    let whole = get(server.addr, "/whole");
    assert_eq!((whole.headers["content-length"].as_str(), whole.body.as_str()), ("12", "a whole body"));
}

/// Answers each text with how long it has blocked.
async fn session(mut session: actix_ws::Session, mut messages: actix_ws::MessageStream) {
    while let Some(Ok(actix_ws::Message::Text(_))) = messages.next().await {
        let blocked = block(THRESHOLD * 5);
        session.text(blocked.as_millis().to_string()).await.unwrap();
    }
}

async fn upgrade(
    request: HttpRequest,
    body: Payload,
    watchdog: web::Data<Watchdog>,
    kind: web::Path<String>,
) -> Result<HttpResponse, Error> {
    let (response, sender, messages) = actix_ws::handle(&request, body)?;
    match kind.as_str() {
        "plain" => rt::spawn(session(sender, messages)),
        _ => rt::spawn(watchdog.watch(session(sender, messages))),
    };
    Ok(response)
}

/// Opens a WebSocket, sends one text, and reads the answer.
fn talk(addr: std::net::SocketAddr, path: &str) {
    let mut stream = connect(addr);
    let head = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13";
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n{head}\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .unwrap();
    // A text of two bytes under a mask of zeros.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).unwrap();
    let (mut received, mut chunk) = (Vec::new(), [0; 1024]);
    // The answer is a frame of text without a mask.
    while received.windows(4).position(|end| end == b"\r\n\r\n").is_none_or(|end| received.len() <= end + 6) {
        let n = stream.read(&mut chunk).unwrap();
        assert!(n > 0, "closed: {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&chunk[..n]);
    }
    assert!(received.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&received));
}

/// actix-ws leaves the session to a task of the service's own. Nothing measures that task, unless
/// it is given to `watch`. Otherwise it is observed while it waits in a system call.
#[test]
fn a_session_of_a_websocket_is_measured_if_it_is_watched() {
    let fixture = Fixture::start();
    let data = web::Data::new(fixture.watchdog.clone());
    let server = fixture.serve(1, move |config| {
        config.app_data(data.clone()).route("/ws/{kind}", web::get().to(upgrade));
    });
    talk(server.addr, "/ws/watched");
    let is_measured = |stall: &Stall| stall.certainty == Certainty::Measured;
    let stall = fixture.collected.wait(is_measured).expect("a stall of the session");
    assert!(stall.site.to_string().contains("tests/http/streams.rs") && stall.route.is_none(), "{stall}");
    fixture.wait_requests("/ws/{kind}", &[("GET", "1xx", 1)]);

    let stall = fixture.observed(|| talk(server.addr, "/ws/plain"));
    assert!(stall.route.is_none() && stall.to_string().contains("in http::streams::session"), "{stall}");
}
