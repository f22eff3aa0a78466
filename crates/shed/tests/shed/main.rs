//! Load shedding of real servers with real clients: which requests are rejected, what they are
//! answered, and that it stops.

#[path = "../../../../tests/layer/client.rs"]
mod client;
mod example;
mod fixture;
mod grpc;
mod log;
mod overload;
mod readiness;
mod rejection;
