//! Tests of tasks that a handler spawns by plain `tokio::spawn`: the sessions of axum's WebSockets,
//! the producers of server-sent events, and the tasks that these spawn. Their stalls are reported
//! as spawned under the route of the handler (`tokio_unstable`).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::routing;
use futures_util::{SinkExt, StreamExt};
use pollwatch::Stall;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

use test_support::*;

/// Answers each message after a block of so many milliseconds.
async fn session(mut socket: WebSocket) {
    while let Some(Ok(Message::Text(millis))) = socket.recv().await {
        block(Duration::from_millis(millis.parse().unwrap()));
        socket.send("done".into()).await.unwrap();
    }
}

/// Has another task block for each message, as a session with one task for each direction does.
async fn session_with_tasks(mut socket: WebSocket) {
    while let Some(Ok(Message::Text(millis))) = socket.recv().await {
        let millis = millis.parse().unwrap();
        tokio::spawn(async move { block(Duration::from_millis(millis)) }).await.unwrap();
        socket.send("done".into()).await.unwrap();
    }
}

/// Sends one event, whose task blocks before it.
async fn events() -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        block(THRESHOLD * 3);
        let _ = sender.send(Ok(Event::default().data("done"))).await;
    });
    let next = |mut receiver: tokio::sync::mpsc::Receiver<_>| async { Some((receiver.recv().await?, receiver)) };
    Sse::new(futures_util::stream::unfold(receiver, next))
}

fn serve(fixture: &LayerFixture) -> SocketAddr {
    let app = Router::new()
        .route("/chat/{room}", routing::get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(session)))
        .route("/feed", routing::get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(session)))
        .route("/tasks", routing::get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(session_with_tasks)))
        .route("/events/{kind}", routing::get(events))
        .route("/news", routing::get(events))
        .layer(fixture.watchdog.layer());
    fixture.serve(|listener| async move { axum::serve(listener, app).await })
}

type Client = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn connect(addr: SocketAddr, path: &str) -> Client {
    let stream = TcpStream::connect(addr).await.unwrap();
    tokio_tungstenite::client_async(format!("ws://{addr}{path}"), stream).await.expect("an upgrade").0
}

/// Has the session block, and waits for its answer.
async fn block_session(client: &mut Client, time: Duration) {
    client.send(tungstenite::Message::Text(time.as_millis().to_string().into())).await.unwrap();
    client.next().await.expect("an answer").unwrap();
}

/// Runs a client on an unwatched runtime of its own.
fn run<T: Send + 'static>(client: impl Future<Output = T> + Send + 'static) -> T {
    within_timeout("a client", move || current_thread().build().unwrap().block_on(client))
}

/// Returns the stalls that are not among `known`.
fn new_stalls(fixture: &LayerFixture, known: &[Stall]) -> Vec<Stall> {
    fixture.stalls().into_iter().filter(|stall| known.iter().all(|known| known.id != stall.id)).collect()
}

/// Asserts that one of the stalls is that of a task spawned under `route`, and that none is that of
/// a task of another route.
fn check(stalls: &[Stall], route: &str) -> Result<(), String> {
    let is_other = |stall: &&Stall| stall.parent_route.as_deref().is_some_and(|other| other != route);
    assert!(!stalls.iter().any(|stall| is_other(&stall)), "{stalls:#?}");
    // A busy machine may have a stall end before its worker is known, or add stalls of its own.
    match stalls.iter().find(|stall| stall.parent_route.as_deref() == Some(route)) {
        Some(stall) => {
            assert!(stall.route.is_none(), "{stall}");
            assert!(stall.to_string().contains(&format!(" spawned under route {route} · ")), "{stall}");
            Ok(())
        }
        None => Err(format!("{stalls:#?}")),
    }
}

#[test]
fn a_session_is_attributed_to_its_route() {
    if !HOOKS {
        return skipped("without hooks no spawn is observed");
    }
    let fixture = LayerFixture::start();
    let addr = serve(&fixture);
    // The sessions of all routes are spawned at one place, in axum.
    for (path, route) in [("/chat/7", "/chat/{room}"), ("/feed", "/feed"), ("/chat/8", "/chat/{room}")] {
        // A long block is found while it lasts, a short one mostly after its end.
        for time in [THRESHOLD * 10, THRESHOLD + Duration::from_millis(1)] {
            undisturbed(|| {
                let known = fixture.stalls();
                run(async move { block_session(&mut connect(addr, path).await, time).await });
                check(&new_stalls(&fixture, &known), route)
            });
        }
    }
    let metrics = fixture.metrics();
    for route in ["/chat/{room}", "/feed"] {
        assert_eq!(metrics.get("pollwatch_route_stalls_total", &[("route", route)]), 0.0, "no request has blocked");
        let count = metrics.get("pollwatch_route_spawned_stalls_total", &[("route", route)]);
        let seconds = metrics.get("pollwatch_route_spawned_stall_seconds_total", &[("route", route)]);
        assert!(count >= 2.0 && seconds >= (THRESHOLD * 10).as_secs_f64(), "{route}: {count}, {seconds}");
    }
    fixture.assert_slots_are_empty();
}

/// Two sessions at once, on one worker or on two: each stall has the route of its own session.
#[test]
fn sessions_that_interleave_are_not_mixed_up() {
    if !HOOKS {
        return skipped("without hooks no spawn is observed");
    }
    undisturbed(|| {
        let fixture = LayerFixture::start();
        let addr = serve(&fixture);
        run(async move {
            let (mut chat, mut feed) = (connect(addr, "/chat/1").await, connect(addr, "/feed").await);
            for _ in 0..5 {
                tokio::join!(block_session(&mut chat, THRESHOLD * 2), block_session(&mut feed, THRESHOLD * 4));
            }
        });
        let stalls = fixture.stalls();
        for (route, at_least) in [("/chat/{room}", THRESHOLD * 2), ("/feed", THRESHOLD * 4)] {
            let of_route: Vec<_> = stalls.iter().filter(|stall| stall.parent_route.as_deref() == Some(route)).collect();
            if of_route.len() != 5 {
                return Err(format!("{route}: {stalls:#?}"));
            }
            assert!(of_route.iter().all(|stall| stall.elapsed >= at_least), "{of_route:#?}");
        }
        Ok(())
    });
}

#[test]
fn a_task_of_a_session_is_attributed_to_the_route_of_the_session() {
    if !HOOKS {
        return skipped("without hooks no spawn is observed");
    }
    let fixture = LayerFixture::start();
    let addr = serve(&fixture);
    undisturbed(|| {
        let known = fixture.stalls();
        run(async move { block_session(&mut connect(addr, "/tasks").await, THRESHOLD * 3).await });
        let stalls = new_stalls(&fixture, &known);
        check(&stalls, "/tasks")?;
        let stall = stalls.iter().find(|stall| stall.parent_route.is_some()).unwrap();
        assert!(stall.site.to_string().contains("websocket.rs"), "{stall}");
        Ok(())
    });
}

#[test]
fn a_producer_of_events_is_attributed_to_its_route() {
    if !HOOKS {
        return skipped("without hooks no spawn is observed");
    }
    let fixture = LayerFixture::start();
    let addr = serve(&fixture);
    for (path, route) in [("/events/a", "/events/{kind}"), ("/news", "/news")] {
        undisturbed(|| {
            let known = fixture.stalls();
            let reply = get(addr, path);
            assert!(reply.body.contains("done"), "{reply:?}");
            check(&new_stalls(&fixture, &known), route)
        });
    }
}
