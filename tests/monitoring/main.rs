//! Tests of the exports with the programs of a monitoring system: Prometheus, promtool,
//! Alertmanager and Grafana's schema. A test whose program is missing reports that it was skipped.

mod alerts;
mod dashboard;
mod prometheus;
