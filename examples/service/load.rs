//! The load: HTTP requests from a separate runtime, which pollwatch does not watch.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The number of connections to the route under load. Each sends its next request when it has its
/// answer.
pub(crate) const CONNECTIONS: usize = 32;
/// The number of connections that request `/ping` at the same time: a route that needs almost
/// nothing.
const PINGS: usize = 4;
const PING_PAUSE: Duration = Duration::from_millis(10);
const SCRAPE_PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

/// The latencies of all answers, sorted.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// The measurements of one phase.
pub(crate) struct Outcome {
    pub(crate) route: Latencies,
    /// The time from the first request to the last answer.
    pub(crate) took: Duration,
    pub(crate) ping: Latencies,
    pub(crate) scrape: Latencies,
    /// The most workers that `/metrics` showed as blocked at one time.
    pub(crate) blocked_workers: u64,
}

pub(crate) struct Load {
    runtime: Runtime,
    client: reqwest::Client,
    service: SocketAddr,
    metrics: String,
}

impl Load {
    pub(crate) fn new(service: SocketAddr, pages: SocketAddr) -> Result<Load, Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Load { runtime, client, service, metrics: format!("http://{pages}/metrics") })
    }

    /// Puts one route under load, on this thread, and waits for the last answer.
    pub(crate) fn drive(&self, route: &str, duration: Duration) -> reqwest::Result<Outcome> {
        let start = Instant::now();
        let until = start + duration;
        let (route, ping) = (format!("http://{}{route}", self.service), format!("http://{}/ping", self.service));
        self.runtime.block_on(async {
            let requests = async {
                let latencies = self.repeat(CONNECTIONS, &route, Duration::ZERO, until).await?;
                Ok((latencies, start.elapsed()))
            };
            let pings = self.repeat(PINGS, &ping, PING_PAUSE, until);
            let ((route, took), ping, (scrape, blocked_workers)) =
                tokio::try_join!(requests, pings, self.scrape(until))?;
            Ok(Outcome { route, took, ping, scrape, blocked_workers })
        })
    }

    async fn repeat(
        &self,
        connections: usize,
        url: &str,
        pause: Duration,
        until: Instant,
    ) -> reqwest::Result<Latencies> {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (client, url) = (self.client.clone(), url.to_owned());
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    let (_, latency) = fetch(&client, &url).await?;
                    latencies.push(latency);
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
                reqwest::Result::Ok(latencies)
            });
        }
        let mut all = Vec::new();
        for latencies in tasks.join_all().await {
            all.extend(latencies?);
        }
        all.sort_unstable();
        Ok(Latencies(all))
    }

    /// Reads `/metrics` regularly, like Prometheus.
    async fn scrape(&self, until: Instant) -> reqwest::Result<(Latencies, u64)> {
        let (mut latencies, mut blocked) = (Vec::new(), 0);
        while Instant::now() < until {
            tokio::time::sleep(SCRAPE_PAUSE).await;
            let (text, latency) = fetch(&self.client, &self.metrics).await?;
            latencies.push(latency);
            let gauge = text.lines().find_map(|line| line.strip_prefix("pollwatch_blocked_workers{runtime=\"main\"} "));
            blocked = blocked.max(gauge.and_then(|value| value.parse().ok()).unwrap_or(0));
        }
        latencies.sort_unstable();
        Ok((Latencies(latencies), blocked))
    }
}

async fn fetch(client: &reqwest::Client, url: &str) -> reqwest::Result<(String, Duration)> {
    let start = Instant::now();
    let body = client.get(url).send().await?.error_for_status()?.text().await?;
    Ok((body, start.elapsed()))
}
