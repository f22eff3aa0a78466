//! Tests that no text of the application makes the page wider than the screen.

use crate::access::{FullPage, assert_fits};
use crate::support::*;

/// Replaces each text of the server's responses by one long word, and each figure by a large one.
/// Fields that are usually empty are filled. Equal names stay equal.
const HOSTILE: &str = r#"
    const KEPT = ['schema', 'state', 'phase', 'kind', 'cause', 'certainty', 'mode', 'stopped', 'of'];
    const TIMES = /^(now|uptime|started_at|reported_at)_|^(threshold_seconds|bucket_bounds_seconds)$/;
    const FIGURES = /seconds$|^(polls|requests|stalls|tasks|count|reports_lost|oversleeps|offworker_polls|driver_rescues)$|_(tasks|depth|threads)$/;
    const long = (text) => `${text}${'/W'.repeat(40)}${'w'.repeat(300)}`;
    const grow = (value, key) => {
        if (KEPT.includes(key) || TIMES.test(key)) return value;
        if (typeof value === 'string') return long(value);
        if (typeof value === 'number') return FIGURES.test(key) ? value * 1e6 + 123_456_789 : value;
        if (Array.isArray(value)) return value.map((one) => grow(one, key));
        if (value && typeof value === 'object')
            return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, grow(one, name)]));
        return value;
    };
    const location = { function: 'function', file: 'file', line: 123_456, module: 'module' };
    const fill = (live) => {
        const [runtime] = live.runtimes;
        const reason = 'reason';
        live.incidents = [{ id: 1, kind: 'deadlock', runtime: runtime.name, duration_seconds: 9, reason }];
        live.conditions = ['driver_unattended', 'runtime_hung', 'blocking_pool_full'].map((kind) => ({
            kind, runtime: runtime.name, duration_seconds: 1, stall: null, reason, remedy: 'remedy',
        }));
        live.late_runtimes = [{ runtime: runtime.name, reported_at_unix_seconds: live.now_unix_seconds, text: 'late' }];
        Object.assign(runtime, { driver_attended: false, driver_rescues: 1, hung_seconds: 1, offworker_polls: 1 });
        for (const row of [...live.routes, ...live.sites]) row.delay_seconds = row.unpolled_seconds = 1;
        live.watchdog.allowed_blocking = [{ reason, seconds: 1 }];
        live.stalls.forEach((stall, i) => {
            const thread = { name: 'thread', tid: 1, is_waiting_itself: false, is_recorded: false, site: 'site', location };
            const segment = { ...stall.segments.at(-1), location: 'segment' };
            Object.assign(stall, {
                route: i % 2 ? 'route' : null, parent_route: 'parent', task: 'task', task_name: 'name', watched: 'watched',
                spans: ['span{id=1}'], advice: 'advice', lock: { address: '0x1', holder: { thread }, is_deadlock: true },
                pool: { location, threads: 7, threads_read: 8 }, syscall: { name: 'call', target: 'target' },
                page_faults: { minor: 1, major: 1 }, steal_seconds: 1, victims: { tasks: 3, text: 'victims' },
                segments: [segment, segment], merged_segments: { count: 3, seconds: 1 },
            });
        });
        return live;
    };
    const original = window.fetch;
    window.fetch = async (...request) => {
        const response = await original(...request);
        if (!response.ok) return response;
        if (/threads$/.test(response.url)) return new Response(`${long('head')}\n\n${long('group')}\n  ${long('thread')}\n`);
        const data = await response.json();
        return new Response(JSON.stringify(grow(data.runtimes ? fill(data) : data)));
    };
"#;

#[test]
fn long_texts_and_large_figures_do_not_widen_the_page() {
    let Some(page) = FullPage::open() else { return };
    let browser = &page.browser;
    browser.eval(HOSTILE);
    browser.click("#threads-take");
    let lacking = "document.querySelectorAll('details').forEach((details) => (details.open = true));
        document.querySelector('#flame').scrollIntoView();
        return ['#banner-text', '#program', '#verdict-sub', '.runtime h3', '.worker[data-state=stalled] .worker-what', '.offender-name', '.offender-why',
            '.stall-where', '.stall-why', '.stall-body', '.segment', '.frame', '#thread-groups', '#routes-table', '#sites-table',
            '#flame-graph', '#runtimes', '#self-facts', '#self-coverage', '#about', '.conditions', '.late']
            .filter((css) => !/w{300}/.test(document.querySelector(css)?.textContent))";
    wait_equal("the parts of the page without a long text", &serde_json::json!([]), || browser.eval(lacking));
    for width in [320, 390, 600, 800, 1400] {
        browser.set_size(width, 844);
        // What is drawn by the width follows at the next frame.
        browser.eval_async("await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))");
        browser.eval("scrollTo(0, 0)");
        browser.screenshot(&format!("extreme-{width}"));
        assert_fits(browser, width);
        // A figure or a label that cannot be broken is not cut off either.
        let cut = browser.eval(
            "return [...document.querySelectorAll('.figure, .stall-time, .worker-state, .cause, .segment-time, .offender-time')]
                .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')
                .slice(0, 3).map((e) => e.outerHTML.slice(0, 200))",
        );
        assert_eq!(cut, serde_json::json!([]), "at {width} pixels");
    }
    assert_eq!(browser.console(), Vec::<String>::new());
}
