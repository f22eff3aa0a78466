//! Tests of polls that compute in the kernel: where they are, for how long, and why.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pollwatch::{Cause, Phase, Stall, Watchdog};
use pollwatch_stack::{Tid, procfs};

use test_support::*;

const PAGE: usize = 4096;

/// Runs `block` in a task until its stall is resolved, as often as it takes to find `accept` true.
/// `prepare` makes its input, outside of the task.
fn observe<T: Send + 'static>(
    threshold: Duration,
    prepare: impl Fn() -> T,
    block: fn(T),
    accept: impl Fn(&Stall) -> Result<(), String>,
) -> (Watchdog, Stall) {
    // One at a time: each needs a CPU, and much memory.
    static ONE: Mutex<()> = Mutex::new(());
    let _alone = lock(&ONE);
    undisturbed(|| {
        let (watchdog, collected) = start(threshold);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let input = prepare();
        let (task, location) = spawn_measured(&watchdog, runtime.handle(), async move { block(input) });
        runtime.block_on(task).expect("the task goes on as without the watchdog");
        let stalls = reported_so_far(&watchdog, &collected);
        let stall = stalls.into_iter().rfind(|stall| stall.phase == Phase::Resolved);
        let stall = stall.ok_or("it did not last for the threshold")?;
        // On a busy machine the runtime itself may be without a CPU, after the task.
        is_undisturbed(&stall)?;
        assert_eq!(stall.site.to_string(), location, "{stall}");
        accept(&stall)?;
        Ok((watchdog, stall))
    })
}

/// Returns what is known of a stall's time, for messages.
fn brief(stall: &Stall) -> String {
    let Stall { cause, elapsed, on_cpu, system_time, page_faults, .. } = stall;
    format!("{cause} for {elapsed:?}, {on_cpu:?} on a CPU, {system_time:?} in the kernel, {page_faults:?}")
}

/// Returns whether a stall computed in the kernel for most of its time, and was captured there.
fn is_in_the_kernel(stall: &Stall, function: &str) -> Result<(), String> {
    let (Some(system), Some(on_cpu), Some(stack)) = (stall.system_time, stall.on_cpu, &stall.stack) else {
        return Err(format!("examined too rarely, or no stack: {}", brief(stall)));
    };
    let has_function = |frame: &pollwatch::Frame| frame.function.as_deref().is_some_and(|f| f.ends_with(function));
    if stall.cause != Cause::Cpu || system <= on_cpu / 2 {
        return Err(format!("disturbed by other processes: {}", brief(stall)));
    }
    if !stack.user_frames().iter().any(has_function) {
        return Err(format!("captured before or after the call: {stall}\n{stack:#}"));
    }
    Ok(())
}

fn captures(watchdog: &Watchdog, result: &str) -> u64 {
    let captures = watchdog.snapshot().watchdog.captures;
    captures.iter().find(|capture| capture.outcome.as_str() == result).map_or(0, |capture| capture.count)
}

const CACHED: usize = 256 << 20;

#[inline(never)]
fn reads_cached_data((file, mut buffer): (File, Vec<u8>)) {
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), CACHED);
    // To free the buffer takes long as well.
    std::thread::spawn(move || drop(buffer));
}

/// The thread is in one system call from the first examination to the last. Its stack is taken when
/// the call returns.
#[test]
fn a_read_of_cached_data_has_a_stack() {
    // SAFETY: the name is a C string; the descriptor is new.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"cached".as_ptr(), libc::MFD_CLOEXEC)) };
    let some = vec![7; 1 << 20];
    (0..CACHED / some.len()).for_each(|_| file.write_all(&some).unwrap());
    let prepare = || (file.try_clone().unwrap(), vec![1u8; CACHED]);
    let is_read = |stall: &Stall| is_in_the_kernel(stall, "::reads_cached_data");
    let (watchdog, stall) = observe(Duration::from_millis(5), prepare, reads_cached_data, is_read);
    assert_eq!(stall.reason, "computing in the kernel: a read of cached data", "{stall}");
    assert!(captures(&watchdog, "ok") > 0, "{:?}", watchdog.snapshot().watchdog.captures);
    assert!(stall.stack.unwrap().is_complete());
}

/// Memory without huge pages, which takes longest to map and to unmap.
struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

