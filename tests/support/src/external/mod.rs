//! Programs of other packages that tests run: a real Prometheus and a real Alertmanager.

mod alertmanager;
mod prometheus;
mod server;

pub use alertmanager::{Alertmanager, Webhook};
pub use prometheus::{Prometheus, alerts_with_short_waits};
