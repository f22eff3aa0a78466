//! Tests of accessibility: colour schemes, widths, keyboard, screen readers.

use std::path::Path;

use axum::routing::get as on_get;
use pollwatch::Watchdog;

use crate::browser::Browser;
use crate::support::*;

/// A page with everything on it: two runtimes, many workers, long names, stalls of several causes,
/// one of them ongoing.
pub(crate) struct FullPage {
    pub(crate) browser: Browser,
    _gate: Gate,
    _watchdog: Watchdog,
    runtimes: Vec<tokio::runtime::Runtime>,
}

impl FullPage {
    pub(crate) fn open() -> Option<FullPage> {
        let browser = Browser::start()?;
        let builder = Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0");
        let watchdog = builder.start().unwrap();
        let many = watchdog.build_runtime("a runtime with a name that is long enough to be broken", multi_thread(17));
        let runtimes = vec![many.unwrap(), watchdog.build_runtime("main", multi_thread(2)).unwrap()];
        let gate = Gate::new();
        let key = gate.key();
        let long = "/a/route/that/has/very/many/parts/and/goes/on/for/longer/than/any/phone/is/wide/{identifier_without_an_end}";
        let app = axum::Router::new().route(long, on_get(async || _ = block(THRESHOLD * 2))).layer(watchdog.layer());
        let addr = runtimes[1].block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            tokio::spawn(axum::serve(listener, app).into_future());
            addr
        });
        for _ in 0..3 {
            drop(get(addr, &long.replace(['{', '}'], "")));
        }
        spawn_measured(&watchdog, runtimes[1].handle(), async {
            (0..40_000_000_u64).map(std::hint::black_box).sum::<u64>()
        });
        spawn_measured(&watchdog, runtimes[0].handle(), async move { key.pass() });
        browser.set_size(1360, 900);
        browser.open(&format!("http://{}/", watchdog.local_addr().unwrap()));
        browser.wait_for_state("live");
        browser.wait_for("the ongoing stall", "return document.querySelector('.worker[data-state=stalled]')");
        browser.wait_for("stalls", "return document.querySelectorAll('.stall').length > 3");
        browser.eval("document.querySelector('#flame').scrollIntoView()");
        browser.wait_for("the flame graph", "return document.querySelectorAll('.box').length > 2");
        browser.eval("document.querySelectorAll('.stall details, #self').forEach((details) => (details.open = true)); scrollTo(0, 0)");
        Some(FullPage { browser, _gate: gate, _watchdog: watchdog, runtimes })
    }
}

impl Drop for FullPage {
    fn drop(&mut self) {
        self._gate.open();
        self.runtimes.drain(..).for_each(|runtime| runtime.shutdown_background());
    }
}

/// Asserts that no element and no text reaches beyond the right edge of the page.
#[track_caller]
pub(crate) fn assert_fits(browser: &Browser, width: u32) {
    let over = browser.eval(
        "const wide = document.documentElement.clientWidth;
        const out = [...document.querySelectorAll('body *')].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.right > wide + 1 && box.width > 1 && !e.closest('.scroll, .skip, svg, .flame-graph, .sr');
        });
        return [document.documentElement.scrollWidth - wide, out.slice(0, 3).map((e) => e.outerHTML.slice(0, 200))]",
    );
    let wide_texts = || {
        browser.eval(
            "const wide = document.documentElement.clientWidth;
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const found = [];
            const range = document.createRange();
            while (texts.nextNode()) {
                range.selectNode(texts.currentNode);
                const { left, right } = range.getBoundingClientRect();
                if (right > wide) {
                    found.push(`${left} to ${right}: ${texts.currentNode.parentElement.outerHTML.slice(0, 200)}`);
                }
            }
            return found",
        )
    };
    assert_eq!(over, serde_json::json!([0, []]), "at {width} pixels: {:#}", wide_texts());
}

#[test]
fn light_and_dark_wide_and_narrow() {
    let Some(page) = FullPage::open() else { return };
    let browser = &page.browser;
    let background = || browser.eval("return getComputedStyle(document.body).backgroundColor");
    let mut backgrounds = Vec::new();
    for dark in [false, true] {
        browser.set_dark(dark);
        backgrounds.push(background());
        for width in [1360, 900, 600, 390, 320] {
            browser.set_size(width, 844);
            browser.screenshot(&format!("{}-{width}", if dark { "dark" } else { "light" }));
            assert_fits(browser, width);
        }
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// The tab key reaches every control in the order of the page, and the focus is visible.
#[test]
fn by_keyboard_alone() {
    let Some(page) = FullPage::open() else { return };
    let browser = &page.browser;
    // Chromium starts at the element that was last scrolled into view: the fixture's flame graph.
    browser.eval(
        "document.querySelectorAll('details').forEach((details) => (details.open = false));
        document.activeElement.blur();
        document.body.scrollIntoView()",
    );
    let mut reached = Vec::new();
    let mut highest = f64::MIN;
    for _ in 0..60 {
        browser.press_tab();
        let at = browser.eval(
            "const e = document.activeElement;
            const style = getComputedStyle(e);
            return [e.id || e.className || e.tagName, e.getBoundingClientRect().top + scrollY, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1]",
        );
        let name = at[0].as_str().unwrap().to_owned();
        if name == "BODY" {
            break;
        }
        assert!(at[2] == true, "the focus is not visible: {name}");
        // The tolerance allows for links within a line, and for the skip link at the top.
        let top = at[1].as_f64().unwrap();
        assert!(top >= highest - 60.0, "{name} is above its predecessor: {reached:?}");
        highest = highest.max(top);
        reached.push(name);
    }
    for wanted in [
        "skip",
        "pause",
        "flame-search",
        "flame-cause",
        "flame-route",
        "flame-site",
        "routes-table",
        "sites-table",
        "times-runtime",
    ] {
        assert!(reached.iter().any(|name| name == wanted), "{wanted}: {reached:?}");
    }
    assert_eq!(reached.iter().filter(|name| name.starts_with("box")).count(), 1, "the graph is one stop");
    // The announcement is a sentence that does not change every second.
    let announced = browser.text("#announce");
    assert!(announced.contains("blocked") && !announced.contains("so far"), "{announced}");
}

/// axe-core finds no violation in either colour scheme.
#[test]
fn no_barriers() {
    let axe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/node_modules/axe-core/axe.min.js");
    let Ok(axe) = std::fs::read_to_string(axe) else {
        println!("skipped: no axe-core here (npm ci --prefix tests/page)");
        return;
    };
    let Some(page) = FullPage::open() else { return };
    let browser = &page.browser;
    browser.eval(&format!("{axe}\nwindow.axe = axe; return true"));
    for (dark, width) in [(false, 1360), (true, 1360), (false, 390), (true, 390)] {
        browser.set_dark(dark);
        browser.set_size(width, 844);
        let found = browser.eval_async(
            "const { violations, passes } = await window.axe.run(document, { resultTypes: ['violations'] });
            const nodes = (rule) => rule.nodes.slice(0, 3).map((node) => `${node.html.slice(0, 160)} | ${node.failureSummary}`);
            return { checked: passes.length, found: violations.map((rule) => [rule.id, rule.help, nodes(rule)]) }",
        );
        assert!(found["checked"].as_u64().is_some_and(|rules| rules > 20), "{found}");
        assert_eq!(found["found"], serde_json::json!([]), "dark: {dark}, {width} pixels");
    }
}
