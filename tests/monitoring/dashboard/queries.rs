//! Each query of the dashboard, evaluated by a real Prometheus that scrapes a service.

use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::fixture::Fixture;
use super::model::{self, Dashboard};
use test_support::external::Prometheus;
use test_support::{is_installed, read, scratch, wait_for};

/// The values of the dashboard's variables, as Grafana fills them in: the value of a label is a
/// regular expression.
struct VariableValues {
    job: &'static str,
    instance: String,
    runtime: &'static str,
}

impl VariableValues {
    fn fill(&self, expr: &str) -> String {
        // The longer names come first.
        let values = [
            ("$__rate_interval", "10s"),
            ("$__range", "1m"),
            ("$instance", &self.instance),
            ("$runtime", self.runtime),
            ("$job", self.job),
            ("$top", "5"),
        ];
        let filled = values.iter().fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value));
        assert!(!filled.contains('$'), "{filled}");
        filled
    }
}

/// True if the query has a number in its result, over the last half minute or now.
fn has_data(prometheus: &Prometheus, expr: &str, over_time: bool) -> bool {
    let data = if over_time {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let (start, end) = ((now - 30.0).to_string(), now.to_string());
        prometheus.api("query_range", &[("query", expr), ("start", &start), ("end", &end), ("step", "1")])
    } else {
        prometheus.api("query", &[("query", expr)])
    };
    let mut samples = data["result"].as_array().unwrap().iter().flat_map(|series| match &series["values"] {
        Value::Array(values) => values.clone(),
        _ => vec![series["value"].clone()],
    });
    samples.any(|sample| sample[1].as_str().is_some_and(|value| value != "NaN"))
}

/// The result of `label_values(SELECTOR, LABEL)` as Grafana requests it.
fn label_values(prometheus: &Prometheus, query: &str) -> Vec<String> {
    let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).expect(query);
    let (selector, label) = inside.rsplit_once(", ").unwrap();
    let values = prometheus.api(&format!("label/{label}/values"), &[("match[]", selector)]);
    values.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_query_has_a_result() {
    if !is_installed("prometheus") {
        return;
    }
    let fixture = Fixture::new();
    let dir = scratch(&format!("dashboard-{}", fixture.addr.port()));
    // The rules are unchanged, but evaluated each second.
    let rules = read("dashboards/rules.yml").replace("interval: 30s", "interval: 1s");
    assert!(rules.contains("interval: 1s") && !rules.contains("30s"));
    std::fs::write(dir.join("rules.yml"), rules).unwrap();
    std::fs::write(dir.join("alerts.yml"), read("dashboards/alerts.yml")).unwrap();
    // A port that was free a moment ago, on which no server answers.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let prometheus = Prometheus::start(&format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         scrape_configs: [{{job_name: pollwatch, static_configs: [{{targets: ['{}', '{dead}']}}]}}]\n",
        dir.join("*.yml").display(),
        fixture.addr,
    ));
    let dashboard = Dashboard::read();
    let all = VariableValues { job: ".*", instance: ".*".into(), runtime: ".*" };
    let one =
        VariableValues { job: "pollwatch", instance: fixture.addr.to_string().replace('.', r"\\."), runtime: "main" };

    for variable in dashboard.json["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            let query = all.fill(query);
            let wanted = match variable["name"].as_str().unwrap() {
                "job" => "pollwatch".into(),
                "instance" => fixture.addr.to_string(),
                _ => "main".to_owned(),
            };
            wait_for(&query, || label_values(&prometheus, &query).contains(&wanted).then_some(()));
        }
    }
    let metrics = model::metrics();
    let is_exported = |name: &String| metrics.get(name).is_none_or(|metric| metric.is_exported(name));
    for chosen in [&all, &one] {
        for panel in &dashboard.panels {
            for target in panel.targets.iter().filter(|t| t.selectors().iter().all(|(name, _)| is_exported(name))) {
                let query = chosen.fill(&target.expr);
                let over_time = target.json["range"] == true;
                wait_for(&format!("{}: {query}", panel.title), || {
                    has_data(&prometheus, &query, over_time).then_some(())
                });
            }
        }
        for annotation in dashboard.json["annotations"]["list"].as_array().unwrap() {
            let query = chosen.fill(annotation["expr"].as_str().unwrap());
            wait_for(&query, || has_data(&prometheus, &query, true).then_some(()));
        }
    }
    drop(prometheus);
    std::fs::remove_dir_all(dir).unwrap();
}
