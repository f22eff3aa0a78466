//! The watchdog's part of load shedding: what the probes answered, and what the gates say because of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::overload::{Lag, Overload, Turn};
use super::track::Scan;
use crate::measure::gate::{Gate, Marks};
use crate::measure::runtime::meter::Meter;
use crate::measure::runtime::probe::Answer;

/// How long requests may believe what a gate says.
const HOLDS: u64 = 1_000_000_000;

/// A turn to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) runtime: u16,
    /// Those of the gate: no other has them.
    pub(crate) marks: Marks,
    pub(crate) turn: Turn,
    /// In nanoseconds.
    pub(crate) lag: u64,
    /// How many requests to the runtime the gate had turned away by then.
    pub(crate) turned_away: u64,
}

/// What is kept from one look to the next.
#[derive(Default)]
pub(crate) struct Shedding {
    gates: Vec<(Arc<Gate>, HashMap<u16, Overload>)>,
    /// Runtimes whose probe was woken, and has not been heard of.
    waiting: Vec<u16>,
}

impl Shedding {
    /// Whether anybody turns requests away when a runtime is late.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.gates.is_empty()
    }

    /// The runtimes whose requests are turned away now.
    pub(crate) fn late(&self) -> impl Iterator<Item = u16> {
        let shed = self.gates.iter().flat_map(|(_, overloads)| overloads);
        shed.filter(|(_, overload)| overload.is_shedding()).map(|(runtime, _)| *runtime)
    }

    /// A probe was woken.
    pub(crate) fn sent(&mut self, runtime: u16) {
        if self.is_wanted() && !self.waiting.contains(&runtime) {
            self.waiting.push(runtime);
        }
    }

    /// Hears the probes, and sets the gates.
    pub(crate) fn step(&mut self, meter: &Meter, now: u64, look: &Scan) -> Vec<Told> {
        let mut told = self.follow(meter);
        if !self.is_wanted() {
            self.waiting.clear();
            return told;
        }
        let heard = self.heard(meter, look);
        for (gate, overloads) in &mut self.gates {
            for &(runtime, _) in &heard {
                overloads.entry(runtime).or_insert_with(|| Overload::new(gate.marks));
            }
            overloads.retain(|&runtime, overload| {
                let lag = heard.iter().find(|(heard, _)| *heard == runtime).map(|(_, lag)| *lag);
                // Kept until there is an answer that it goes with.
                let refused = matches!(lag, Some(Lag::Was(_))) && gate.take_refused(runtime);
                let before = overload.lag();
                let turn = overload.hear(now, lag, refused);
                if turn.is_some() || overload.is_shedding() {
                    if turn == Some(Turn::Begins)
                        && let Some(metrics) = meter.runtimes.get(runtime).and_then(|runtime| runtime.metrics())
                    {
                        gate.set_workers(runtime, metrics.num_workers());
                    }
                    if let Some(runtime) = meter.runtimes.get(runtime) {
                        gate.set(runtime.id, overload.lag(), &runtime.probe.sent, now + HOLDS);
                    }
                }
                let told_lag = if overload.is_shedding() { overload.lag() } else { before };
                told.extend(turn.map(|turn| Told::of(gate, runtime, turn, told_lag)));
                !overload.is_calm()
            });
        }
        told
    }

    /// Takes new gates in, and lets those go that nobody else has; the ends of what these did.
    fn follow(&mut self, meter: &Meter) -> Vec<Told> {
        let mut ends = Vec::new();
        if self.gates.is_empty() && !meter.gates.are_there() {
            return ends;
        }
        self.gates.retain(|(gate, overloads)| {
            let is_needed = Arc::strong_count(gate) > 1;
            if !is_needed {
                ends.extend(ends_of(gate, overloads));
            }
            is_needed
        });
        for gate in meter.gates.all() {
            if !self.gates.iter().any(|(known, _)| Arc::ptr_eq(known, &gate)) {
                self.gates.push((gate, HashMap::new()));
            }
        }
        ends
    }

    fn heard(&mut self, meter: &Meter, look: &Scan) -> Vec<(u16, Lag)> {
        let mut heard = Vec::new();
        self.waiting.retain(|&id| {
            let Some(runtime) = meter.runtimes.get(id) else { return false };
            match runtime.probe.answer() {
                Answer::After(nanos) => {
                    heard.push((id, Lag::Was(nanos)));
                    false
                }
                Answer::Withdrawn => false,
                Answer::Waiting(sent) => {
                    // Behind polls that began before it was woken, it may be next: it is others' turns that make it late.
                    let begins = look.running.iter().filter(|poll| poll.runtime == id).map(|poll| poll.begin);
                    let passed = begins.max().map(|begin| begin.saturating_sub(meter.clock.nanos(sent)));
                    heard.extend(passed.map(|nanos| (id, Lag::AtLeast(nanos))));
                    true
                }
            }
        });
        heard
    }

    /// Lets all requests in; the ends of what was turned away.
    pub(crate) fn open_all(&mut self) -> Vec<Told> {
        let mut ends = Vec::new();
        for (gate, overloads) in self.gates.drain(..) {
            gate.open();
            ends.extend(ends_of(&gate, &overloads));
        }
        ends
    }
}

impl Told {
    fn of(gate: &Gate, runtime: u16, turn: Turn, lag: u64) -> Told {
        Told { runtime, marks: gate.marks, turn, lag, turned_away: gate.turned_away(runtime) }
    }
}

