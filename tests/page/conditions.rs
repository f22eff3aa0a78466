//! Tests that the page shows the conditions of whole runtimes, and runtimes that are late.

use pollwatch::Watchdog;
use serde_json::{Value, json};

use crate::access::assert_fits;
use crate::browser::Browser;
use crate::support::*;

/// Replaces some fields of `/live`. The figures of the first runtime are replaced separately.
fn show(browser: &Browser, fields: &Value, figures: &Value) {
    browser.eval(&format!(
        "window.original ??= window.fetch;
        window.fetch = async (...request) => {{
            const response = await window.original(...request);
            if (!/live$/.test(response.url) || !response.ok) return response;
            const live = await response.json();
            Object.assign(live, {fields});
            Object.assign(live.runtimes[0], {figures});
            live.late_runtimes.forEach((late) => (late.reported_at_unix_seconds = live.now_unix_seconds - 1));
            return new Response(JSON.stringify(live), {{ headers: response.headers }});
        }}"
    ));
}

#[test]
fn each_condition_is_shown() {
    let Some(browser) = Browser::start() else { return };
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0");
    let watchdog = builder.start().unwrap();
    let _runtime = watchdog.build_runtime("main", multi_thread(2)).unwrap();
    browser.set_size(1400, 900);
    browser.open(&format!("http://{}/", watchdog.local_addr().unwrap()));
    browser.wait_for_state("live");
    browser.wait_for("nothing is blocked", "return document.querySelector('#verdict').dataset.level === 'calm'");
    assert!(browser.text("#banner").is_empty(), "{}", browser.text("#banner"));
    let condition = |kind: &str, reason: &str| json!({ "kind": kind, "runtime": "main", "duration_seconds": 2.5, "stall": null, "reason": reason, "remedy": "do this" });
    let unattended = "no worker of \"main\" attends sockets and timers, for 2500 ms now";
    let hung = "the runtime \"main\" hangs, for 2500 ms now";
    let full = "the blocking pool of \"main\" is full, for 2500 ms now";
    let late = "the runtime \"main\" is late: a woken task waited 312 ms for its poll";
    let incident =
        json!({ "id": 1, "kind": "runtime_hung", "runtime": "main", "duration_seconds": 6, "reason": "hangs for 6 s" });
    let conditions = |list: Value| json!({ "conditions": list });
    let cases = [
        (
            "unattended",
            conditions(json!([condition("driver_unattended", unattended)])),
            json!({ "driver_attended": false, "driver_rescues": 3, "driver_unattended_seconds": 2.5 }),
            ["Nobody attends the sockets and timers of main", unattended, "", "workers woken by pollwatch"],
        ),
        (
            "hung",
            conditions(json!([condition("runtime_hung", hung)])),
            json!({ "driver_attended": false, "hung_seconds": 2.5 }),
            ["The runtime main hangs", hung, "", "hung"],
        ),
        (
            "pool",
            conditions(json!([condition("blocking_pool_full", full)])),
            json!({ "blocking_threads": 2, "idle_blocking_threads": 0, "blocking_queue_depth": 5 }),
            ["The blocking pool of main is full", full, "", "do this"],
        ),
        (
            "incident",
            json!({ "incidents": [incident], "conditions": [condition("runtime_hung", hung)] }),
            json!({ "driver_attended": false }),
            ["The runtime main hangs", hung, "hangs for 6 s", hung],
        ),
        (
            "late",
            json!({ "conditions": [], "late_runtimes": [{ "runtime": "main", "text": late }] }),
            json!({}),
            ["The runtime main is late", late, "", late],
        ),
    ];
    for (name, fields, figures, [verdict, sub, banner, below]) in cases {
        show(&browser, &fields, &figures);
        let shown = "return ['#verdict-line', '#verdict-sub', '#banner-text'].map((css) => document.querySelector(css)).map((e) => e.checkVisibility() ? e.textContent : '')";
        wait_equal(name, &json!([verdict, sub, banner]), || browser.eval(shown));
        let runtimes = browser.text("#runtimes");
        assert!(runtimes.contains(below), "{name}: {runtimes}");
        let title = browser.eval("return document.title");
        assert_eq!(title.as_str().unwrap().starts_with(verdict), name != "late", "{title}");
        for width in [320, 800, 1400] {
            browser.set_size(width, 844);
            browser.screenshot(&format!("condition-{name}-{width}"));
            assert_fits(&browser, width);
        }
    }
    show(&browser, &json!({ "conditions": [] }), &json!({}));
    browser.wait_for("it is over", "return document.querySelector('#verdict').dataset.level === 'calm'");
    assert!(browser.text("#banner").is_empty());
    assert_eq!(browser.console(), Vec::<String>::new());
}
