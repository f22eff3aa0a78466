use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_monitor_is_woken_by_what_happens_after_its_check() {
    let signal = MonitorSignal::default();
    signal.announce_sleep();
    signal.wake();
    assert!(signal.sleep(None), "it does not sleep");
    // A wake-up cuts no sleep with a time limit short.
    signal.wake();
    let start = Instant::now();
    signal.announce_sleep();
    assert!(signal.sleep(Some(Duration::from_millis(20))));
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn the_monitor_is_woken_and_stopped_by_another_thread() {
    let signal = Arc::new(MonitorSignal::default());
    let (results, done) = std::sync::mpsc::channel();
    let monitor = std::thread::spawn({
        let signal = signal.clone();
        move || {
            signal.announce_sleep();
            results.send(signal.sleep(None)).unwrap();
            results.send(signal.sleep(Some(LONG))).unwrap();
        }
    });
    while !lock(&signal.state).is_asleep {
        std::thread::yield_now();
    }
    signal.wake();
    assert_eq!(done.recv_timeout(LONG), Ok(true));
    signal.stop();
    assert_eq!(done.recv_timeout(LONG / 2), Ok(false));
    monitor.join().unwrap();
}
