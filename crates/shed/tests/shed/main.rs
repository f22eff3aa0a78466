//! Load shedding of real servers with real clients: the start and the stop of shedding, the
//! rejected requests, and their responses.

#[path = "../../../../tests/layer/client.rs"]
mod client;
mod example;
mod fixture;
mod grpc;
mod log;
mod overload;
mod readiness;
mod rejection;
