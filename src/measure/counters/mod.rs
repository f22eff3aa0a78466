//! What each thread counts, by site and by route, and the queue of panics of tasks.

pub(crate) mod panics;
pub(crate) mod routes;
pub(crate) mod sites;
