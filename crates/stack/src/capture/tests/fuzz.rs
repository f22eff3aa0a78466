//! Fuzzing of the unwinder: overwritten stacks, wrong registers, memory at the end of the address
//! space, malformed unwind tables.
//!
//! Unwinding has to end in bounded time, and no code of this crate may panic. gimli and framehop
//! may panic over malformed tables where overflow is checked; `Capturer` catches that.
//!
//! DWARF expressions that jump are generated for tables of another process alone. framehop does not
//! limit them, so that a loop in a table of this process, which no linker writes, would block the
//! calling thread forever. Those of another process are checked before.

use std::cell::Cell;

use super::super::modules::Table;
use super::super::unwind::{MAX_FRAMES, unwind};
use super::*;
use random::{Random, rounds};

/// The time limit for unwinding one stack, ample even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A real stack to start from.
struct Sample {
    regs: Regs,
    bytes: Vec<u8>,
}

/// Takes stacks of threads that sleep, wait for a lock, compute, and are deep in a recursion.
fn samples() -> Vec<Sample> {
    let lock = Arc::new(Mutex::new(()));
    let held = lock.lock().unwrap();
    let subjects_lock = lock.clone();
    let subjects = [
        Subject::start(sleeps),
        Subject::start(move |stop| waits_for_a_lock(stop, &subjects_lock)),
        Subject::start(computes),
        Subject::start(|stop| {
            recurses(300, stop);
        }),
    ];
    let take = |subject: &Subject| {
        let (mut capturer, start) = (Capturer::default(), Instant::now());
        loop {
            match capturer.copy(subject.target, procfs::syscall(subject.target.tid), None) {
                Ok(Copied::Now(regs)) => return Sample { regs, bytes: std::mem::take(&mut capturer.copy) },
                Ok(Copied::Pending(_)) => unreachable!("without an activity nothing stays pending"),
                // The thread got no CPU, or moved.
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error:?}"),
            }
        }
    };
    let all = subjects.iter().map(take).collect();
    subjects.iter().for_each(|subject| subject.stop.store(true, Ordering::Relaxed));
    drop(held);
    all
}

/// Returns a word that an unwinder may take for an address: of code, of the stack, or near a limit.
fn word(random: &Random, modules: &Modules, stack: &std::ops::Range<u64>) -> u64 {
    let near = |random: &Random, at: u64| at.wrapping_add(random.next() % 64).wrapping_sub(32);
    match random.below(9) {
        0 | 1 => {
            let module = &modules.list[random.below(modules.list.len())].range;
            module.start + random.next() % (module.end - module.start).max(1)
        }
        2 => stack.start.wrapping_add((random.next() % (stack.end - stack.start).max(1)) & !7),
        3 => near(random, stack.start),
        4 => near(random, stack.end),
        5 => near(random, arch::UNKNOWN),
        6 => near(random, 0),
        7 => random.next(),
        _ => 1 << random.below(64),
    }
}

/// Unwinds, and checks that it ends in time with a bounded number of frames.
fn unwound(source: &Source<'_>, regs: Regs) -> Chain {
    let start = Instant::now();
    let chain = unwind(source, regs);
    assert!(start.elapsed() < PATIENCE, "{:?} for {} frames", start.elapsed(), chain.addresses.len());
    assert!((1..=MAX_FRAMES).contains(&chain.addresses.len()), "{}", chain.addresses.len());
    chain
}

