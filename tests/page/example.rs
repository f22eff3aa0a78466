//! Tests of a new user's first steps: the example runs, and its page is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::browser::Browser;
use crate::fixture::Example;

const ESCAPE: &str = "\u{e00c}";
const DOWN: &str = "\u{e015}";
const ENTER: &str = "\u{e007}";

/// Clients that request a route repeatedly until this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(url: String, clients: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let (url, stop) = (url.clone(), stop.clone());
            std::thread::spawn(move || {
                let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
                while !stop.load(Ordering::Relaxed) && agent.get(&url).call().is_ok() {}
            })
        };
        Load { threads: (0..clients).map(|_| client()).collect(), stop }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn shows_what_blocks_where_and_why() {
    let Some(browser) = Browser::start() else { return };
    let example = Example::start("127.0.0.1:0");
    browser.set_size(1360, 900);
    browser.open(&example.pages);
    browser.wait_for_state("live");
    browser.wait_for("a verdict", "return document.querySelector('#verdict').dataset.level !== 'loading'");
    assert!(browser.text("#workers").contains("worker 1"), "each worker has a strip");

    // Enough clients to keep both workers busy, so that a response shows them blocked.
    let load = Load::on(format!("{}/upstream/blocking", example.service), 4);
    let blocked = "const now = document.querySelector('#now');
        const strip = now.querySelector('.worker[data-state=stalled]');
        return document.querySelector('#verdict').dataset.level === 'blocked' && strip && now.innerText";
    let now = browser.wait_for("a worker is shown while it is blocked", blocked);
    let now = now.as_str().unwrap();
    assert!(now.contains("blocked, ") && now.contains("so far") && now.contains("/upstream/blocking"), "{now}");
    let worst = "const first = document.querySelector('.offender');
        return first?.innerText.includes('/upstream/blocking') && first.innerText";
    let worst = browser.wait_for("the worst is the route that blocks", worst);
    let worst = worst.as_str().unwrap();
    assert!(worst.contains("spawned by its handler"), "{worst}");
    if cfg!(all(feature = "capture", target_os = "linux", target_arch = "x86_64")) {
        let named = "const first = document.querySelector('.offender')?.innerText ?? '';
            return first.includes('service::routes::upstream_blocking') && first.includes('tokio::net') && first";
        let worst = browser.wait_for("the reason, the line and the advice", named);
        assert!(worst.as_str().unwrap().contains("examples/service/routes.rs:"), "{worst}");
        opens_a_stack(&browser);
    }
    drop(load);
    browser.screenshot("after-the-load");
    sorts_a_table(&browser);
    flame_graph(&browser);
    requests_only_its_server(&browser, &example.pages);
    assert_eq!(browser.console(), Vec::<String>::new());
    server_stops_and_restarts(&browser, example);
}

fn opens_a_stack(browser: &Browser) {
    // The list does not change from here on: something in it has the focus.
    let mark = "const cause = document.querySelector('.stall .cause-syscall');
        cause?.closest('li').setAttribute('data-picked', '');
        cause?.closest('summary').focus();
        return !!cause";
    browser.wait_for("a stall in a system call", mark);
    browser.keys("[data-picked] summary", ENTER);
    browser.wait_for("its stack", "return document.querySelector('[data-picked] .stack')");
    let body = browser.text("[data-picked] .stall-body");
    for wanted in ["service::routes::upstream_blocking", "examples/service/routes.rs:", "spawned under route", "recv"] {
        assert!(body.contains(wanted), "{wanted}: {body}");
    }
    let newer = "const more = document.querySelector('#stalls-newer'); return !more.hidden && more.innerText";
    browser.wait_for("the list does not change while it is read", newer);
    browser.click("#stalls-newer");
    assert_eq!(browser.count(".stall details[open]"), 0, "the list is updated on request");
}

fn sorts_a_table(browser: &Browser) {
    let heading =
        "[...document.querySelectorAll('#sites-table thead th')].findIndex((th) => th.innerText.startsWith('Polls'))";
    let column = browser.eval(&format!("return {heading}")).as_u64().unwrap() + 1;
    let cells = format!(
        "return [...document.querySelectorAll('#sites-table tbody td:nth-child({column}), #sites-table tbody th:nth-child({column})')]
            .map((cell) => Number(cell.innerText.replaceAll(',', '')))"
    );
    let sorted = |direction: &str| {
        let th = format!(
            "return document.querySelector('#sites-table thead th:nth-child({column})').getAttribute('aria-sort')"
        );
        assert_eq!(browser.eval(&th), direction);
        assert_eq!(browser.count("#sites-table th[aria-sort]"), 1);
        let polls: Vec<u64> = browser.eval(&cells).as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        assert!(polls.len() > 1);
        polls
    };
    let button = format!("#sites-table thead th:nth-child({column}) button");
    browser.click(&button);
    assert!(sorted("descending").is_sorted_by(|a, b| a >= b));
    browser.keys(&button, ENTER);
    assert!(sorted("ascending").is_sorted(), "by the keyboard, too");
}

