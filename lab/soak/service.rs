//! An axum service with handlers that block, panic and fail, and its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::{any, get, post};
use futures_util::stream;
use pollwatch::Watchdog;
use tokio::task::{JoinSet, yield_now};
use tracing::Instrument;

use crate::ledger::Ledger;
use crate::run::{Deliberate, SERVICE};

#[derive(Clone)]
struct App {
    watchdog: Watchdog,
    ledger: Arc<Ledger>,
}

pub(crate) fn router(watchdog: &Watchdog, ledger: &Arc<Ledger>) -> Router {
    Router::new()
        .route("/quick", any(quick))
        .route("/task/{id}", get(task))
        .route("/stream", get(stream_of_chunks))
        .route("/blocks", get(blocks))
        .route("/in-place", get(in_place))
        .route("/fails", post(fails))
        .route("/panics", get(panics))
        .route("/waits", get(waits))
        .fallback(nowhere)
        .layer(watchdog.layer())
        .with_state(App { watchdog: watchdog.clone(), ledger: ledger.clone() })
}

fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        _ => "other",
    }
}

async fn quick(State(app): State<App>, method: Method) -> &'static str {
    app.ledger.visit("/quick", name(&method)).answer("2xx");
    "quick"
}

async fn task(State(app): State<App>) -> StatusCode {
    let visit = app.ledger.visit("/task/{id}", "GET");
    let work = async {
        for _ in 0..5 {
            yield_now().await;
        }
    };
    let done =
        app.ledger.spawn(&app.watchdog, SERVICE, work.instrument(tracing::info_span!("work", kind = "task"))).await;
    visit.answer(if done.is_ok() { "2xx" } else { "5xx" });
    if done.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::INTERNAL_SERVER_ERROR }
}

async fn stream_of_chunks(State(app): State<App>) -> Body {
    app.ledger.visit("/stream", "GET").answer("2xx");
    Body::from_stream(stream::unfold(0, |n| async move {
        yield_now().await;
        (n < 20).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1000])), n + 1))
    }))
}

async fn blocks(State(app): State<App>) -> &'static str {
    let visit = app.ledger.visit("/blocks", "GET");
    let _entered = tracing::info_span!("blocks", why = "on purpose").entered();
    std::thread::sleep(Duration::from_millis(15));
    visit.answer("2xx");
    "blocked"
}

async fn in_place(State(app): State<App>) -> &'static str {
    let visit = app.ledger.visit("/in-place", "GET");
    tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(2)));
    visit.answer("2xx");
    "in place"
}

async fn fails(State(app): State<App>, body: Bytes) -> (StatusCode, Bytes) {
    app.ledger.visit("/fails", "POST").answer("5xx");
    (StatusCode::BAD_GATEWAY, body)
}

async fn panics(State(app): State<App>) {
    let _visit = app.ledger.visit("/panics", "GET");
    std::panic::panic_any(Deliberate);
}

/// Waits until the client's time limit is over.
async fn waits(State(app): State<App>) {
    let _visit = app.ledger.visit("/waits", "GET");
    std::future::pending().await
}

async fn nowhere(State(app): State<App>, method: Method) -> StatusCode {
    app.ledger.visit("unmatched", name(&method)).answer("4xx");
    StatusCode::NOT_FOUND
}

/// Requests everything until `stop` is set, and returns the number of requests. All connections are
/// closed by then.
pub(crate) fn load(addr: SocketAddr, stop: &Arc<AtomicBool>) -> u64 {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 0 };
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for n in 0..16 {
            clients.spawn(client(n, addr, stop.clone()));
        }
        clients.join_all().await.into_iter().sum()
    })
}

async fn client(n: usize, addr: SocketAddr, stop: Arc<AtomicBool>) -> u64 {
    // Only a service that hangs takes half a minute.
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build();
    let Ok(client) = client else { return 0 };
    let url = |path: &str| format!("http://{addr}{path}");
    let mut asked = 0_u64;
    while !stop.load(Relaxed) {
        let request = match (asked as usize + n) % 32 {
            0 | 1 => client.get(url("/blocks")),
            2 => client.get(url("/panics")),
            3 => client.get(url("/waits")).timeout(Duration::from_millis(20)),
            4 | 5 => client.post(url("/fails")).body(vec![b'x'; 10_000]),
            6 => client.get(url("/in-place")),
            7..=9 => client.get(url("/stream")),
            10..=13 => client.get(url(&format!("/task/{asked}"))),
            14 => client.get(url(&format!("/nowhere/{asked}"))),
            15 => client.put(url("/quick")),
            _ => client.get(url("/quick")),
        };
        // The handler counts the outcome.
        if let Ok(response) = request.send().await {
            let _ = response.bytes().await;
        }
        asked += 1;
        if asked.is_multiple_of(8) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    asked
}
