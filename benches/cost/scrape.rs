//! Measures scrapes of a runtime under load, with many sites and routes: their time, their size,
//! and their effect on the cost of a poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use tokio::runtime::Builder;
use tower::{Service, ServiceExt, service_fn};

use crate::{Size, median};

const ROUTES: usize = 100;

pub(crate) fn run(size: Size) {
    let watchdog = Watchdog::builder().log(false).max_sites(2_000).start().expect("a watchdog");
    many_sites(&watchdog);
    many_routes(&watchdog);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    let runtime = watchdog.build_runtime("load", builder).expect("a runtime");
    let (polls, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    for _ in 0..16 {
        let (polls, stop) = (polls.clone(), stop.clone());
        runtime.spawn(watchdog.watch(async move {
            while !stop.load(Ordering::Relaxed) {
                polls.store(polls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }));
    }
    let window = size.of(Duration::from_millis(20), Duration::from_millis(200));
    let nanos_per_poll = || {
        let (start, before) = (Instant::now(), polls.load(Ordering::Relaxed));
        std::thread::sleep(window);
        start.elapsed().as_nanos() as f64 / (polls.load(Ordering::Relaxed) - before) as f64
    };
    let (mut millis, mut bytes, mut ratios) = (Vec::new(), 0, Vec::new());
    for _ in 0..size.of(2, 15) {
        let alone = nanos_per_poll();
        let (done, meet) = (AtomicBool::new(false), Barrier::new(2));
        let meanwhile = std::thread::scope(|scope| {
            scope.spawn(|| {
                meet.wait();
                while !done.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let text = watchdog.metrics_text();
                    millis.push(start.elapsed().as_secs_f64() * 1e3);
                    bytes = text.len();
                }
            });
            meet.wait();
            let meanwhile = nanos_per_poll();
            done.store(true, Ordering::Relaxed);
            meanwhile
        });
        ratios.push(meanwhile / alone);
    }
    stop.store(true, Ordering::Relaxed);
    let snapshot = watchdog.snapshot();
    println!("\n| a scrape under load | |\n|---|---|");
    println!("| sites, routes | {}, {} |", snapshot.sites.len(), snapshot.routes.len());
    println!("| time, ms (bar 5) | {:.2} |", median(millis.clone()));
    println!("| slowest of {}, ms | {:.2} |", millis.len(), millis.iter().copied().fold(0.0, f64::max));
    println!("| kilobytes | {:.0} |", bytes as f64 / 1e3);
    println!("| a poll during continuous scrapes, relative to one without (bar 1) | {:.2} |", median(ratios));
}

fn many_sites(watchdog: &Watchdog) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    watchdog.attach("sites", runtime.handle()).expect("attached");
    for future in crate::thousand_sites::futures(watchdog) {
        runtime.block_on(future);
    }
}

fn many_routes(watchdog: &Watchdog) {
    let layer = watchdog.layer().route_by(|parts| Some(parts.uri.path().to_owned().into()));
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    watchdog.attach("routes", runtime.handle()).expect("attached");
    let hello = service_fn(|_: http::Request<String>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let mut service = tower::Layer::layer(&layer, hello);
    runtime.block_on(async {
        for nth in 0..ROUTES {
            let request = http::Request::builder().uri(format!("/route/{nth}")).body(String::new()).expect("a request");
            let response = service.ready().await.expect("it is ready").call(request).await.expect("an answer");
            drop(response);
        }
    });
}
