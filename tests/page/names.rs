//! Tests that names from the application stay text.

use std::time::Duration;

use axum::routing::get as on_get;
use pollwatch::Watchdog;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::browser::Browser;
use crate::support::*;

/// A name that, as markup, would end its element and leave a trace.
const MALICIOUS_NAME: &str =
    "</script></style>\"'><img src=x onerror=window.hacked=1><svg onload=window.hacked=2>\u{202e}";

#[test]
fn names_of_the_application_are_no_markup() {
    let Some(browser) = Browser::start() else { return };
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0");
    let watchdog = builder.start().unwrap();
    tracing_subscriber::registry().with(watchdog.span_layer()).init();
    let runtime = watchdog
        .runtime(MALICIOUS_NAME)
        .worker_threads(2)
        .enable_all()
        .thread_name(MALICIOUS_NAME.replace('\0', ""))
        .build()
        .expect("any name is accepted");
    let layer = watchdog.layer().route_by(|_| Some(MALICIOUS_NAME.into()));
    let span = || tracing::error_span!("span", name = MALICIOUS_NAME);
    let blocks = on_get(async move || {
        let _in = span().entered();
        pollwatch::allow_blocking(MALICIOUS_NAME, || block(Duration::from_millis(1)));
        block(THRESHOLD * 20);
    });
    let app = axum::Router::new().route("/", blocks).layer(layer);
    let addr = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        addr
    });
    browser.set_size(1360, 900);
    browser.open(&format!("http://{}/", watchdog.local_addr().unwrap()));
    browser.wait_for_state("live");
    // The page is checked while requests block.
    let client = std::thread::spawn(move || (0..6).for_each(|_| drop(get(addr, "/"))));
    browser.wait_for(
        "stalls are shown",
        "return document.querySelectorAll('.stall').length > 0 && document.querySelector('.offender')",
    );
    client.join().unwrap();
    browser.eval("document.querySelectorAll('.stall details, #self').forEach((details) => (details.open = true))");
    browser.eval("document.querySelector('#flame').scrollIntoView()");
    browser.wait_for("the flame graph", "return document.querySelectorAll('.box').length > 2");
    for (section, css) in [
        ("the runtime", ".runtime h3"),
        ("the worst offender", ".offender-name"),
        ("a stall", ".stall-where"),
        ("its span and thread", ".stall-body"),
        ("the routes", "#routes-table"),
        ("the flame graph", "#flame-graph"),
        ("allowed blocking", "#self-facts"),
        ("the runtimes' figures", "#runtimes"),
    ] {
        let text = browser.eval(&format!("return document.querySelector('{css}').textContent"));
        assert!(text.as_str().unwrap().contains("<img src=x onerror=window.hacked=1>"), "{section}: {text}");
    }
    let span = browser.text(".stall-body");
    assert!(span.contains("span{name=") && span.contains("thread"), "{span}");
    assert_eq!(browser.count("img, iframe, object, main script, main style"), 0);
    assert_eq!(browser.eval("return [window.hacked, document.scripts.length]"), serde_json::json!([null, 1]));
    assert_eq!(browser.console(), Vec::<String>::new());
    // The SVG picture is safe as a document of its own, too.
    browser.open(&format!("http://{}/stalls/flamegraph", watchdog.local_addr().unwrap()));
    assert_eq!(
        browser.eval("return [window.hacked, document.querySelectorAll('img').length]"),
        serde_json::json!([null, 0])
    );
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// The content security policy blocks scripts, should a name ever become markup.
#[test]
fn the_policy_blocks_foreign_content() {
    let Some(browser) = Browser::start() else { return };
    let watchdog = Watchdog::builder().log(false).listen("127.0.0.1:0").start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    let reply = get(addr, "/");
    let policy = &reply.headers["content-security-policy"];
    for part in
        ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.split("; ").any(|directive| directive == part), "{part}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    browser.open(&format!("http://{addr}/"));
    browser.wait_for_state("live");
    assert_eq!(browser.console(), Vec::<String>::new());
    browser.eval(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hacked=1><p id=p style=color:red>p</p>');
        const script = document.createElement('script');
        script.textContent = 'window.hacked = 2';
        document.body.append(script);",
    );
    let elsewhere =
        format!("return await fetch('http://127.0.0.1:{}/').then(() => 'sent', () => 'blocked')", addr.port() ^ 1);
    assert_eq!(browser.eval_async(&elsewhere), "blocked");
    let refused = wait_for("all are blocked", || Some(browser.console().len()).filter(|lines| *lines > 0));
    assert!(refused > 0);
    assert_eq!(
        browser
            .eval("return [window.hacked, getComputedStyle(document.querySelector('#p')).color === 'rgb(255, 0, 0)']"),
        serde_json::json!([null, false])
    );
}
