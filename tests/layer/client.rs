//! An HTTP/1 client on an unwatched runtime of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use test_support::*;

pub(crate) type Request = http::Request<Full<Bytes>>;
/// A response, or the error of a broken connection.
pub(crate) type Answer = hyper::Result<http::Response<Bytes>>;

pub(crate) fn get(path: &str) -> Request {
    request("GET", path)
}

pub(crate) fn request(method: &str, path: &str) -> Request {
    http::Request::builder().method(method).uri(path).header("host", "test").body(Full::default()).unwrap()
}

async fn connect(addr: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(addr).await.expect("the server accepts");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1");
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, request: Request) -> Answer {
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// Sends one request on a connection of its own.
pub(crate) fn ask_once(addr: SocketAddr, request: Request) -> Answer {
    within_timeout("a request", move || {
        current_thread().build().unwrap().block_on(async move { ask(&mut connect(addr).await, request).await })
    })
}

/// Opens `connections` connections at once and sends `requests` requests on each, one after the
/// other. A broken connection is replaced. `request` and `check` get the numbers of the connection
/// and of the request.
pub(crate) fn drive(
    addr: SocketAddr,
    (connections, requests): (usize, usize),
    request: impl Fn(usize, usize) -> Request + Send + Sync + 'static,
    check: impl Fn(usize, usize, Answer) + Send + Sync + 'static,
) {
    let (request, check) = (Arc::new(request), Arc::new(check));
    let drive = async move {
        let mut all = JoinSet::new();
        for connection in 0..connections {
            let (request, check) = (request.clone(), check.clone());
            all.spawn(async move {
                let mut sender = connect(addr).await;
                for i in 0..requests {
                    if sender.ready().await.is_err() {
                        sender = connect(addr).await;
                    }
                    let answer = ask(&mut sender, request(connection, i)).await;
                    check(connection, i, answer);
                }
            });
        }
        while let Some(result) = all.join_next().await {
            result.expect("a connection's requests are answered");
        }
    };
    within_timeout("the load", move || current_thread().build().unwrap().block_on(drive));
}
