//! The monitor thread, in a process of its own: one for all layers, until the last one is dropped.

#![cfg(target_os = "linux")]

use std::fs;

use pollwatch::Watchdog;
use pollwatch_shed::Shed;
use tower::{Layer, service_fn};

use test_support::wait_equal;

fn monitor_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "pollwatch-shed").count()
}

#[test]
fn one_thread_for_all_layers() {
    assert_eq!(monitor_threads(), 0);
    for _ in 0..3 {
        let watchdogs = [(); 2].map(|()| Watchdog::builder().log(false).start().unwrap());
        let shed = Shed::new();
        let layers = watchdogs.each_ref().map(|watchdog| [shed.layer(watchdog), Shed::new().layer(watchdog)]);
        wait_equal("the thread is started", &1, monitor_threads);
        let service = layers[0][1].layer(service_fn(async |_: http::Request<()>| Ok::<_, ()>(http::Response::new(()))));
        drop((layers, watchdogs, shed));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(monitor_threads(), 1, "a service is left");
        drop(service);
        wait_equal("the thread has ended", &0, monitor_threads);
    }
}
