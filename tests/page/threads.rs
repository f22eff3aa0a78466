//! Tests of the view of all threads.

use pollwatch::Watchdog;

use crate::browser::Browser;
use crate::support::*;

#[test]
fn threads_are_shown_on_demand() {
    let Some(browser) = Browser::start() else { return };
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false).listen("127.0.0.1:0");
    let watchdog = builder.start().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let named = std::thread::Builder::new().name("<img src=x>\n\n9".into()).spawn(move || stopped.recv()).unwrap();
    browser.open(&format!("http://{}/", watchdog.local_addr().unwrap()));
    browser.wait_for_state("live");
    browser.eval("document.querySelector('#threads-take').click()");
    browser.wait_for(
        "groups of threads",
        "return [...document.querySelectorAll('#thread-groups summary')].some((s) => s.textContent.includes(', pollwatch'))",
    );
    browser.wait_for("the head", "return document.querySelector('#threads-hint').textContent.includes(' threads at ')");
    // The name is text, in one group.
    browser.wait_for(
        "the thread with the odd name",
        "return [...document.querySelectorAll('#thread-groups pre')].some((p) => p.textContent.includes('<img src=x>\u{fffd}\u{fffd}9'))",
    );
    browser.wait_for(
        "no other elements",
        "return !document.querySelector('#thread-groups img') && !document.querySelector('#threads-take').disabled",
    );
    drop(stop);
    let _ = named.join().unwrap();
}
