//! What the rest of `measure` is made of. Nothing here imports another folder of `measure`.

pub(crate) mod clock;
pub(crate) mod frame;
pub(crate) mod histogram;
pub(crate) mod route;
pub(crate) mod site;
#[cfg(feature = "spans")]
pub(crate) mod span_slot;
#[cfg(tokio_unstable)]
pub(crate) mod spawn_routes;
pub(crate) mod task_id;
#[cfg(tokio_unstable)]
pub(crate) mod unpolled;
pub(crate) mod wake;
