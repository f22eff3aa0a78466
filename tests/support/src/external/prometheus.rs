//! A real Prometheus and its API.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::server::Server;
use crate::{read, wait_for};

/// A running Prometheus.
pub struct Prometheus(Server);

impl Prometheus {
    /// Starts a Prometheus with this configuration.
    pub fn start(config: &str) -> Prometheus {
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

    /// Requests a path of the API, which must succeed, and returns the data.
    #[track_caller]
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.0.addr);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request = parameters.iter().fold(agent.get(&url), |request, (name, value)| request.query(*name, *value));
        let body = request.call().unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path} {parameters:?}: {body}"));
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {body}");
        answer["data"].clone()
    }

    /// The values of all series of a query.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<f64> {
        let data = self.api("query", &[("query", query)]);
        let series = data["result"].as_array().unwrap();
        series.iter().map(|s| s["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Waits until a query has one series with a wanted value, and returns the value.
    #[track_caller]
    pub fn wait_for(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        wait_for(query, || match self.query(query)[..] {
            [value] if wanted(value) => Some(value),
            _ => None,
        })
    }
}

/// Writes a copy of `dashboards/alerts.yml` in which every longer `for` is one second, and returns
/// its path.
#[track_caller]
pub fn alerts_with_short_waits(dir: &Path) -> String {
    let alerts = read("dashboards/alerts.yml");
    let (mut waits, mut copy) = (0, String::new());
    for line in alerts.lines() {
        match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => {
                waits += 1;
                copy += &format!("{indent}for: 1s\n");
            }
            _ => copy += &format!("{line}\n"),
        }
    }
    assert!(waits > 5, "{waits} lines with a `for`:\n{alerts}");
    let file = dir.join("alerts.yml");
    std::fs::write(&file, copy).unwrap();
    file.display().to_string()
}