fn flame_graph(browser: &Browser) {
    browser.eval("document.querySelector('#flame').scrollIntoView()");
    let box_of = |name: &str| {
        format!(
            "[...document.querySelectorAll('.box')].find((box) => box.getAttribute('aria-label').startsWith('{name}, '))"
        )
    };
    browser.wait_for("the graph is drawn", &format!("return {}", box_of("/upstream/blocking")));
    let total = browser.text("#flame-total");
    assert!(total.contains("blocked in total"), "{total}");
    for download in ["debug/pprof/stalls", "stalls/speedscope", "stalls/folded", "stalls/flamegraph"] {
        let status = browser.eval_async(&format!("return (await fetch('{download}')).status"));
        assert_eq!((status, browser.count(&format!("#flame a[href='{download}'][download]"))), (200.into(), 1));
    }

    browser.keys("#flame-search", "UPSTREAM");
    assert!(browser.text("#flame-total").contains("of the time matches “UPSTREAM”"));
    assert!(browser.count(".box.hit") > 0 && browser.count(".box.hit, .box.miss") == browser.count(".box"));
    browser.eval("const field = document.querySelector('#flame-search'); field.value = ''; field.dispatchEvent(new Event('input'))");
    assert_eq!(browser.count(".box.hit, .box.miss"), 0);

    // The box that is zoomed to has the full width.
    browser.eval(&format!("{}.id = 'zoomed'", box_of("/upstream/blocking")));
    browser.click("#zoomed");
    assert_eq!(browser.eval("return document.querySelector('#zoomed').style.width"), "100%");
    assert!(browser.text("#flame-total").contains("in /upstream/blocking"));
    assert_eq!(browser.eval("return document.querySelector('#flame-reset').disabled"), false);
    // The keyboard moves inwards from there, and out again.
    let level =
        |css: &str| browser.eval(&format!("return Number(document.querySelector('{css}').getAttribute('aria-level'))"));
    let outer = level("#zoomed").as_u64();
    browser.keys("#zoomed", DOWN);
    assert_eq!(level(".box:focus").as_u64(), outer.map(|level| level + 1));
    assert!(!browser.text("#flame-detail").is_empty());
    browser.keys(".box:focus", ENTER);
    browser.keys(".box:focus", ESCAPE);
    assert!(browser.text("#flame-total").contains("in /upstream/blocking"));
    browser.click("#flame-reset");
    assert!(browser.text("#flame-total").contains("blocked in total"));

    let options =
        |id: &str| browser.eval(&format!("return [...document.querySelector('#{id}').options].map((o) => o.value)"));
    let pick = |id: &str, value: &str| {
        let value = serde_json::json!(value);
        browser.eval(&format!(
            "const s = document.querySelector('#{id}'); s.value = {value}; s.dispatchEvent(new Event('change'))"
        ));
    };
    assert!(options("flame-route").as_array().unwrap().contains(&"/upstream/blocking".into()));
    let site = options("flame-site")
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .find(|s| s.contains("routes.rs"))
        .map(str::to_owned);
    pick("flame-route", "/upstream/blocking");
    pick("flame-site", &site.expect("the site that blocks"));
    assert!(browser.eval(&format!("return !!{}", box_of("/upstream/blocking"))) == true);
    for cause in options("flame-cause").as_array().unwrap().iter().filter_map(Value::as_str).filter(|c| *c != "\n") {
        pick("flame-cause", cause);
        let legend = browser.text("#flame-legend");
        assert!(legend.is_empty() || (legend.contains(cause) && browser.count("#flame-legend li") == 1), "{legend}");
    }
    for id in ["flame-route", "flame-site", "flame-cause"] {
        pick(id, "\n");
    }
    assert_eq!(browser.text("#flame-total").split(" blocked").next(), total.split(" blocked").next());
}

/// All requests go to the page's own server, at most once a second.
fn requests_only_its_server(browser: &Browser, pages: &str) {
    let resources = browser.eval("return performance.getEntriesByType('resource').map((r) => [r.name, r.startTime])");
    let resources = resources.as_array().unwrap();
    assert!(resources.iter().all(|r| r[0].as_str().unwrap().starts_with(pages)), "{resources:?}");
    let sent: Vec<f64> = resources
        .iter()
        .filter(|r| ["live", "live/profile"].contains(&r[0].as_str().unwrap().trim_start_matches(pages)))
        .map(|r| r[1].as_f64().unwrap())
        .collect();
    assert!(sent.len() > 3);
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] > 990.0), "{sent:?}");
}

fn server_stops_and_restarts(browser: &Browser, example: Example) {
    let listens = example.listens();
    drop(example);
    browser.wait_for_state("disconnected");
    let banner = browser.text("#banner");
    assert!(banner.contains("No connection to the server since ") && banner.contains("Connect now"), "{banner}");
    assert!(banner.contains("the latest known data"), "{banner}");
    assert!(browser.count(".stall") > 0, "known stalls stay");
    browser.wait_for(
        "the next attempt is announced",
        "return /Next attempt in \\d+ s/.test(document.querySelector('#banner').innerText)",
    );
    browser.screenshot("disconnected");
    let _again = Example::start(&listens);
    browser.click("#banner-action");
    browser.wait_for_state("live");
    assert!(browser.text("#banner").is_empty());
    browser.wait_for(
        "the new process has a history of its own",
        "return document.querySelectorAll('.stall').length === 0",
    );
    // Chromium itself logs each failed connection: refused, or reset where the server stopped while
    // it responded.
    let is_pages = |line: &String| !line.contains("Failed to load resource: net::ERR_");
    let pages: Vec<_> = browser.console().into_iter().filter(is_pages).collect();
    assert_eq!(pages, Vec::<String>::new());
}
