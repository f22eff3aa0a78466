//! A real browser: Debian's Chromium, controlled through WebDriver by its chromedriver.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::wait_for;

/// The key of an element's id in WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const CHROMIUM: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// Serializes the tests: a browser needs all of a small machine.
static EXCLUSIVE: Mutex<()> = Mutex::new(());

pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    profile: PathBuf,
    _exclusive: MutexGuard<'static, ()>,
}

/// Starts a chromedriver, and returns it with its port.
fn driver() -> Option<(Child, u16)> {
    let mut driver =
        Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let output = BufReader::new(driver.stdout.take()?);
    let port = output.lines().map_while(Result::ok).find_map(|line| {
        let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    if port.is_none() {
        let _ = driver.kill();
        let _ = driver.wait();
    }
    Some((driver, port?))
}

impl Browser {
    /// Starts a browser; prints why and returns `None` where there is none.
    pub(crate) fn start() -> Option<Browser> {
        let exclusive = EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(binary) = CHROMIUM.into_iter().find(|path| PathBuf::from(path).exists()) else {
            println!("skipped: no chromium here");
            return None;
        };
        if Command::new("chromedriver").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: no chromedriver here (Debian: chromium-driver)");
            return None;
        }
        // The port that it gets for IPv4 may be in use for IPv6: it exits, and is started again.
        let (driver, port) = (0..20).find_map(|_| driver()).expect("chromedriver prints its port");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let profile = format!("pollwatch-page-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false);
        let mut browser = Browser {
            driver,
            agent: config.timeout_global(Some(Duration::from_secs(120))).build().into(),
            session: format!("http://127.0.0.1:{port}/session"),
            profile: std::env::temp_dir().join(profile),
            _exclusive: exclusive,
        };
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--no-proxy-server",
            &format!("--user-data-dir={}", browser.profile.display()),
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": args, "binary": binary },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = browser.command("POST", "", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("{}/{}", browser.session, session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    /// Sends one command; panics with the driver's message if it fails.
    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = http::Request::builder().method(method).uri(format!("{}{path}", self.session));
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let request = request.header("content-type", "application/json").body(body).expect("a request");
        let mut answer = self.agent.run(request).expect("the driver answers");
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().expect("its answer");
        let value = serde_json::from_str::<Value>(&text).expect("JSON")["value"].take();
        assert!(answer.status().is_success(), "{method} {path}: {}", value["message"]);
        value
    }

    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// Runs the body of a JavaScript function, and returns its result.
    #[track_caller]
    pub(crate) fn eval(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs the body of an async JavaScript function, and returns its result.
    #[track_caller]
    pub(crate) fn eval_async(&self, script: &str) -> Value {
        let script =
            format!("const done = arguments[0]; (async () => {{ {script} }})().then(done, (e) => done(`${{e}}`))");
        self.command("POST", "/execute/async", &json!({ "script": script, "args": [] }))
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let element = self.command("POST", "/element", &json!({ "using": "css selector", "value": css }));
        format!("/element/{}", element[ELEMENT].as_str().expect("an element"))
    }

    /// Clicks an element as a pointer does; fails when another element covers it.
    #[track_caller]
    pub(crate) fn click(&self, css: &str) {
        self.command("POST", &format!("{}/click", self.element(css)), &json!({}));
    }

    /// Types into an element, or presses a key (one of WebDriver's private code points).
    #[track_caller]
    pub(crate) fn keys(&self, css: &str, text: &str) {
        self.command("POST", &format!("{}/value", self.element(css)), &json!({ "text": text }));
    }

    /// Presses the tab key.
    #[track_caller]
    pub(crate) fn press_tab(&self) {
        let key = |kind: &str| json!({ "type": kind, "value": "\u{e004}" });
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": [key("keyDown"), key("keyUp")] });
        self.command("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// Returns the visible text of an element; empty if it is hidden or missing.
    #[track_caller]
    pub(crate) fn text(&self, css: &str) -> String {
        let script =
            format!("const e = document.querySelector({}); return e?.checkVisibility() ? e.innerText : ''", json!(css));
        self.eval(&script).as_str().expect("a text").to_owned()
    }

    #[track_caller]
    pub(crate) fn count(&self, css: &str) -> u64 {
        self.eval(&format!("return document.querySelectorAll({}).length", json!(css))).as_u64().expect("a number")
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, script: &str) -> Value {
        wait_for(what, || Some(self.eval(script)).filter(|value| !value.is_null() && *value != false))
    }

    #[track_caller]
    pub(crate) fn wait_for_state(&self, state: &str) {
        self.wait_for(&format!("the page is {state}"), &format!("return document.body?.dataset.state === '{state}'"));
    }

    #[track_caller]
    pub(crate) fn cdp(&self, command: &str, params: &Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    #[track_caller]
    pub(crate) fn set_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        self.cdp(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] }),
        );
    }

    /// Sets the inner size in CSS pixels; below 600 it is a phone.
    #[track_caller]
    pub(crate) fn set_size(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.cdp("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Returns the console's messages since the last call.
    #[track_caller]
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        let line = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        entries.as_array().expect("a list").iter().map(line).collect()
    }

    /// Writes the visible part as `NAME.png` to the folder in `POLLWATCH_SCREENSHOTS`, if set.
    #[track_caller]
    pub(crate) fn screenshot(&self, name: &str) {
        use base64::Engine;
        let Some(folder) = std::env::var_os("POLLWATCH_SCREENSHOTS") else { return };
        let picture = self.cdp("Page.captureScreenshot", &json!({ "format": "png" }));
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().expect("a picture"));
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), bytes.expect("base64"))
            .expect("the picture is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Closes the browser, which may have exited already.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
