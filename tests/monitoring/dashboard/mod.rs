//! Tests of `dashboards/pollwatch.json`: its source generates it, it matches Grafana's schema, each
//! panel is complete, and each query has a result in a real Prometheus.

mod fixture;
mod model;
mod queries;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use model::{Dashboard, between, names_of};
use test_support::{is_installed, path, read, skipped};

#[test]
fn the_dashboard_is_generated_from_its_source() {
    if !is_installed("python3") {
        return;
    }
    let output = Command::new("python3").arg("-B").arg(path("dashboards/make.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (made, is) = (String::from_utf8(output.stdout).unwrap(), read("dashboards/pollwatch.json"));
    let line = made.lines().zip(is.lines()).position(|(a, b)| a != b).unwrap_or(0) + 1;
    assert!(made == is, "differs from line {line} on: python3 -B dashboards/make.py > dashboards/pollwatch.json");
}

/// Runs the TypeScript compiler on a dashboard. Returns whether it succeeds, and its output.
fn type_checked(dashboard: &Path) -> (bool, String) {
    let run = |arguments: &[&str]| {
        let output = Command::new("node").args(arguments).current_dir(path("dashboards/check")).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (written, printed) = run(&["typed.mjs", dashboard.to_str().unwrap()]);
    assert!(written, "{printed}");
    run(&["node_modules/typescript/bin/tsc"])
}

#[test]
fn the_dashboard_matches_grafanas_schema() {
    if !is_installed("node") {
        return;
    }
    if !path("dashboards/check/node_modules/@grafana/schema").exists() {
        return skipped("no Grafana schema here: `npm ci` in dashboards/check, which .ci/run does");
    }
    // The check rejects a wrong value, a wrong name, and a missing field.
    let right = read("dashboards/pollwatch.json");
    let broken = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.json");
    for (part, wrong) in [
        (r#""colorMode": "value""#, r#""colorMode": "vaule""#),
        (r#""lineWidth": 1"#, r#""lineWitdh": 1"#),
        (r#""schemaVersion": 39,"#, ""),
    ] {
        assert!(right.contains(part), "{part}");
        std::fs::write(&broken, right.replacen(part, wrong, 1)).unwrap();
        let (content, printed) = type_checked(&broken);
        assert!(!content && printed.contains("error TS"), "{wrong}: {printed}");
    }
    std::fs::remove_file(&broken).unwrap();
    let (content, printed) = type_checked(&path("dashboards/pollwatch.json"));
    assert!(content, "{printed}");
}

#[test]
fn each_panel_has_a_description_a_unit_and_a_legend() {
    let dashboard = Dashboard::read();
    let units = ["s", "short", "percentunit", "cps", "reqps"];
    let (mut titles, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in &dashboard.panels {
        let title = &panel.title;
        let row = dashboard.row_of(panel);
        assert!(titles.insert((row.to_owned(), title.to_owned())), "two panels in {row} are called {title}");
        assert!(ids.insert(panel.json["id"].as_u64()), "{title}: two panels with one id");
        let description = panel.json["description"].as_str().unwrap_or("");
        assert!(description.len() > 20 && description.ends_with('.'), "{title}: {description:?} describes nothing");
        let unit = panel.json["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or("");
        assert!(units.contains(&unit) || unit.starts_with("suffix: "), "{title}: the unit {unit:?}");
        for target in &panel.targets {
            // Over several instances, a sum of shares is no share.
            let is_by_instance = between(&target.expr, "by (", ")").any(|labels| labels.contains("instance"));
            let is_sum = target.expr.starts_with("sum") && !target.expr.contains(" / ") && !is_by_instance;
            assert!(unit != "percentunit" || !is_sum, "{title}: {}", target.expr);
            // A ranking at each point in time names more series than $top.
            assert!(target.json["range"] != true || !target.expr.starts_with("topk"), "{title}: {}", target.expr);
            assert!(!target.expr.contains("vector("), "{title}: a value without a series in {}", target.expr);
        }
        assert!(!panel.targets.is_empty(), "{title} asks nothing");
    }
    assert!(dashboard.rows.len() >= 8, "{:?}", dashboard.rows);
    for row in [
        "Overview",
        "Stalls by cause",
        "Whole runtimes",
        "Worst sites",
        "Worst routes",
        "Workers",
        "Schedule delay",
        "Tasks",
        "pollwatch itself",
    ] {
        assert!(dashboard.rows.iter().any(|(title, _)| title.starts_with(row)), "no row {row}");
    }
}

#[test]
fn panels_do_not_overlap() {
    let dashboard = Dashboard::read();
    let mut taken = BTreeSet::new();
    for panel in &dashboard.panels {
        let grid = |name: &str| panel.json["gridPos"][name].as_u64().unwrap();
        assert!(grid("x") + grid("w") <= 24, "{} is too far right", panel.title);
        for y in grid("y")..grid("y") + grid("h") {
            for x in grid("x")..grid("x") + grid("w") {
                assert!(taken.insert((x, y)), "{} lies on another", panel.title);
            }
        }
    }
}

#[test]
fn queries_use_the_variables() {
    let dashboard = Dashboard::read();
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    let metrics = model::metrics();
    let recorded = names_of(&read("dashboards/rules.yml"), "record: ");
    let mut used = BTreeSet::from(["datasource"]);
    for panel in &dashboard.panels {
        assert_eq!(panel.json["datasource"], source, "{}", panel.title);
        for target in &panel.targets {
            let (title, expr) = (&panel.title, target.expr.as_str());
            assert_eq!(target.json["datasource"], source, "{title}");
            // `$__rate_interval` is at least four scrapes at any zoom; `$__range` counts what is
            // shown.
            assert_eq!(expr.matches("rate(").count(), expr.matches("[$__rate_interval]").count(), "{title}: {expr}");
            assert_eq!(
                expr.matches("increase(").count(),
                expr.matches("[$__range] @ end()").count(),
                "{title}: {expr}"
            );
            assert_eq!(
                expr.matches('[').count(),
                expr.matches("rate(").count() + expr.matches("increase(").count(),
                "{title}: a range of its own in {expr}"
            );
            for (name, selector) in target.selectors() {
                let is_recorded = name.contains(':');
                assert!(!is_recorded || recorded.contains(&name), "{title}: {name} is not recorded");
                assert!(selector.contains(r#"job=~"$job""#), "{title}: {name}{{{selector}}}");
                let of_the_fleet = is_recorded || dashboard.row_of(panel).starts_with("Fleet");
                assert_eq!(
                    !of_the_fleet,
                    selector.contains(r#"instance=~"$instance""#),
                    "{title}: {name}{{{selector}}}"
                );
                let Some(metric) = metrics.get(&name) else {
                    let is_prometheus_own = name == "up" || name.starts_with("scrape_");
                    // The crate pollwatch-shed exports this one.
                    let is_of_shedding = name == "pollwatch_route_shed_total";
                    assert!(is_recorded || is_prometheus_own || is_of_shedding, "{title}: no metric {name}");
                    continue;
                };
                let has_runtime = metric.labels.split(", ").any(|label| label.trim_matches('`') == "runtime");
                assert_eq!(has_runtime, selector.contains(r#"runtime=~"$runtime""#), "{title}: {name}{{{selector}}}");
            }
            used.extend(dashboard.variables.iter().map(String::as_str).filter(|v| expr.contains(&format!("${v}"))));
        }
    }
    let declared: BTreeSet<&str> = dashboard.variables.iter().map(String::as_str).collect();
    assert_eq!(used, declared, "variables that are used, and those that there are");
    assert!(
        !read("dashboards/pollwatch.json").contains("DS_PROMETHEUS"),
        "an import would ask for a data source twice"
    );
}

/// A label with hundreds of values in a fleet is limited to the worst ones, and a legend only names
/// labels of its query.
#[test]
fn labels_with_many_values_are_limited() {
    let many = ["site", "route", "instance", "worker", "reason"];
    for panel in Dashboard::read().panels {
        for target in &panel.targets {
            let mut by: BTreeSet<&str> = between(&target.expr, "by (", ")").flat_map(|list| list.split(", ")).collect();
            let selectors = target.selectors();
            // A recorded series has its labels in its name.
            let levels = selectors.iter().filter_map(|(name, _)| name.split_once(':'));
            by.extend(levels.flat_map(|(level, _)| level.split('_')).filter(|_| !target.expr.contains("by (")));
            let plenty = !target.expr.starts_with("quantile") && many.iter().any(|label| by.contains(label));
            assert!(!plenty || target.expr.contains("topk($top, "), "{}: {}", panel.title, target.expr);
            for label in between(&target.legend, "{{", "}}") {
                assert!(by.contains(label), "{}: the legend's {label} is not in {}", panel.title, target.expr);
            }
        }
    }
}
