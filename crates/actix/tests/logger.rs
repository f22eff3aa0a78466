//! A program that uses the crate `log`, as many that use actix-web do. The logger is that of the
//! process, so this file has one test.

use std::time::Duration;

use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::{App, web};
use pollwatch::{Phase, Watchdog};
use pollwatch_actix::Watch;
use test_support::*;

/// A logger that prints warnings on the standard output.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            println!("{}: {}", record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

async fn blocks() -> &'static str {
    std::thread::sleep(Duration::from_millis(100));
    ""
}

async fn serve_one_request() {
    log::set_logger(&Logger).expect("the only one of this process");
    log::set_max_level(log::LevelFilter::Trace);
    let (watchdog, stalls) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let app = App::new().route("/report/{id}", web::get().to(blocks)).wrap(Watch::new(&watchdog));
    let app = init_service(app).await;
    call_service(&app, TestRequest::with_uri("/report/7").to_request()).await;
    stalls.wait(|stall| stall.phase == Phase::Resolved).expect("a stall is reported");
    // Waits for the thread of the log.
    watchdog.shutdown();
}

#[test]
fn a_logger_gets_the_lines_of_stalls() {
    if is_child() {
        return actix_web::rt::System::new().block_on(serve_one_request());
    }
    let out = rerun("a_logger_gets_the_lines_of_stalls").output().expect("this test runs as a child");
    let [stdout, stderr] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    assert!(out.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("pollwatch::stall: stall #1 "), "{stdout}");
    assert!(stdout.contains("route /report/{id}"), "{stdout}");
    assert_eq!(stderr, "", "nothing says that nobody takes the line");
}
