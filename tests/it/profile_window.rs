//! Tests of profiles of a time window, as continuous profilers ask for them.

use std::time::{Duration, Instant};

use super::profile::{Service, THRESHOLD};

#[test]
fn a_window_has_only_the_stalls_within_it() {
    let service = Service::start(THRESHOLD, false);
    let sums = |samples: &[super::profile::DecodedSample]| {
        [samples.iter().map(|sample| sample.count).sum::<i64>(), samples.iter().map(|sample| sample.nanos).sum()]
    };
    let before = sums(&service.block_until(|samples| !samples.is_empty()));
    let started = Instant::now();
    let window = std::thread::scope(|scope| {
        let recorded = scope.spawn(|| service.pprof_of("?seconds=1"));
        while !recorded.is_finished() {
            service.block();
        }
        recorded.join().unwrap()
    });
    assert!(started.elapsed() >= Duration::from_secs(1), "the response waits for the end of the window");
    let (window, all) = (sums(&window), sums(&service.block_until(|samples| !samples.is_empty())));
    for (gained, (before, all)) in window.into_iter().zip(before.into_iter().zip(all)) {
        assert!(gained > 0 && gained < all - before, "{window:?} of {all}, {before} before it");
    }
}

#[test]
fn a_window_out_of_range_is_rejected() {
    let service = Service::start(THRESHOLD, false);
    for seconds in ["0", "121", "-1", "x", ""] {
        let response = service.request("GET", &format!("/debug/pprof/stalls?seconds={seconds}"));
        assert!(response.head.starts_with("http/1.1 400"), "{seconds}: {}", response.head);
    }
    // Other parameters of Go's profiles have no effect.
    assert!(service.request("GET", "/debug/pprof/stalls?debug=0").head.starts_with("http/1.1 200"));
}

#[test]
fn the_head_of_a_window_does_not_wait_for_it() {
    let service = Service::start(THRESHOLD, false);
    let started = Instant::now();
    let response = service.request("HEAD", "/debug/pprof/stalls?seconds=120");
    assert!(response.head.starts_with("http/1.1 200"), "{}", response.head);
    assert!(!response.head.contains("content-length"), "the length of the profile is not known: {}", response.head);
    assert!(response.body.is_empty() && started.elapsed() < Duration::from_secs(120));
    assert!(service.request("HEAD", "/debug/pprof/stalls?seconds=121").head.starts_with("http/1.1 400"));
}
