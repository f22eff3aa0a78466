//! The tower layer, beneath real servers with real clients: which route a stall is told under, and what is counted of it.

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
mod sampled;
mod shed;
