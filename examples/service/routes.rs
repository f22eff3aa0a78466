//! The service: two routes that block the event loop, and a fixed version of each.
//!
//! Each handler spawns its work as a task, so that a client that disconnects does not cancel it
//! halfway. `Watchdog::spawn` is `tokio::spawn` that is also measured in stable mode. A stall of
//! such a task names the route it was spawned under, where the layer is on the router. With
//! `tokio_unstable` plain `tokio::spawn` is measured as well, without a route.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pollwatch::Watchdog;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::render::Picture;

/// The routes to put under load, each before its fixed version.
pub(crate) const ROUTES: [&str; 4] = ["/render/blocking", "/render/fixed", "/upstream/blocking", "/upstream/fixed"];

#[derive(Clone)]
struct App {
    watchdog: Watchdog,
    picture: Picture,
    upstream: Arc<str>,
    blocking_client: ureq::Agent,
    async_client: reqwest::Client,
    cpus: Arc<Semaphore>,
}

pub(crate) fn router(watchdog: &Watchdog, upstream: SocketAddr) -> reqwest::Result<Router> {
    let app = App {
        watchdog: watchdog.clone(),
        picture: Picture::calibrated(),
        upstream: format!("http://{upstream}/").into(),
        // Neither client uses a proxy from the environment.
        blocking_client: ureq::Agent::config_builder().proxy(None).build().into(),
        async_client: reqwest::Client::builder().no_proxy().build()?,
        cpus: Arc::new(Semaphore::new(available_parallelism().map_or(1, |n| n.get()))),
    };
    Ok(Router::new()
        .route("/render/blocking", get(render_blocking))
        .route("/render/fixed", get(render_fixed))
        .route("/upstream/blocking", get(upstream_blocking))
        .route("/upstream/fixed", get(upstream_fixed))
        .route("/ping", get(|| async { "pong\n" }))
        .layer(watchdog.layer())
        .with_state(app))
}

/// Draws on the worker, which does nothing else for 20 ms.
async fn render_blocking(State(app): State<App>) -> Result<Vec<u8>, Failed> {
    let task = app.watchdog.spawn(async move { app.picture.draw() });
    Ok(task.await?)
}

/// Draws on a thread of the blocking pool. The worker serves other tasks meanwhile.
async fn render_fixed(State(app): State<App>) -> Result<Vec<u8>, Failed> {
    let task = app.watchdog.spawn(async move {
        // At most one picture for each CPU: the 512 threads of the blocking pool would compete with
        // the workers.
        let _cpu = app.cpus.acquire().await;
        spawn_blocking(move || app.picture.draw()).await
    });
    Ok(task.await??)
}

/// Waits for the upstream in a system call, which blocks the worker for 100 ms.
async fn upstream_blocking(State(app): State<App>) -> Result<String, Failed> {
    let task = app.watchdog.spawn(async move {
        let mut response = app.blocking_client.get(&*app.upstream).call()?;
        response.body_mut().read_to_string()
    });
    Ok(task.await??)
}

/// Waits for the upstream without blocking a worker.
async fn upstream_fixed(State(app): State<App>) -> Result<String, Failed> {
    let task = app.watchdog.spawn(async move {
        let response = app.async_client.get(&*app.upstream).send().await?;
        response.error_for_status()?.text().await
    });
    Ok(task.await??)
}

struct Failed(String);

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed(error.to_string())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0).into_response()
    }
}
