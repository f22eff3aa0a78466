//! Asks the server, on a thread of its own: one that does not answer must not take the keys away.

use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::text::clean;

/// The server answers while every worker is blocked: in milliseconds, if it is there.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is understood of `/live`.
const SCHEMA: u64 = 1;

/// `host:port` is enough.
pub(crate) fn complete(url: &str) -> Result<String, String> {
    let url = url.trim_end_matches('/');
    match url.split_once("://") {
        Some(("http", rest)) if !rest.is_empty() => Ok(url.into()),
        Some((scheme, _)) => Err(format!("only http is spoken, not {scheme:?}")),
        None if url.is_empty() => Err("an empty address".into()),
        None => Ok(format!("http://{url}")),
    }
}

pub(crate) struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
    pub(crate) fn new(url: &str) -> Client {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build();
        Client { agent: config.into(), url: url.into() }
    }

    /// What the server tells now; an error is a sentence for the user.
    pub(crate) fn look(&self) -> Result<Value, String> {
        let url = format!("{}/live", self.url);
        let unreachable = |error: ureq::Error| format!("{}: {}", self.url, clean(&error.to_string()));
        let mut response = self.agent.get(&url).call().map_err(unreachable)?;
        let body = response.body_mut().read_to_string().map_err(unreachable)?;
        if response.status() != 200 {
            return Err(format!("{url} answers {}: is this pollwatch's server?", response.status().as_u16()));
        }
        let live: Value = serde_json::from_str(&body).map_err(|_| format!("{url} is not what pollwatch tells"))?;
        match live["schema"].as_u64() {
            Some(SCHEMA) => Ok(live),
            Some(other) => Err(format!("{url} tells schema {other}: this top knows {SCHEMA}")),
            None => Err(format!("{url} is not what pollwatch tells")),
        }
    }
}

type News = Result<Value, String>;

/// Looks again and again. Only the latest is kept: whoever draws slowly misses some.
pub(crate) struct Watch {
    latest: Arc<Mutex<Option<News>>>,
}

impl Watch {
    pub(crate) fn start(client: Client, every: Duration) -> Watch {
        let latest = Arc::new(Mutex::new(None));
        let ours = latest.clone();
        // Ends with the process.
        thread::spawn(move || {
            loop {
                let news = client.look();
                *lock(&ours) = Some(news);
                thread::sleep(every);
            }
        });
        Watch { latest }
    }

    pub(crate) fn has_news(&self) -> bool {
        lock(&self.latest).is_some()
    }

    pub(crate) fn news(&self) -> Option<News> {
        lock(&self.latest).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