#[test]
fn corrupt_stacks() {
    let (modules, samples) = (Modules::current(), samples());
    let (complete, incomplete) = (Cell::new(0), Cell::new(0));
    rounds("stacks", |random| {
        let sample = &samples[random.below(samples.len())];
        let (mut regs, mut bytes) = (sample.regs, sample.bytes.clone());
        let mut start = regs.sp;
        if random.once_in(4) {
            // Moves the stack to the end of the address space, to its start, or anywhere.
            let len = bytes.len() as u64;
            let to = random.pick(&[u64::MAX - len, u64::MAX - len + 8, u64::MAX - 16, 0, 8, random.next() & !7]);
            let by = to.wrapping_sub(start);
            let old = start..start + len;
            for at in (0..bytes.len() & !7).step_by(8) {
                let cell: &mut [u8] = &mut bytes[at..at + 8];
                let word = u64::from_le_bytes((&*cell).try_into().unwrap());
                if old.contains(&word) {
                    cell.copy_from_slice(&word.wrapping_add(by).to_le_bytes());
                }
            }
            (start, regs.sp) = (to, regs.sp.wrapping_add(by));
            regs.fp = if old.contains(&regs.fp) { regs.fp.wrapping_add(by) } else { regs.fp };
        }
        let range = start..start.saturating_add(bytes.len() as u64).max(start.saturating_add(1));
        for _ in 0..random.size(64) {
            // Most reads are near the stack pointer.
            let at = random.size(bytes.len().max(16) - 16) & !7;
            let word = word(random, &modules, &range);
            match bytes.get_mut(at..at + 8) {
                Some(cell) if random.once_in(3) => cell[random.below(8)] ^= 1 << random.below(8),
                Some(cell) => cell.copy_from_slice(&word.to_le_bytes()),
                None => {}
            }
        }
        if random.once_in(3) {
            bytes.truncate(random.size(bytes.len().max(1)));
        }
        if random.once_in(2) {
            let wrong = word(random, &modules, &range);
            match random.below(3) {
                0 => regs.ip = wrong,
                1 => regs.sp = wrong,
                _ => regs.fp = wrong,
            }
        }
        // Code can be read, cannot be read, or is noise.
        let (kind, noise) = (random.below(6), Cell::new(random.next()));
        let code = move |from: u64, to: &mut [u8]| match kind {
            0 => false,
            1 => {
                to.fill_with(|| {
                    noise.set(noise.get().wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1));
                    (noise.get() >> 56) as u8
                });
                true
            }
            _ => memory::read(from, to),
        };
        let source = Source { modules: &modules, stack: StackCopy { start, bytes: &bytes }, code: &code };
        let chain = unwound(&source, regs);
        let ends = if chain.complete { &complete } else { &incomplete };
        ends.set(ends.get() + 1);
    });
    println!("{} complete, {} not", complete.get(), incomplete.get());
}

/// Makes a library of a few pages with random unwind tables.
fn library(random: &Random, like: &Modules) -> Modules {
    const BASE: u64 = 0x10_0000;
    let functions = 1 + random.size(8);
    let frames_at = BASE + 0x8000;
    // A CIE as compilers write it. Some rounds use a random one.
    let mut cie = vec![1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1];
    let mut frames = Vec::new();
    let noise = |random: &Random, len: usize| -> Vec<u8> {
        let mut noise = random.bytes(len);
        if like.is_foreign && len >= 3 && random.once_in(2) {
            // A jump, which most often leads to where it is, or to shortly before.
            let at = random.below(len - 2);
            let distance = -3 - random.size(8) as i16;
            noise[at] = random.pick(&[0x28, 0x2f]);
            noise[at + 1..at + 3].copy_from_slice(&distance.to_le_bytes());
        }
        // The bytes of jump instructions are replaced, as this file's documentation explains.
        let replaced = |byte| if matches!(byte, 0x28 | 0x2f) && !like.is_foreign { 0x30 } else { byte };
        noise.into_iter().map(replaced).collect()
    };
    if random.once_in(3) {
        let len = random.below(40);
        cie = noise(random, len);
    }
    // Pointers relative to the data, of which `framehop` takes 0 as the start.
    let is_data_relative = cie.contains(&0x1b) && random.once_in(4);
    cie.iter_mut().filter(|byte| is_data_relative && **byte == 0x1b).for_each(|byte| *byte = 0x3b);
    let entry = |frames: &mut Vec<u8>, body: &[u8]| {
        let at = frames.len();
        frames.extend((body.len() as u32).to_le_bytes());
        frames.extend(body);
        at
    };
    let mut body = vec![0; 4];
    body.extend(&cie);
    entry(&mut frames, &body);
    let mut table = Vec::new();
    for function in 0..functions as u64 {
        let start = BASE + function * 0x100;
        let at = frames.len() as u64;
        let mut body = Vec::new();
        // The distance to the CIE, the function, its length, no more augmentation.
        body.extend((at as u32 + 4).to_le_bytes());
        let base = if is_data_relative { BASE } else { frames_at + at + 8 };
        body.extend((start.wrapping_sub(base) as u32).to_le_bytes());
        body.extend(0x100u32.to_le_bytes());
        body.push(0);
        // Instructions: usual ones, expressions, and noise.
        for _ in 0..random.below(6) {
            match random.below(4) {
                0 => body.extend([0x41 + random.below(4) as u8, 0x0e, random.below(0x80) as u8]),
                1 => body.extend([0x86, random.below(0x80) as u8, 0x0d, 6]),
                2 => {
                    let expression = noise(random, 1 + random.below(12));
                    body.extend([random.pick(&[0x0f, 0x10, 0x16]), random.below(20) as u8, expression.len() as u8]);
                    body.extend(expression);
                }
                _ => {
                    let len = random.below(12);
                    body.extend(noise(random, len));
                }
            }
        }
        let at = entry(&mut frames, &body) as u64;
        table.push((start, frames_at + at));
    }
    frames.extend([0; 4]);
    let header_at = BASE + 0x7000;
    let mut header = vec![1, 0x1b, 0x03, 0x3b];
    header.extend(((frames_at - (header_at + 4)) as u32).to_le_bytes());
    header.extend((functions as u32).to_le_bytes());
    for (start, at) in table {
        header.extend((start.wrapping_sub(header_at) as u32).to_le_bytes());
        header.extend((at.wrapping_sub(header_at) as u32).to_le_bytes());
    }
    for bytes in [&mut header, &mut frames] {
        for _ in 0..[0, 0, 1, 4][random.below(4)] {
            let at = random.below(bytes.len());
            bytes[at] = noise(random, 1)[0];
        }
        if random.once_in(8) {
            bytes.truncate(random.below(bytes.len()));
        }
    }
    let header = Table { at: header_at, bytes: header.into() };
    let frames = Table { at: frames_at, bytes: frames.into() };
    like.with_library(BASE..BASE + 0x10000, header, frames)
}

