use super::*;
use loom::thread;
use std::sync::atomic::{AtomicU32 as Plain, Ordering::SeqCst};

/// Requests of blocking routes that come and go at once: never more inside than there are places, however few are let in; and all
/// places are free when they are gone.
#[test]
fn never_more_inside_than_there_are_places() {
    const ROOM: u32 = 1;
    let most = Arc::new([const { Plain::new(0) }; 2]);
    let met = most.clone();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let gate = Arc::new(Gate::new(Marks { high: 20, low: 10, sustain: 100 }));
        gate.set_workers(3, ROOM as usize + 1);
        let inside = Arc::new(Plain::new(0));
        let request = |gate: Arc<Gate>, inside: Arc<Plain>| {
            let pass = gate.pass(3);
            if pass.is_some() {
                let now = inside.fetch_add(1, SeqCst) + 1;
                assert!(now <= ROOM, "{now} are inside");
                // A place that is asked for meanwhile is not there.
                assert!(gate.pass(3).is_none());
                inside.fetch_sub(1, SeqCst);
            }
            u32::from(pass.is_some())
        };
        let other = thread::spawn({
            let (gate, inside) = (gate.clone(), inside.clone());
            move || request(gate, inside)
        });
        let let_in = request(gate.clone(), inside) + other.join().unwrap();
        met[let_in.saturating_sub(1) as usize].fetch_add(1, SeqCst);
        assert!(let_in > 0 && gate.take_refused(3), "whoever is first has a place; the further ones are told of");
        assert!(gate.pass(3).is_some(), "all have left");
    });
    assert!(most.iter().all(|count| count.load(SeqCst) > 0), "one let in, both let in: {most:?}");
}
