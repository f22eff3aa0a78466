//! A real Alertmanager, and a webhook that collects what it sends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::server::Server;

/// A running Alertmanager.
pub struct Alertmanager(Server);

impl Alertmanager {
    /// Starts an Alertmanager that notifies only this webhook, at once.
    pub fn start(webhook: SocketAddr) -> Alertmanager {
        let config = format!(
            "route: {{receiver: test, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
             receivers: [{{name: test, webhook_configs: [{{url: 'http://{webhook}/', send_resolved: true}}]}}]\n"
        );
        Alertmanager(Server::start("alertmanager", |addr, dir| {
            let file = dir.join("alertmanager.yml");
            std::fs::write(&file, &config).unwrap();
            let mut command = Command::new("prometheus-alertmanager");
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.path={}", dir.join("data").display()))
                .arg(format!("--web.listen-address={addr}"))
                // No cluster.
                .arg("--cluster.listen-address=");
            command
        }))
    }

    /// The address on which it answers.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }
}

/// A webhook that collects each alert of each message, in order.
#[derive(Clone)]
pub struct Webhook {
    /// The address to which messages are posted.
    pub addr: SocketAddr,
    alerts: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    /// Starts a webhook on a thread that ends with the process.
    pub fn start() -> Webhook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let webhook = Webhook { addr: listener.local_addr().unwrap(), alerts: Arc::default() };
        let receiver = webhook.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                match receive(stream) {
                    Ok(message) => {
                        let alerts = message["alerts"].as_array().cloned().unwrap_or_default();
                        receiver.alerts.lock().unwrap().extend(alerts);
                    }
                    Err(error) => eprintln!("webhook: {error}"),
                }
            }
        });
        webhook
    }

    /// The latest message about an alert in this state (`firing`, `resolved`).
    pub fn latest(&self, alertname: &str, status: &str) -> Option<Value> {
        let alerts = self.alerts.lock().unwrap();
        let matches = |a: &&Value| a["labels"]["alertname"] == alertname && a["status"] == status;
        alerts.iter().rev().find(matches).cloned()
    }

    /// The names of all alerts received.
    pub fn names(&self) -> Vec<String> {
        let alerts = self.alerts.lock().unwrap();
        alerts.iter().map(|a| a["labels"]["alertname"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// Reads one POST request and answers it.
fn receive(stream: TcpStream) -> std::io::Result<Value> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(&stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(serde_json::from_slice(&body)?)
}
