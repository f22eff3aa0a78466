//! The run of a test with `#[pollwatch::test]`.

use std::time::Duration;

use tokio::runtime::Builder;

use crate::testing::Check;

/// The arguments of `#[pollwatch::test]`.
#[derive(Debug)]
pub struct Test {
    name: &'static str,
    check: Check,
}

impl Default for Test {
    fn default() -> Self {
        Test { name: "test", check: Check::new() }
    }
}

#[allow(missing_docs, reason = "the documentation is that of the attribute")]
impl Test {
    pub fn new() -> Test {
        Test::default()
    }

    pub fn name(mut self, name: &'static str) -> Test {
        self.name = name;
        self
    }

    pub fn threshold(mut self, threshold: Duration) -> Test {
        self.check = self.check.limit(threshold);
        self
    }

    #[track_caller]
    pub fn run<F: Future>(self, builder: Builder, body: F) -> F::Output {
        self.check.run_on(self.name, builder, body)
    }

    #[track_caller]
    pub fn run_local<F: Future>(self, builder: Builder, body: F) -> F::Output {
        self.check.run_on_local(self.name, builder, body)
    }
}
