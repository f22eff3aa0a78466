//! The child: programs that block a runtime in known functions. They run in tests that are ignored,
//! and end when the pipe to the parent is closed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::sync::{Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

/// The time for which each block lasts.
pub(crate) const BLOCK: Duration = Duration::from_millis(120);
/// The threads of the child that has many.
pub(crate) const MANY_THREADS: usize = 10_000;
/// The time between two blocks.
const PAUSE: Duration = Duration::from_millis(60);

fn multi_thread(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// Blocks in a task of a multi-thread runtime again and again.
fn in_tasks(block: fn()) {
    multi_thread(2).block_on(async move {
        loop {
            tokio::spawn(async move { block() }).await.unwrap();
            tokio::time::sleep(PAUSE).await;
        }
    });
}

#[inline(never)]
fn sleeps_in_a_task() {
    std::thread::sleep(BLOCK);
}

#[inline(never)]
fn waits_for_a_mutex() {
    static MUTEX: Mutex<()> = Mutex::new(());
    let (locked, is_locked) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        let _held = MUTEX.lock().unwrap();
        locked.send(()).unwrap();
        std::thread::sleep(BLOCK);
    });
    is_locked.recv().unwrap();
    drop(MUTEX.lock().unwrap());
    holder.join().unwrap();
}

#[inline(never)]
fn reads_a_pipe() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(BLOCK);
        theirs.write_all(b"x").unwrap();
    });
    ours.read_exact(&mut [0]).unwrap();
    writer.join().unwrap();
}

#[inline(never)]
fn connects_to_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::thread::sleep(BLOCK);
        stream.write_all(b"x").unwrap();
    });
    std::net::TcpStream::connect(addr).unwrap().read_exact(&mut [0]).unwrap();
    server.join().unwrap();
}

#[inline(never)]
fn receives_from_a_channel() {
    let (send, receive) = mpsc::channel();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(BLOCK);
        send.send(()).unwrap();
    });
    receive.recv().unwrap();
    sender.join().unwrap();
}

#[inline(never)]
fn waits_for_a_condvar() {
    let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    let waited = condvar.wait_timeout_while(mutex.lock().unwrap(), BLOCK, |()| true).unwrap();
    assert!(waited.1.timed_out());
}

#[inline(never)]
fn computes_in_a_task() {
    computes_for(4 * BLOCK);
}

#[inline(never)]
fn computes_for(time: Duration) {
    let start = Instant::now();
    let mut sum = 0u64;
    while start.elapsed() < time {
        (0..10_000u64).for_each(|i| sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i)));
    }
    std::hint::black_box(sum);
}

#[inline(never)]
fn sleeps_and_computes() {
    std::thread::sleep(BLOCK);
    computes_for(2 * BLOCK);
    std::thread::sleep(BLOCK);
}

/// Forks while it blocks. The child is a copy of the process with this thread alone.
#[inline(never)]
fn forks_and_sleeps() {
    // SAFETY: the child calls functions that are safe after a fork only, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::usleep(BLOCK.as_micros() as u32);
            libc::_exit(0);
        }
    }
    sleeps_in_a_task();
    // SAFETY: the child is this process' own.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