// SAFETY: an address range that only the holder uses.
unsafe impl Send for Mapping {}
// SAFETY: as above: it is only written before it is shared.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> Mapping {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: the mapping above.
        unsafe { libc::madvise(at, len, libc::MADV_NOHUGEPAGE) };
        Mapping { at, len }
    }

    fn touch(&self) {
        // SAFETY: each byte is in the mapping.
        (0..self.len).step_by(PAGE).for_each(|at| unsafe { self.at.cast::<u8>().add(at).write_volatile(1) });
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        assert_eq!(unsafe { libc::munmap(self.at, self.len) }, 0);
    }
}

#[inline(never)]
fn unmaps(mapping: Mapping) {
    // SAFETY: nothing refers to the mapping any more.
    assert_eq!(unsafe { libc::munmap(mapping.at, mapping.len) }, 0);
    std::mem::forget(mapping);
}

#[test]
fn an_unmap_of_much_memory_has_a_stack() {
    let prepare = || {
        let mapping = Mapping::new(512 << 20);
        mapping.touch();
        mapping
    };
    let (_, stall) =
        observe(Duration::from_millis(3), prepare, unmaps, |stall| is_in_the_kernel(stall, "kernel::unmaps"));
    assert_eq!(stall.reason, "computing in the kernel: munmap", "{stall}");
    assert!(stall.stack.unwrap().is_complete());
}

#[inline(never)]
fn forks(mapping: Arc<Mapping>) {
    // SAFETY: the child calls only `_exit`, which is async-signal-safe.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        child
    };
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    drop(mapping);
}

/// A fork copies the page tables, which takes long for a large process. Other threads that write to
/// memory wait meanwhile, the watchdog's too, which must not take that for a pause of the process.
#[test]
fn a_fork_is_no_pause_of_the_process() {
    const FORKS: usize = 12;
    let mapping = Arc::new(Mapping::new(512 << 20));
    mapping.touch();
    let mut causes = Vec::new();
    let start_time = Instant::now();
    while causes.len() < FORKS && start_time.elapsed() < TIMEOUT {
        let (watchdog, collected) = start(Duration::from_millis(2));
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let shared = mapping.clone();
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move { forks(shared) });
        runtime.block_on(task).unwrap();
        causes.extend(reported_so_far(&watchdog, &collected).last().map(|stall| stall.cause));
    }
    // The machine itself may pause.
    let pauses = causes.iter().filter(|cause| **cause == Cause::Paused).count();
    assert!(!causes.is_empty() && pauses <= 1, "{causes:?}");
}

/// The watchdog may wait as long as the fork takes, and find its poll over. The fork is known by
/// itself.
#[test]
fn a_fork_is_named_without_a_stack() {
    let mapping = Arc::new(Mapping::new(512 << 20));
    mapping.touch();
    let stall = undisturbed(|| {
        let builder = Watchdog::builder().threshold(Duration::from_millis(2)).log(false).capture_stacks(false);
        let (watchdog, collected) = start_with(builder);
        let runtime = watchdog.build_runtime("main", multi_thread(1)).unwrap();
        let shared = mapping.clone();
        let (task, _) = spawn_measured(&watchdog, runtime.handle(), async move { forks(shared) });
        runtime.block_on(task).unwrap();
        let stalls = reported_so_far(&watchdog, &collected);
        let stall = stalls.into_iter().next_back().ok_or("it did not last for the threshold")?;
        is_undisturbed(&stall)?;
        if stall.cause == Cause::Cpu && stall.reason.contains("fork") { Ok(stall) } else { Err(stall.to_string()) }
    });
    assert_eq!(stall.reason, "computing in the kernel: fork", "{stall}");
    assert!(stall.advice.is_some_and(|advice| advice.contains("pre_exec")), "{stall}");
}

#[inline(never)]
fn touches_new_memory(mapping: Mapping) {
    mapping.touch();
    std::mem::forget(mapping);
}

#[test]
fn page_faults_are_counted() {
    let len = 256 << 20;
    let (_, stall) = observe(
        Duration::from_millis(5),
        || Mapping::new(len),
        touches_new_memory,
        |stall| is_in_the_kernel(stall, "::touches_new_memory"),
    );
    assert_eq!(stall.reason, "computing in the kernel: page faults", "{stall}");
    let faults = stall.page_faults.expect("they are counted");
    // Those of the time in which the poll was observed, up to the last examination.
    assert!((1_000..=(len / PAGE) as u64 * 2).contains(&faults.minor), "{faults:?}");
}

/// A file whose pages are on the disk and not in memory.
struct ColdFile {
    mapping: Mapping,
}

const COLD_PAGES: usize = 4096;

