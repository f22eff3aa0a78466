//! Folded stacks, the input of flame graph tools: one line `frame;frame;frame microseconds` for
//! each stack, outermost frame first.

use std::collections::HashMap;
use std::fmt::Write;

use super::levels;
use crate::Profile;

/// The unit of the numbers.
pub(in crate::export) const UNIT: &str = "microseconds";

/// Returns one line for each different stack, in the order of the entries.
pub(in crate::export) fn text(profile: &Profile) -> String {
    let mut stacks: Vec<(String, u128)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for entry in &profile.entries {
        let names: Vec<_> = levels(entry).iter().map(|level| plain(&level.name)).collect();
        let stack = names.join(";");
        // Entries that differ only in cause or lines are one stack here. The sum is rounded, not
        // its parts.
        let at = *known.entry(stack).or_insert_with_key(|stack| {
            stacks.push((stack.clone(), 0));
            stacks.len() - 1
        });
        stacks[at].1 += entry.stalls.time.as_nanos();
    }
    let mut text = String::new();
    for (stack, nanos) in stacks {
        let _ = writeln!(text, "{stack} {}", nanos.div_ceil(1_000));
    }
    text
}

/// Replaces the characters that separate frames or lines.
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
    use crate::Cause;

    #[test]
    fn each_stack_is_one_line() {
        assert_eq!(
            text(&samples::stalls()),
            "main;src/main.rs:8:9;app::handler;app::render 3000000\n\
             main;src/main.rs:8:9;app::handler;app::lock 1000000\n\
             main;src/other.rs:1:2;[no stack: unknown] 10001\n\
             main;[starved];src/main.rs:8:9;app::handler;app::lock 5000\n"
        );
        assert_eq!(text(&Profile::default()), "");
    }

    #[test]
    fn causes_and_lines_are_merged() {
        let stack = |line| vec![samples::function("f", "f.rs", line)];
        let entries = [
            samples::entry("s", Cause::Cpu, stack(1), 1, 1_000_400),
            samples::entry("s", Cause::Lock, stack(1), 1, 1_000_400),
            samples::entry("s", Cause::Cpu, stack(2), 1, 1_000_200),
        ];
        assert_eq!(text(&samples::profile(entries)), "main;s;f 3001\n");
    }

    #[test]
    fn names_do_not_split_frames() {
        let text = text(&samples::hostile_names());
        assert_eq!(text.lines().count(), 1);
        assert_eq!(text, "r&d 7  ;a,b <img onerror=alert(1)>;</title><script>\"'&   20000\n");
    }
}
