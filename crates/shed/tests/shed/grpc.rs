//! A tonic server: calls are answered UNAVAILABLE, except those to the health service.

use std::time::Duration;

use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::ServerReflectionResponse;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};

use crate::fixture::{Fixture, all};
use test_support::*;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const TALK: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

struct Answers;

#[tonic::async_trait]
impl ServerReflection for Answers {
    type ServerReflectionInfoStream = BoxStream<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        _: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::empty())))
    }
}

async fn check(channel: Channel) -> HealthCheckResponse {
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    answer.expect("an answer").into_inner()
}

#[test]
fn shed_calls_are_unavailable() {
    let fixture = Fixture::new(&all().retry_after(Duration::from_millis(1_500)));
    let listener = fixture.listen();
    let addr = listener.local_addr().unwrap();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(fixture.layer.clone())
        .add_service(health)
        .add_service(ServerReflectionServer::new(Answers));
    fixture.runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let client = current_thread().build().unwrap();
    let channel = client.block_on(async {
        Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.expect("the server accepts")
    });
    let refusal = wait_for("a call is rejected", || {
        client.block_on(async {
            // The watchdog wakes its probe while the runtime polls.
            let work = fixture.runtime.spawn(fixture.watchdog.watch(async { block(Duration::from_millis(15)) }));
            let mut client = ServerReflectionClient::new(channel.clone());
            let answer = client.server_reflection_info(futures_util::stream::empty()).await;
            work.await.unwrap();
            answer.err()
        })
    });
    assert_eq!((refusal.code(), refusal.message()), (tonic::Code::Unavailable, "overloaded"));
    assert_eq!(refusal.metadata().get("grpc-retry-pushback-ms").unwrap(), "1500");
    for _ in 0..20 {
        client.block_on(check(channel.clone()));
    }
    assert_eq!((fixture.rejected(TALK), fixture.rejected(CHECK)), (1, 0));
}
