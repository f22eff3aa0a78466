//! A real Alertmanager, and the end of its way: a webhook that keeps what it is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::child::Server;

pub(crate) struct Alertmanager(Server);

impl Alertmanager {
    /// Sends at once, to this webhook and to nobody else.
    pub(crate) fn start(webhook: SocketAddr) -> Alertmanager {
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
                // It is alone.
                .arg("--cluster.listen-address=");
            command
        }))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr
    }
}

/// What was sent: each alert in each message, in their order.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub(crate) addr: SocketAddr,
    alerts: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    pub(crate) fn start() -> Webhook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let webhook = Webhook { addr: listener.local_addr().unwrap(), alerts: Arc::default() };
        let ours = webhook.clone();
        // Ends with the test.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                match receive(stream) {
                    Ok(message) => {
                        let alerts = message["alerts"].as_array().cloned().unwrap_or_default();
                        ours.alerts.lock().unwrap().extend(alerts);
                    }
                    Err(error) => eprintln!("webhook: {error}"),
                }
            }
        });
        webhook
    }

    /// The latest message about an alert with this status (`firing`, `resolved`).
    pub(crate) fn latest(&self, alertname: &str, status: &str) -> Option<Value> {
        let alerts = self.alerts.lock().unwrap();
        let is_it = |a: &&Value| a["labels"]["alertname"] == alertname && a["status"] == status;
        alerts.iter().rev().find(is_it).cloned()
    }

    /// The names of all that came.
    pub(crate) fn names(&self) -> Vec<String> {
        let alerts = self.alerts.lock().unwrap();
        alerts.iter().map(|a| a["labels"]["alertname"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// One POST a connection.
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
