//! Helpers that pollwatch's integration tests share.
//!
//! Every wait is bounded by [`TIMEOUT`], and fails with a message. No helper waits for a fixed time
//! instead of a condition. A test that needs a free CPU runs under [`undisturbed`].

mod blocking;
mod driver;
pub mod external;
mod ground_truth;
mod http;
mod layer_fixture;
mod metrics;
mod processes;
mod repository;
mod runtimes;
pub mod schema;
#[cfg(target_os = "linux")]
pub mod sigstop;
mod stalls;
mod waiting;
pub mod watched;

pub use blocking::*;
pub use driver::{KeptDriver, keep_driver};
pub use ground_truth::{GroundTruth, LOAD_THRESHOLD};
pub use http::*;
pub use layer_fixture::{LAYER_WORKERS, LayerFixture};
pub use metrics::Metrics;
pub use processes::*;
pub use repository::*;
pub use runtimes::*;
pub use stalls::*;
pub use waiting::*;
