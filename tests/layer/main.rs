//! Tests of the tower layer with real servers and clients: the route of each stall, and the counts
//! of each route.

mod accounts;
mod attribution;
mod client;
mod fixture;
mod load;
mod names;
mod pages;
mod patterns;
