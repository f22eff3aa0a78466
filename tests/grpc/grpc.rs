//! Tests of the tower layer with tonic: unary calls and streams in both directions over HTTP/2,
//! where requests share a connection.

use std::net::SocketAddr;

use futures_util::{Stream, StreamExt};
use pollwatch::Watchdog;
use tokio::task::JoinSet;
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tower::Service;

use test_support::*;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const TALK: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const ROUTES: [&str; 3] = [CHECK, WATCH, TALK];

/// Services whose methods block on demand.
#[derive(Clone, Default)]
struct BlockingServices(GroundTruth);

const BLOCK: &str = "block";
const FAIL: &str = "fail";

#[tonic::async_trait]
impl Health for BlockingServices {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        yield_once().await;
        let service = request.into_inner().service;
        self.0.visit(CHECK, service == BLOCK);
        if service == FAIL {
            Err(Status::internal("on purpose"))
        } else {
            Ok(Response::new(HealthCheckResponse::default()))
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (truth, service) = (self.0.clone(), request.into_inner().service);
        let stream = futures_util::stream::iter(0..3).map(move |i| {
            truth.visit(WATCH, i == 1 && service == BLOCK);
            Ok(HealthCheckResponse { status: i })
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl ServerReflection for BlockingServices {
    type ServerReflectionInfoStream = BoxStream<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let truth = self.0.clone();
        let answers = request.into_inner().map(move |asked| {
            let host = asked?.host;
            truth.visit(TALK, host == BLOCK);
            Ok(ServerReflectionResponse { valid_host: host, ..Default::default() })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn serve(fixture: &LayerFixture, answers: BlockingServices) -> SocketAddr {
    let server = Server::builder()
        .layer(fixture.watchdog.layer())
        .add_service(HealthServer::new(answers.clone()))
        .add_service(ServerReflectionServer::new(answers));
    fixture.serve(|listener| server.serve_with_incoming(TcpIncoming::from(listener)))
}

async fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.expect("the server accepts")
}

async fn count<T>(answer: Result<Response<Streaming<T>>, Status>) -> usize {
    answer.expect("an answer").into_inner().map(|message| message.expect("a message")).count().await
}

/// Calls a route once. The handler blocks if `block`.
async fn call(channel: Channel, route: &str, block: bool) {
    let service = if block { BLOCK } else { "fast" }.to_owned();
    match route {
        CHECK => {
            HealthClient::new(channel).check(HealthCheckRequest { service }).await.expect("an answer");
        }
        WATCH => assert_eq!(count(HealthClient::new(channel).watch(HealthCheckRequest { service }).await).await, 3),
        _ => {
            let asked = ["before", &service, "after"]
                .map(|host| ServerReflectionRequest { host: host.into(), ..Default::default() });
            let answers = talk(channel, futures_util::stream::iter(asked)).await;
            assert_eq!(count(answers).await, 3);
        }
    }
}

async fn talk(
    channel: Channel,
    asked: impl Stream<Item = ServerReflectionRequest> + Send + 'static,
) -> Result<Response<Streaming<ServerReflectionResponse>>, Status> {
    ServerReflectionClient::new(channel).server_reflection_info(asked).await
}

#[test]
fn every_stall_of_tonic_has_its_route() {
    const CONNECTIONS: usize = 64;
    /// The concurrent streams of each connection.
    const STREAMS: usize = 2;
    const REQUESTS: usize = 15;
    let fixture = LayerFixture::start_with(Watchdog::builder().threshold(LOAD_THRESHOLD).capture_stacks(false));
    let truth = GroundTruth::default();
    let addr = serve(&fixture, BlockingServices(truth.clone()));
    let drive = async move {
        let mut all = JoinSet::new();
        for connection in 0..CONNECTIONS {
            let channel = channel(addr).await;
            for stream in 0..STREAMS {
                let channel = channel.clone();
                all.spawn(async move {
                    for i in 0..REQUESTS {
                        let route = ROUTES[(connection + stream + i) % ROUTES.len()];
                        call(channel.clone(), route, (connection + i) % 4 == 0).await;
                    }
                });
            }
        }
        while let Some(result) = all.join_next().await {
            result.expect("all are answered");
        }
    };
    within_timeout("the load", move || current_thread().build().unwrap().block_on(drive));
    truth.check(&fixture);
    for route in ROUTES {
        fixture.wait_requests(route, &[("POST", "2xx", (CONNECTIONS * STREAMS * REQUESTS / ROUTES.len()) as u64)]);
    }
    fixture.assert_slots_are_empty();
}

/// The gRPC status is in the trailers, which are unchanged. The request is counted by its HTTP
/// status.
#[test]
fn trailers_and_errors_are_passed_on() {
    let fixture = LayerFixture::start();
    let addr = serve(&fixture, BlockingServices::default());
    within_timeout("the calls", move || {
        current_thread().build().unwrap().block_on(async {
            let mut client = HealthClient::new(channel(addr).await);
            let failed = client.check(HealthCheckRequest { service: FAIL.into() }).await.unwrap_err();
            assert_eq!((failed.code(), failed.message()), (tonic::Code::Internal, "on purpose"));
            let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
            while stream.message().await.unwrap().is_some() {}
            assert!(stream.trailers().await.unwrap().is_some(), "the stream has trailers");
        });
    });
    fixture.wait_requests(CHECK, &[("POST", "2xx", 1)]);
    fixture.wait_requests(WATCH, &[("POST", "2xx", 1)]);
}

/// Clients invent more methods than the limit of routes. The real ones, called afterwards, still
/// have their own routes.
#[test]
fn a_flood_of_invented_methods_does_not_displace_real_ones() {
    const MAX_ROUTES: usize = 8;
    const FLOOD: usize = 500;
    let fixture = LayerFixture::start_with(Watchdog::builder().threshold(THRESHOLD).max_routes(MAX_ROUTES));
    let addr = serve(&fixture, BlockingServices::default());
    within_timeout("the calls", move || {
        current_thread().build().unwrap().block_on(async {
            let mut channel = channel(addr).await;
            for i in 0..FLOOD {
                let request = http::Request::post(format!("http://{addr}/made.up.Service{i}/Method"))
                    .header("content-type", "application/grpc")
                    .body(tonic::body::Body::empty())
                    .unwrap();
                std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
                let answer = channel.call(request).await.unwrap();
                assert_eq!(answer.headers()["grpc-status"], "12");
            }
            for route in ROUTES.into_iter().cycle().take(30) {
                call(channel.clone(), route, false).await;
            }
        });
    });
    // The first call of each route may be counted before the method was known to exist.
    for route in ROUTES {
        fixture.wait_requests(route, &[("POST", "2xx", 10)]);
    }
    let snapshot = fixture.watchdog.snapshot();
    assert!(snapshot.routes.len() <= MAX_ROUTES + 2, "{:#?}", snapshot.routes);
    assert!(snapshot.watchdog.routes_overflowed >= (FLOOD - MAX_ROUTES) as u64);
    let all = snapshot.routes.iter().flat_map(|route| &route.requests).map(|requests| requests.count).sum::<u64>();
    assert_eq!(all, (FLOOD + 30) as u64, "none is lost: {:#?}", snapshot.routes);
}