fn ends_of(gate: &Gate, overloads: &HashMap<u16, Overload>) -> Vec<Told> {
    let shed = overloads.iter().filter(|(_, overload)| overload.is_shedding());
    shed.map(|(&runtime, overload)| Told::of(gate, runtime, Turn::Ends, overload.lag())).collect()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::measure::runtime::Runtime;

    const MS: u64 = 1_000_000;
    const MARKS: Marks = Marks { high: 20 * MS, low: 10 * MS, sustain: 100 * MS };

    /// A runtime whose probe answers what it is told to, and whose time passes by 20 ms a step.
    struct Scene {
        meter: Arc<Meter>,
        runtime: Arc<Runtime>,
        gate: Arc<Gate>,
        shedding: Shedding,
        now: u64,
    }

    impl Scene {
        fn new() -> Scene {
            let meter = Meter::of(10 * MS, 10);
            let runtime = meter.runtimes.reserve("main", meter.id).unwrap().unwrap();
            let gate = meter.gates.get(MARKS);
            let mut scene = Scene { meter, runtime, gate, shedding: Shedding::default(), now: 10_000 * MS };
            scene.step(Answer::Withdrawn);
            scene
        }

        fn step(&mut self, answer: Answer) -> Vec<Turn> {
            self.runtime.probe.pretend(answer);
            self.shedding.sent(self.runtime.id);
            self.now += 20 * MS;
            let told = self.shedding.step(&self.meter, self.now, &Scan::default());
            told.iter().map(|told| told.turn).collect()
        }

        /// Steps alike; the turns, with the number of the step at which they came.
        fn steps(&mut self, n: usize, answer: Answer) -> Vec<(usize, Turn)> {
            (0..n).flat_map(|i| self.step(answer).into_iter().map(move |turn| (i, turn))).collect()
        }

        /// Two requests of a blocking route at once: one has no room. Whether it is turned away for that.
        fn refuse(&self) -> bool {
            let id = self.runtime.id;
            let place = self.gate.pass(id);
            place.is_some() && self.gate.is_closed() && self.gate.pass(id).is_none()
        }
    }

    #[test]
    fn refusals_do_not_keep_a_gate_closed() {
        let mut scene = Scene::new();
        assert_eq!(scene.steps(50, Answer::After(60 * MS)), [(5, Turn::Begins)]);
        let ends = (0..).find(|i| {
            assert!(scene.refuse() && *i < 200, "closed after {i} steps");
            scene.step(Answer::After(MS)) == [Turn::Ends]
        });
        assert!(ends.unwrap() <= 150, "two seconds and two half-lives: {ends:?}");
        for _ in 0..1_000 {
            assert!(!scene.refuse());
            assert_eq!(scene.step(Answer::After(MS)), []);
        }
    }

    #[test]
    fn a_quick_service_without_lag_is_never_shed() {
        let mut scene = Scene::new();
        let answers = [0, 1, 19, 20].map(|ms| Answer::After(ms * MS));
        // A late one now and then is one long poll.
        let late = [Answer::After(5_000 * MS), Answer::After(0), Answer::Withdrawn];
        for answer in answers.into_iter().chain(late).cycle().take(10_000) {
            assert_eq!(scene.step(answer), []);
            assert!(!scene.gate.is_closed() && !scene.refuse());
            assert_eq!(scene.gate.turns_away(&scene.meter.clock, scene.runtime.id), None);
        }
    }

    #[test]
    fn a_probe_that_was_withdrawn_tells_nothing() {
        let mut scene = Scene::new();
        // Neither does it make an end of being late,
        assert_eq!(scene.steps(3, Answer::After(60 * MS)), []);
        assert_eq!(scene.steps(3, Answer::Withdrawn), []);
        assert_eq!(scene.steps(1, Answer::After(60 * MS)), [(0, Turn::Begins)]);
        // nor does it go on for ever: nothing is known after a second.
        assert_eq!(scene.steps(100, Answer::Withdrawn), [(49, Turn::Ends)]);
        assert!(!scene.gate.is_closed());
        assert_eq!(scene.steps(100, Answer::Withdrawn), []);
    }

    #[test]
    fn the_end_is_told_when_the_last_service_goes() {
        let mut scene = Scene::new();
        scene.steps(50, Answer::After(60 * MS));
        scene.gate.count(scene.runtime.id);
        scene.gate = Arc::new(Gate::new(MARKS));
        let told = scene.shedding.step(&scene.meter, scene.now, &Scan::default());
        assert_eq!(told.iter().map(|told| (told.turn, told.turned_away)).collect::<Vec<_>>(), [(Turn::Ends, 1)]);
        assert!(!scene.shedding.is_wanted());
    }

    #[test]
    fn two_gates_tell_of_themselves() {
        let mut scene = Scene::new();
        let lazy = scene.meter.gates.get(Marks { sustain: 500 * MS, ..MARKS });
        let (mut told, id) = (Vec::new(), scene.runtime.id);
        for _ in 0..50 {
            scene.runtime.probe.pretend(Answer::After(60 * MS));
            scene.shedding.sent(id);
            scene.now += 20 * MS;
            told.extend(scene.shedding.step(&scene.meter, scene.now, &Scan::default()));
        }
        assert_eq!(told.iter().map(|told| told.marks).collect::<Vec<_>>(), [MARKS, lazy.marks]);
        let ends = scene.shedding.open_all();
        assert!(ends.len() == 2 && ends.iter().all(|told| told.turn == Turn::Ends), "{ends:?}");
    }
}