#[test]
fn corrupt_tables() {
    in_child_process(module_path!(), "corrupt_tables", Duration::from_secs(600), || {
        let (own, samples) = (Modules::current(), samples());
        let foreign_modules = own.as_foreign();
        let (frames, foreign) = (Cell::new(0), Arc::new(AtomicU64::new(0)));
        let (report, panics) = (std::panic::take_hook(), foreign.clone());
        std::panic::set_hook(Box::new(move |info| match info.location() {
            Some(at) if ["/gimli-", "/framehop-"].iter().any(|of| at.file().contains(of)) => {
                panics.fetch_add(1, Ordering::Relaxed);
            }
            _ => report(info),
        }));
        rounds("tables", |random| {
            let panics = foreign.load(Ordering::Relaxed);
            let survives = |f: &mut dyn FnMut()| {
                let panicked = catches_panic(f);
                assert!(!panicked || foreign.load(Ordering::Relaxed) > panics, "a panic of this crate");
            };
            let mut made = None;
            let like = if random.once_in(2) { &*own } else { &foreign_modules };
            survives(&mut || made = Some(library(random, like)));
            let Some(modules) = made else { return };
            let library = modules.list.last().expect("the library was added").range.clone();
            let sample = &samples[0];
            let (mut regs, mut bytes) = (sample.regs, sample.bytes.clone());
            let stack = regs.sp..regs.sp + bytes.len() as u64;
            regs.ip = library.start + random.next() % 0x900;
            regs.fp = word(random, &modules, &stack);
            for at in (0..bytes.len().min(1024) & !7).step_by(8) {
                if random.once_in(3) {
                    let inside = library.start + random.next() % 0x900;
                    let word = if random.once_in(2) { inside } else { word(random, &modules, &stack) };
                    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
            let source =
                Source { modules: &modules, stack: StackCopy { start: regs.sp, bytes: &bytes }, code: &memory::read };
            survives(&mut || frames.set(frames.get() + unwound(&source, regs).addresses.len()));
            // Looks up addresses that are not code.
            for _ in 0..8 {
                let at = if random.once_in(2) { random.next() } else { library.start + random.next() % 0x10000 };
                if let Some(module) = modules.find(at) {
                    assert!(module.function(at).is_none_or(|function| function.contains(&at)));
                }
            }
        });
        println!("{} frames, {} panics of dependencies", frames.get(), foreign.load(Ordering::Relaxed));
    });
}

#[test]
fn corrupt_code() {
    rounds("code", |random| {
        let len = random.below(65);
        let mut code = random.bytes(len);
        if random.once_in(2) {
            // The usual first instructions of a function.
            let prologue = [0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0x48, 0x81, 0xec];
            let len = prologue.len().min(code.len());
            code[..len].copy_from_slice(&prologue[..len]);
        }
        arch::frame_size(&code);
        if let Some(before) = code.last_chunk() {
            arch::called(before, random.next());
        }
    });
}
