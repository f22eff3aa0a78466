#![deny(unused_must_use)]

fn main() {
    pollwatch::Watchdog::builder();
    let watchdog = pollwatch::Watchdog::builder().start().unwrap();
    watchdog.runtime("main");
    pollwatch::Hooks::new();
    pollwatch::Watchdog::builder().start().unwrap();
}
