//! Tests of the states of the page: empty, paused, hidden, stopped; and of the page below a prefix.

use std::time::Duration;

use axum::Router;
use pollwatch::Watchdog;

use crate::browser::Browser;
use crate::fixture::serve;
use crate::support::*;

fn requests(browser: &Browser) -> u64 {
    let count = "return performance.getEntriesByType('resource').filter((r) => /live$|profile$/.test(r.name)).length";
    browser.eval(count).as_u64().unwrap()
}

#[test]
fn empty_paused_and_hidden() {
    let Some(browser) = Browser::start() else { return };
    let watchdog = Watchdog::builder().log(false).listen("127.0.0.1:0").start().unwrap();
    browser.set_size(1360, 900);
    browser.open(&format!("http://{}/", watchdog.local_addr().unwrap()));
    browser.wait_for_state("live");
    let page = browser.wait_for(
        "the empty page",
        "return document.querySelector('#verdict').dataset.level === 'idle' && document.body.innerText",
    );
    for text in
        ["No runtime is being watched", "No stalls yet", "No requests yet", "No polls yet", "No runtime is known yet"]
    {
        assert!(page.as_str().unwrap().contains(text), "{text}: {page}");
    }
    browser.screenshot("empty");
    let runtime = watchdog.build_runtime("late", multi_thread(1)).unwrap();
    runtime.block_on(async { watchdog.spawn(yields(3)).await.unwrap() });
    browser.wait_for("the runtime appears", "return document.querySelector('#workers').innerText.includes('late')");
    browser.wait_for("nothing is blocked", "return document.querySelector('#verdict').dataset.level === 'calm'");

    // A hidden page sends no requests.
    let sends_nothing = |why: &str| {
        // A request may be pending.
        wait_until("the last response has arrived", || {
            let before = requests(&browser);
            std::thread::sleep(Duration::from_millis(1500));
            requests(&browser) == before
        });
        let before = requests(&browser);
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(requests(&browser), before, "{why}");
    };
    let sends_again = || {
        let before = requests(&browser);
        wait_until("requests are sent again", || requests(&browser) > before + 1);
    };
    browser.click("#pause");
    assert_eq!(browser.eval("return document.body.dataset.state"), "paused");
    assert_eq!((browser.text("#pause"), browser.text("#status")), ("Resume".into(), "Paused".into()));
    sends_nothing("the page is paused");
    browser.click("#pause");
    sends_again();
    let hide = |hidden: bool| {
        browser.eval(&format!(
            "Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {hidden} }});
            document.dispatchEvent(new Event('visibilitychange'))"
        ));
    };
    hide(true);
    sends_nothing("the page is hidden");
    hide(false);
    sends_again();
    browser.wait_for_state("live");
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// In an admin router all paths are below its prefix, and the page shows that the watchdog has
/// stopped.
#[test]
fn below_a_prefix_until_it_is_stopped() {
    let Some(browser) = Browser::start() else { return };
    let (watchdog, _) = start(THRESHOLD);
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    let addr = serve(Router::new().nest("/admin/watch", watchdog.router()));
    browser.set_size(1360, 900);
    browser.open(&format!("http://{addr}/admin/watch/live.html"));
    browser.wait_for_state("live");
    browser.wait_for("the stall", "return document.querySelector('.stall-time')");
    browser.eval("document.querySelector('#flame').scrollIntoView()");
    browser.wait_for("the flame graph", "return document.querySelectorAll('.box').length > 2");
    let below = "return performance.getEntriesByType('resource').map((r) => new URL(r.name).pathname)";
    let paths = browser.eval(below);
    assert!(paths.as_array().unwrap().iter().all(|p| p.as_str().unwrap().starts_with("/admin/watch/live")), "{paths}");
    let links = browser
        .eval("return [...document.querySelectorAll('a[href]')].map((a) => a.href).filter((a) => !a.includes('#'))");
    for link in links.as_array().unwrap() {
        let status = browser.eval_async(&format!("return (await fetch({link})).status"));
        assert_eq!(status, 200, "{link}");
    }
    // Suspected stalls and a watchdog that gave up are shown; the response is changed accordingly.
    browser.eval(
        "const original = window.fetch;
        window.fetch = async (...request) => {
            const response = await original(...request);
            if (!/live$/.test(response.url) || !response.ok) return response;
            const live = await response.json();
            Object.assign(live, { watching: false, stopped: 'gave_up' });
            live.watchdog.coverage.watchdog_panics = 10;
            live.runtimes[0].suspected = { stalls: 7, stalled_seconds: 1.5 };
            return new Response(JSON.stringify(live), { headers: response.headers });
        };
        window.original = original",
    );
    browser.wait_for_state("stopped");
    assert!(browser.text("#banner").contains("gave up after 10 panics"), "{}", browser.text("#banner"));
    let runtimes = browser.text("#runtimes").to_lowercase();
    assert!(runtimes.contains("suspected"), "{runtimes}");
    assert!(browser.text("#figures").contains("and 7 suspected"), "{}", browser.text("#figures"));
    browser.eval("window.fetch = window.original");
    browser.wait_for_state("live");
    watchdog.shutdown();
    browser.wait_for_state("stopped");
    assert!(browser.text("#banner").contains("has been shut down"));
    assert_eq!(browser.console(), Vec::<String>::new());
}
