//! The symptom: health checks time out under load, and the orchestrator restarts a service that has
//! nothing to do.
//!
//! A check queries a database with a driver that is not async, and blocks its worker. The layer
//! names the gRPC method:
//!
//! ```sh
//! cargo run -p pollwatch-example-grpc --example grpc            # until Ctrl-C
//! cargo run -p pollwatch-example-grpc --example grpc -- --once  # a request, and exit
//! ```
//!
//! Then: `grpc_health_probe -addr localhost:50051` and `curl localhost:9464/metrics`.

use std::error::Error;
use std::time::Duration;

use pollwatch::Watchdog;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

struct Database;

#[tonic::async_trait]
impl Health for Database {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        // The driver waits for the answer.
        std::thread::sleep(Duration::from_millis(200));
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("use Check"))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let once = std::env::args().any(|arg| arg == "--once");
    let listen = if once { "127.0.0.1:0" } else { "127.0.0.1:9464" };
    let watchdog = Watchdog::builder().listen(listen).start()?;
    let runtime = watchdog.runtime("main").enable_all().build()?;

    let listener = runtime.block_on(TcpListener::bind(if once { "127.0.0.1:0" } else { "127.0.0.1:50051" }))?;
    let addr = listener.local_addr()?;
    let server = Server::builder()
        .layer(watchdog.layer())
        .add_service(HealthServer::new(Database))
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = runtime.spawn(watchdog.watch(server));
    println!("the service: {addr}   its metrics: http://{}/metrics", watchdog.local_addr().unwrap());
    if !once {
        return Ok(runtime.block_on(server)??);
    }

    let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    client.block_on(async {
        let channel = Endpoint::from_shared(format!("http://{addr}"))?.connect().await?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
        println!("the service says that it is {:?}", answer.into_inner().status());
        Ok::<_, Box<dyn Error>>(())
    })?;
    // A stall is reported as resolved shortly after its end.
    while watchdog.stalls().iter().all(|stall| stall.phase != pollwatch::Phase::Resolved) {
        std::thread::sleep(Duration::from_millis(10));
    }
    for stall in watchdog.stalls() {
        println!("it blocked in {} for {:?}", stall.route.as_deref().unwrap_or("no method"), stall.elapsed);
    }
    Ok(())
}
