//! The background load of a healthy service: short polls, timers, I/O, tasks that wake each other,
//! work on the blocking pool, aborts and panics. None of it may be reported, unless it is given no
//! CPU for the threshold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::fixture::Fixture;
use super::kinds::compute;
use super::poll_recorder::record_block_in_place;

/// The background load. It runs until it is stopped.
pub(crate) struct Background(Arc<AtomicBool>);

fn short(micros: u64) {
    compute(Duration::from_micros(micros));
}

impl Background {
    pub(crate) fn start(fixture: &Arc<Fixture>) -> Background {
        let stop = Arc::new(AtomicBool::new(false));
        let is_running = {
            let stop = stop.clone();
            move || !stop.load(Ordering::Acquire)
        };
        let threshold = Duration::from_nanos(fixture.threshold);
        let on = is_running.clone();
        fixture.spawn(false, async move {
            while on() {
                for _ in 0..20 {
                    short(20);
                    yield_now().await;
                }
                sleep(Duration::from_millis(3)).await;
            }
        });
        for i in 1..20 {
            let on = is_running.clone();
            fixture.spawn(i % 2 == 0, async move {
                while on() {
                    sleep(Duration::from_micros(700 * i)).await;
                }
            });
        }
        let on = is_running.clone();
        fixture.spawn(false, echo(on));
        ping_pong(fixture, is_running.clone());
        let on = is_running.clone();
        fixture.spawn(false, async move {
            while on() {
                let mut parts: FuturesUnordered<_> = (0..8).map(|i| sleep(Duration::from_micros(100 * i))).collect();
                while parts.next().await.is_some() {
                    short(10);
                }
            }
        });
        let on = is_running.clone();
        fixture.spawn(false, async move {
            while on() {
                tokio::select! {
                    () = sleep(Duration::from_millis(2)) => {}
                    () = std::future::pending() => {}
                }
            }
        });
        if fixture.mode.uses_pool() {
            let on = is_running.clone();
            fixture.spawn(false, async move {
                while on() {
                    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(threshold * 2)).await;
                }
            });
        }
        if fixture.mode.uses_block_in_place() {
            let on = is_running.clone();
            fixture.spawn(false, async move {
                while on() {
                    record_block_in_place();
                    tokio::task::block_in_place(|| std::thread::sleep(threshold * 2));
                    sleep(threshold).await;
                }
            });
        }
        let (weak, on) = (Arc::downgrade(fixture), is_running);
        fixture.spawn(false, async move {
            while on() {
                if let Some(fixture) = weak.upgrade() {
                    fixture.spawn(false, std::future::pending()).abort();
                    fixture.spawn(true, async { std::panic::resume_unwind(Box::new("on purpose")) });
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        Background(stop)
    }

    /// Stops the load, and returns when its tasks are gone. They would panic in a runtime that is
    /// shut down.
    pub(crate) fn stop(self) {
        self.0.store(true, Ordering::Release);
        while Arc::strong_count(&self.0) > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Spawns two tasks that wake each other and take turns in the worker's LIFO slot.
fn ping_pong(fixture: &Fixture, is_running: impl Fn() -> bool + Send + 'static) {
    let (ping, mut pinged) = mpsc::channel::<()>(1);
    let (pong, mut ponged) = mpsc::channel::<()>(1);
    fixture.spawn(false, async move {
        while is_running() {
            for _ in 0..10 {
                if ping.send(()).await.is_err() || ponged.recv().await.is_none() {
                    return;
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    fixture.spawn(false, async move {
        while pinged.recv().await.is_some() {
            if pong.send(()).await.is_err() {
                return;
            }
        }
    });
}

/// Sends data over a connection of the process to itself.
async fn echo(is_running: impl Fn() -> bool) {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0").await else { return };
    let Ok(addr) = listener.local_addr() else { return };
    let (Ok(mut one), Ok((mut other, _))) = tokio::join!(TcpStream::connect(addr), listener.accept()) else { return };
    let mut buffer = [0; 64];
    while is_running() {
        if one.write_all(&buffer).await.is_err() || other.read_exact(&mut buffer).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}
