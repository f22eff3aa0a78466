//! The watchdog's part of load shedding: what the probes answered, and what the gates say because of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::overload::{Lag, Overload, Turn};
use super::scan::Look;
use crate::measure::gate::Gate;
use crate::measure::meter::Meter;
use crate::measure::probe::Answer;

/// How long requests may believe what a gate says.
const HOLDS: u64 = 1_000_000_000;

/// A turn to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) runtime: u16,
    pub(crate) turn: Turn,
    /// In nanoseconds, as the mark.
    pub(crate) lag: u64,
    pub(crate) high: u64,
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
    pub(crate) fn step(&mut self, meter: &Meter, now: u64, look: &Look) -> Vec<Told> {
        self.follow(meter);
        if !self.is_wanted() {
            self.waiting.clear();
            return Vec::new();
        }
        let heard = self.heard(meter, look);
        let mut told = Vec::new();
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
                told.extend(turn.map(|turn| Told { runtime, turn, lag: told_lag, high: gate.marks.high }));
                !overload.is_calm()
            });
        }
        told
    }

    /// Takes new gates in, and lets those go that nobody else has.
    fn follow(&mut self, meter: &Meter) {
        if self.gates.is_empty() && !meter.gates.are_there() {
            return;
        }
        self.gates.retain(|(gate, _)| Arc::strong_count(gate) > 1);
        for gate in meter.gates.all() {
            if !self.gates.iter().any(|(known, _)| Arc::ptr_eq(known, &gate)) {
                self.gates.push((gate, HashMap::new()));
            }
        }
    }

    fn heard(&mut self, meter: &Meter, look: &Look) -> Vec<(u16, Lag)> {
        let mut heard = Vec::new();
        self.waiting.retain(|&id| {
            let Some(runtime) = meter.runtimes.get(id) else { return false };
            match runtime.probe.answer() {
                Answer::After(nanos) => {
                    heard.push((id, Lag::Was(nanos)));
                    false
                }
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

    /// Lets all requests in.
    pub(crate) fn open_all(&mut self) {
        self.gates.drain(..).for_each(|(gate, _)| gate.open());
    }
}
