//! Everything else that a healthy service does: short polls, timers, I/O, tasks that wake each other, work that is moved off the
//! workers, aborts and panics. None of it may be told; what is kept from a CPU for the threshold may.

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

use super::fixture::Scene;
use super::kinds::computes;
use super::poll_recorder::note_in_place;

/// Goes on until it is stopped.
pub(crate) struct Noise(Arc<AtomicBool>);

fn short(micros: u64) {
    computes(Duration::from_micros(micros));
}

impl Noise {
    pub(crate) fn start(scene: &Arc<Scene>) -> Noise {
        let stop = Arc::new(AtomicBool::new(false));
        let goes_on = {
            let stop = stop.clone();
            move || !stop.load(Ordering::Acquire)
        };
        let threshold = Duration::from_nanos(scene.threshold);
        let on = goes_on.clone();
        scene.spawn(false, async move {
            while on() {
                for _ in 0..20 {
                    short(20);
                    yield_now().await;
                }
                sleep(Duration::from_millis(3)).await;
            }
        });
        for i in 1..20 {
            let on = goes_on.clone();
            scene.spawn(i % 2 == 0, async move {
                while on() {
                    sleep(Duration::from_micros(700 * i)).await;
                }
            });
        }
        let on = goes_on.clone();
        scene.spawn(false, echo(on));
        ping_pong(scene, goes_on.clone());
        let on = goes_on.clone();
        scene.spawn(false, async move {
            while on() {
                let mut parts: FuturesUnordered<_> = (0..8).map(|i| sleep(Duration::from_micros(100 * i))).collect();
                while parts.next().await.is_some() {
                    short(10);
                }
            }
        });
        let on = goes_on.clone();
        scene.spawn(false, async move {
            while on() {
                tokio::select! {
                    () = sleep(Duration::from_millis(2)) => {}
                    () = std::future::pending() => {}
                }
            }
        });
        if scene.mode.uses_pool() {
            let on = goes_on.clone();
            scene.spawn(false, async move {
                while on() {
                    let _ = tokio::task::spawn_blocking(move || std::thread::sleep(threshold * 2)).await;
                }
            });
        }
        if scene.mode.hands_workers_on() {
            let on = goes_on.clone();
            scene.spawn(false, async move {
                while on() {
                    note_in_place();
                    tokio::task::block_in_place(|| std::thread::sleep(threshold * 2));
                    sleep(threshold).await;
                }
            });
        }
        let (weak, on) = (Arc::downgrade(scene), goes_on);
        scene.spawn(false, async move {
            while on() {
                if let Some(scene) = weak.upgrade() {
                    scene.spawn(false, std::future::pending()).abort();
                    scene.spawn(true, async { std::panic::resume_unwind(Box::new("on purpose")) });
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        Noise(stop)
    }

    /// Returns when its tasks are gone: a runtime that is shut down has them panic.
    pub(crate) fn stop(self) {
        self.0.store(true, Ordering::Release);
        while Arc::strong_count(&self.0) > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Two tasks of which each wakes the other: they take turns in the worker's LIFO slot.
fn ping_pong(scene: &Scene, goes_on: impl Fn() -> bool + Send + 'static) {
    let (ping, mut pinged) = mpsc::channel::<()>(1);
    let (pong, mut ponged) = mpsc::channel::<()>(1);
    scene.spawn(false, async move {
        while goes_on() {
            for _ in 0..10 {
                if ping.send(()).await.is_err() || ponged.recv().await.is_none() {
                    return;
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    scene.spawn(false, async move {
        while pinged.recv().await.is_some() {
            if pong.send(()).await.is_err() {
                return;
            }
        }
    });
}

/// A connection to itself.
async fn echo(goes_on: impl Fn() -> bool) {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0").await else { return };
    let Ok(addr) = listener.local_addr() else { return };
    let (Ok(mut one), Ok((mut other, _))) = tokio::join!(TcpStream::connect(addr), listener.accept()) else { return };
    let mut buffer = [0; 64];
    while goes_on() {
        if one.write_all(&buffer).await.is_err() || other.read_exact(&mut buffer).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}
