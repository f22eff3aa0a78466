//! A real Prometheus, and its answers.

use std::process::Command;

use serde_json::Value;

use super::child::Server;
use super::wait_for;

pub(crate) struct Prometheus(Server);

impl Prometheus {
    pub(crate) fn start(config: &str) -> Prometheus {
        Prometheus(Server::start("prometheus", |addr, dir| {
            let file = dir.join("prometheus.yml");
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new("prometheus");
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
                .arg(format!("--web.listen-address={addr}"));
            command
        }))
    }

    /// What a path of its API answers; it must be content with it.
    pub(crate) fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.0.addr);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request = parameters.iter().fold(agent.get(&url), |request, (name, value)| request.query(*name, *value));
        let body = request.call().unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path} {parameters:?}: {body}"));
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {body}");
        answer["data"].clone()
    }

    /// The values of a query's series.
    pub(crate) fn query(&self, query: &str) -> Vec<f64> {
        let data = self.api("query", &[("query", query)]);
        let series = data["result"].as_array().unwrap();
        series.iter().map(|s| s["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// The value of a query that has one series, once it is as wanted.
    pub(crate) fn wait_for(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        wait_for(query, || match self.query(query)[..] {
            [value] if wanted(value) => Some(value),
            _ => None,
        })
    }
}