/// Blocks both workers of a runtime with two at the same time, again and again.
async fn blocks_both_workers() {
    loop {
        let tasks = [(); 2].map(|()| tokio::spawn(async { sleeps_in_a_task() }));
        for task in tasks {
            task.await.unwrap();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[inline(never)]
fn sleeps_in_block_in_place() {
    tokio::task::block_in_place(|| std::thread::sleep(BLOCK));
}

#[inline(never)]
fn sleeps_in_a_root() {
    std::thread::sleep(BLOCK);
}

#[inline(never)]
fn sleeps_in_a_local_task() {
    std::thread::sleep(BLOCK);
}

/// Runs the child until its parent ends it.
pub(crate) fn run(kind: &str) {
    let ready = || {
        println!("{}", super::fixture::READY);
        std::io::stdout().flush().unwrap();
    };
    std::thread::spawn(|| {
        // The parent has closed the pipe.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    if kind != "many_threads" {
        ready();
    }
    match kind {
        "exec" => {
            // The parent attaches meanwhile.
            std::thread::sleep(10 * BLOCK);
            panic!("{}", std::process::Command::new("sleep").arg("60").exec());
        }
        "sleep" => in_tasks(sleeps_in_a_task),
        "mutex" => in_tasks(waits_for_a_mutex),
        "pipe" => in_tasks(reads_a_pipe),
        "socket" => in_tasks(connects_to_a_server),
        "channel" => in_tasks(receives_from_a_channel),
        "condvar" => in_tasks(waits_for_a_condvar),
        "compute" => in_tasks(computes_in_a_task),
        "mixed" => in_tasks(sleeps_and_computes),
        "yields" => multi_thread(2).block_on(async {
            // Idle for a while, then busy with one task.
            for _ in 0..20 {
                tokio::spawn(tokio::time::sleep(PAUSE)).await.unwrap();
            }
            loop {
                tokio::spawn(async {
                    for _ in 0..200 {
                        computes_for(Duration::from_millis(1));
                        tokio::task::yield_now().await;
                    }
                })
                .await
                .unwrap();
                tokio::time::sleep(PAUSE).await;
            }
        }),
        "block_in_place" => in_tasks(sleeps_in_block_in_place),
        "spawn_blocking" => multi_thread(2).block_on(async {
            loop {
                tokio::task::spawn_blocking(sleeps_in_a_task).await.unwrap();
            }
        }),
        "idle" => multi_thread(2).block_on(async {
            loop {
                tokio::spawn(tokio::time::sleep(Duration::from_millis(5))).await.unwrap();
                tokio::time::sleep(BLOCK).await;
            }
        }),
        "root" => Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            loop {
                sleeps_in_a_root();
                tokio::time::sleep(PAUSE).await;
            }
        }),
        "local_set" => {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                loop {
                    tokio::task::spawn_local(async { sleeps_in_a_local_task() }).await.unwrap();
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        "waits_shortly" => in_tasks(|| (0..40).for_each(|_| std::thread::sleep(Duration::from_millis(5)))),
        "parks_between" => multi_thread(2).block_on(async {
            // The same code again and again, each time for less than a threshold.
            loop {
                tokio::spawn(async { computes_for(Duration::from_millis(5)) }).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }),
        "forks" => in_tasks(forks_and_sleeps),
        "many_threads" => {
            let mut threads = 0;
            let idle = || std::thread::Builder::new().stack_size(32 << 10).spawn(std::thread::park);
            while threads < MANY_THREADS && idle().is_ok() {
                threads += 1;
            }
            ready();
            in_tasks(sleeps_in_a_task);
        }
        "same_names" => {
            let runtimes = [2, 2].map(multi_thread);
            runtimes[0].spawn(blocks_both_workers());
            runtimes[1].spawn(async {
                loop {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            std::thread::park();
        }
        "arbiters" => {
            // As actix-rt builds them: a thread with a current-thread runtime and a `LocalSet`.
            for number in 0..3 {
                let arbiter = std::thread::Builder::new().name(format!("actix-rt|system:0|arbiter:{number}"));
                let run = move || {
                    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                    LocalSet::new().block_on(&runtime, async move {
                        loop {
                            if number == 1 {
                                tokio::task::spawn_local(async { sleeps_in_a_local_task() }).await.unwrap();
                            }
                            tokio::time::sleep(PAUSE).await;
                        }
                    });
                };
                arbiter.spawn(run).unwrap();
            }
            std::thread::park();
        }
        "two_runtimes" => {
            let named = |name: &str, block: fn()| {
                let runtime = Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build();
                let runtime = runtime.unwrap();
                runtime.spawn(async move {
                    loop {
                        tokio::spawn(async move { block() }).await.unwrap();
                        tokio::time::sleep(PAUSE).await;
                    }
                });
                runtime
            };
            let _runtimes = (named("api", sleeps_in_a_task), named("jobs", receives_from_a_channel));
            std::thread::park();
        }
        other => panic!("{other} is no kind of child"),
    }
}