impl ColdFile {
    /// Makes the file, and drops it from the page cache. `None` where it stays there, as all of a
    /// `tmpfs` does.
    fn new() -> Option<ColdFile> {
        let path = scratch("cold").join("pages");
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all(&vec![7; COLD_PAGES * PAGE]).unwrap();
        file.sync_all().unwrap();
        std::fs::remove_file(&path).unwrap();
        let len = COLD_PAGES * PAGE;
        let mut is_present = vec![0u8; COLD_PAGES];
        // SAFETY: the descriptor is open, the mapping is new, and `is_present` has a byte for each
        // of its pages.
        unsafe {
            libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
            let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_ne!(at, libc::MAP_FAILED);
            // Each fault reads its own page only.
            libc::madvise(at, len, libc::MADV_RANDOM);
            libc::mincore(at, len, is_present.as_mut_ptr());
            let cold = ColdFile { mapping: Mapping { at, len } };
            is_present.iter().all(|present| present & 1 == 0).then_some(cold)
        }
    }
}

#[inline(never)]
fn waits_for_pages(file: ColdFile) {
    let Mapping { at, len } = file.mapping;
    let mut sum = 0u64;
    for page in (0..len).step_by(PAGE) {
        // SAFETY: the address is in the mapping.
        sum += u64::from(unsafe { at.cast::<u8>().add(page).read_volatile() });
    }
    assert_eq!(sum, 7 * COLD_PAGES as u64);
}

/// What the latest read of a cold file took of a thread's time, in nanoseconds.
struct ReadTimes {
    on_cpu: AtomicU64,
    without_cpu: AtomicU64,
    elapsed: AtomicU64,
}

impl ReadTimes {
    fn read(&self, file: ColdFile) {
        let ran = || Tid::current().and_then(procfs::ran).expect("the kernel counts it");
        let (start, before) = (Instant::now(), ran());
        waits_for_pages(file);
        let after = ran();
        let store = |to: &AtomicU64, time: Duration| to.store(time.as_nanos() as u64, Ordering::SeqCst);
        store(&self.on_cpu, after.on_cpu - before.on_cpu);
        store(&self.without_cpu, after.run_delay - before.run_delay);
        store(&self.elapsed, start.elapsed());
    }

    /// Whether the thread waited for the disk for most of the time. To start each of many short
    /// waits takes CPU time: on a busy machine, and with the fastest disks, more than the waits.
    fn mostly_waited(&self) -> Result<(), String> {
        let load = |from: &AtomicU64| Duration::from_nanos(from.load(Ordering::SeqCst));
        let (on_cpu, without_cpu, elapsed) = (load(&self.on_cpu), load(&self.without_cpu), load(&self.elapsed));
        let waited = elapsed.saturating_sub(on_cpu + without_cpu);
        if on_cpu + without_cpu < waited {
            return Ok(());
        }
        Err(format!("{on_cpu:?} on a CPU, {without_cpu:?} without one, {waited:?} in waits for pages"))
    }
}

/// Each wait for a page is too short to be met by a scan, and there are many.
#[test]
fn many_short_waits_for_pages_are_page_faults() {
    const MOST_FAST_READS: usize = 30;
    static TIMES: ReadTimes =
        ReadTimes { on_cpu: AtomicU64::new(0), without_cpu: AtomicU64::new(0), elapsed: AtomicU64::new(0) };

    if ColdFile::new().is_none() {
        return skipped("the page cache cannot be emptied here");
    }
    let fast_reads = AtomicUsize::new(0);
    let is_found = |stall: &Stall| {
        if let Err(times) = TIMES.mostly_waited() {
            // Not accepted as a result: see below.
            let is_last = fast_reads.fetch_add(1, Ordering::SeqCst) + 1 == MOST_FAST_READS;
            return if is_last { Ok(()) } else { Err(format!("disturbed: {times}")) };
        }
        match stall.page_faults {
            Some(faults) if faults.major >= 20 && stall.cause != Cause::Unknown => Ok(()),
            _ => Err(format!("observed late: {}", brief(stall))),
        }
    };
    let prepare = || ColdFile::new().expect("as before");
    let (_, stall) = observe(Duration::from_millis(5), prepare, |file| TIMES.read(file), is_found);
    if let Err(times) = TIMES.mostly_waited() {
        return skipped(&format!("pages of the disk come too fast here: {times}"));
    }
    assert_eq!(stall.cause, Cause::Syscall, "{}", brief(&stall));
    assert_eq!(stall.reason, "a page of memory (a page fault)", "{stall}");
    assert!(stall.page_faults.unwrap().major <= COLD_PAGES as u64, "{}", brief(&stall));
}
