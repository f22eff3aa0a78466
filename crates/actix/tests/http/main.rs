//! The middleware in real servers, over TCP.

mod fixture;
mod load;
mod outcomes;
mod routes;
mod streams;
mod workers;
