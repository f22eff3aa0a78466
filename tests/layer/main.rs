//! The tower layer below real servers with real clients: the route of each stall, and what is
//! counted for it.

mod accounts;
mod attribution;
mod client;
mod fixture;
mod ground_truth;
mod grpc;
mod load;
mod names;
mod pages;
mod patterns;
