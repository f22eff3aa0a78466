//! Tests of what the page says about the holder of a lock.

use std::sync::{Barrier, Mutex};

use crate::browser::Browser;
use crate::support::*;

#[inline(never)]
fn transfer(from: &Mutex<u64>, to: &Mutex<u64>, both: &Barrier) {
    let mut from = from.lock().unwrap();
    both.wait();
    *to.lock().unwrap() += 1;
    *from -= 1;
}

/// Two workers block each other for good. The details of their stalls say who holds which lock.
#[test]
fn the_details_of_a_stall_say_who_holds_the_lock() {
    let Some(browser) = Browser::start() else { return };
    let builder = pollwatch::Watchdog::builder().threshold(THRESHOLD).log(false);
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let mut workers = multi_thread(2);
    workers.thread_name("transfers");
    let runtime = watchdog.build_runtime("main", workers).unwrap();
    let [a, b]: [&'static Mutex<u64>; 2] = [(); 2].map(|()| &*Box::leak(Box::new(Mutex::new(1))));
    let both: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    spawn_measured(&watchdog, runtime.handle(), async { transfer(a, b, both) });
    spawn_measured(&watchdog, runtime.handle(), async { transfer(b, a, both) });
    browser.set_size(1360, 1100);
    browser.open(&format!("http://{}/", watchdog.local_addr().unwrap()));
    browser.wait_for_state("live");
    browser.wait_for("two stalls", "return document.querySelectorAll('#stall-list details').length === 2");
    browser.eval("document.querySelectorAll('#stall-list details').forEach((details) => (details.open = true))");
    let text = "return [...document.querySelectorAll('#stall-list .facts')].map((facts) => facts.innerText)";
    let deadlock =
        format!("const facts = (() => {{ {text} }})(); return facts.every((text) => /deadlock/i.test(text)) && facts");
    let facts = browser.wait_for("the deadlock", &deadlock);
    for facts in facts.as_array().unwrap().iter().map(|facts| facts.as_str().unwrap()) {
        let held = facts.split_once("which is held by").expect("the page says who holds it").1.trim_start();
        assert!(held.starts_with("thread transfers ("), "{facts}");
        assert!(held.contains(", it seems, at page::holders::transfer (tests/page/holders.rs:"), "{facts}");
        assert!(held.contains("in a task spawned at tests/page/holders.rs:"), "{facts}");
    }
    let has = |lock: &Mutex<u64>| facts.to_string().contains(&format!("{:p}", std::ptr::from_ref(lock)));
    assert!(has(a) && has(b), "{facts}");
    browser.eval("document.querySelector('#stalls').scrollIntoView()");
    browser.screenshot("holders");
    assert_eq!(browser.console(), Vec::<String>::new());
    runtime.shutdown_background();
}
