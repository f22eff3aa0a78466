//! The HTTP server of all instances.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::model::Kind;
use crate::page;
use crate::service::Service;

/// What Prometheus' text format is called.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

struct Fleet {
    instances: usize,
    addr: SocketAddr,
    services: Vec<(Kind, Option<Service>)>,
}

pub(crate) fn main() -> ExitCode {
    let (instances, addr) = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("fleet: {text}; --instances N (200) --listen ADDRESS (127.0.0.1:9500)");
            return ExitCode::from(2);
        }
    };
    match serve(instances, addr) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(usize, SocketAddr), String> {
    let (mut instances, mut addr) = (200, SocketAddr::from(([127, 0, 0, 1], 9500)));
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--instances" => instances = value.parse().map_err(|e| format!("{flag} {value}: {e}"))?,
            "--listen" => addr = value.parse().map_err(|e| format!("{flag} {value}: {e}"))?,
            _ => return Err(format!("unknown flag {flag:?}")),
        }
    }
    Ok((instances, addr))
}

fn serve(instances: usize, addr: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let services = Kind::ALL.into_iter().map(|kind| Ok((kind, kind.start()?)));
    let services = services.collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let app = Router::new()
        .route("/targets", get(targets))
        .route("/services", get(services_page))
        .route("/instances/{n}/metrics", get(metrics))
        .with_state(Arc::new(Fleet { instances, addr, services }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{instances} instances: http://{addr}/targets");
    runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await })?;
    Ok(())
}

/// One group of targets for each instance, each with its own path and labels.
async fn targets(State(fleet): State<Arc<Fleet>>) -> impl IntoResponse {
    let group = |n: usize| {
        let (kind, addr) = (Kind::of(n), fleet.addr);
        let job = kind.size().job;
        format!(
            r#"{{"targets":["{addr}"],"labels":{{"__metrics_path__":"/instances/{n}/metrics","job":"{job}","instance":"{job}-{n}:9464"}}}}"#
        )
    };
    let groups: Vec<String> = (0..fleet.instances).map(group).collect();
    ([(CONTENT_TYPE, "application/json")], format!("[{}]\n", groups.join(",\n")))
}

/// One line for each service: its kind, and the address of its own pages.
async fn services_page(State(fleet): State<Arc<Fleet>>) -> String {
    let line = |(kind, service): &(Kind, Option<Service>)| {
        let addr = service.as_ref()?.watchdog.local_addr()?;
        Some(format!("{kind:?} {addr}\n"))
    };
    fleet.services.iter().filter_map(line).collect()
}

async fn metrics(State(fleet): State<Arc<Fleet>>, Path(n): Path<usize>) -> Result<impl IntoResponse, StatusCode> {
    let is_of_instance = |(kind, _): &&(Kind, Option<Service>)| *kind == Kind::of(n);
    let service = fleet.services.iter().find(is_of_instance).and_then(|(_, service)| service.as_ref());
    let service = service.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(([(CONTENT_TYPE, TEXT_FORMAT)], page::of_instance(&service.watchdog.metrics_text(), n)))
}
