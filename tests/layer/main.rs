//! Tests of the tower layer with real servers and clients: the route of each stall, and the counts
//! of each route.

mod accounts;
mod attribution;
mod client;
#[cfg(all(tokio_unstable, feature = "delays"))]
mod delays;
mod fixture;
mod load;
mod names;
mod pages;
mod patterns;
