//! Folded stacks: `frame;frame;frame microseconds`, a line each, outermost first. What flame graph tools read.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Entry, steps};

/// The unit of the numbers.
pub(crate) const UNIT: &str = "microseconds";

/// One line for each different stack, in the order of the entries.
pub(crate) fn text(entries: &[Entry]) -> String {
    let mut nanos: Vec<(String, u64)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (key, amount) in entries {
        let names: Vec<_> = steps(key).iter().map(|step| plain(&step.name)).collect();
        let stack = names.join(";");
        // Entries that differ in cause or lines only are one stack here; rounded once, when they are added up.
        let at = *known.entry(stack).or_insert_with_key(|stack| {
            nanos.push((stack.clone(), 0));
            nanos.len() - 1
        });
        nanos[at].1 += amount.nanos;
    }
    let mut text = String::new();
    for (stack, nanos) in nanos {
        let _ = writeln!(text, "{stack} {}", nanos.div_ceil(1_000));
    }
    text
}

/// Without what separates frames or lines.
fn plain(name: &str) -> String {
    let replace = |c: char| match c {
        ';' => ',',
        c if c.is_control() => ' ',
        c => c,
    };
    name.chars().map(replace).collect()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::model::cause::Cause;

    #[test]
    fn a_line_for_each_stack() {
        assert_eq!(
            text(&samples::entries()),
            "main;src/main.rs:8:9;app::handler;app::render 3000000\n\
             main;src/main.rs:8:9;app::handler;app::lock 1000000\n\
             main;src/other.rs:1:2;[no stack: unknown] 10001\n\
             main;[starved];src/main.rs:8:9;app::handler;app::lock 5000\n"
        );
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn one_stack_is_one_line() {
        let stack = |line| vec![samples::function("f", "f.rs", line)];
        let entries = [
            samples::entry("s", Cause::Cpu, stack(1), 1, 1_000_400),
            samples::entry("s", Cause::Lock, stack(1), 1, 1_000_400),
            samples::entry("s", Cause::Cpu, stack(2), 1, 1_000_200),
        ];
        assert_eq!(text(&entries), "main;s;f 3001\n");
    }

    #[test]
    fn names_stay_within_their_frame() {
        let text = text(&samples::hostile());
        assert_eq!(text.lines().count(), 1);
        assert_eq!(text, "r&d 7  ;a,b <img onerror=alert(1)>;</title><script>\"'&   20000\n");
    }
}
