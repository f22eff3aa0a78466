//! Stacks merged into a tree: common outer functions are one node.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Level, levels};
use crate::snapshot::StallSnapshot;
use crate::{Cause, Profile};

/// A function as called by one caller, with the functions that it called.
#[derive(Clone, Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) file: Option<&'a str>,
    /// The lines at which it blocked.
    pub(super) lines: BTreeSet<u32>,
    /// `true` if the node is a runtime, a route or a site; `false` for a function.
    pub(super) group: bool,
    pub(super) count: u64,
    pub(super) children: Vec<Node<'a>>,
    /// The blocked nanoseconds, in the order of `Cause::ALL`.
    nanos: [u64; Cause::ALL.len()],
}

impl<'a> Node<'a> {
    /// Returns the root of the tree of a profile, sorted by blocked time.
    pub(super) fn root(profile: &'a Profile) -> Node<'a> {
        let mut root = Node::default();
        for entry in &profile.entries {
            root.add(&levels(entry), entry.cause, entry.stalls);
        }
        root.sort();
        root
    }

    /// Adds a stack below this node.
    fn add(&mut self, levels: &[Level<'a>], cause: Cause, stalls: StallSnapshot) {
        self.count += stalls.count;
        self.nanos[cause as usize] += stalls.time.as_nanos() as u64;
        let Some((level, inner)) = levels.split_first() else { return };
        let same = |node: &Node<'_>| node.name == level.name && node.file == level.file && node.group == level.group;
        let at = self.children.iter().position(same).unwrap_or_else(|| {
            let Level { name, file, group, .. } = level.clone();
            self.children.push(Node { name, file, group, ..Node::default() });
            self.children.len() - 1
        });
        let child = &mut self.children[at];
        child.lines.extend(level.line);
        child.add(inner, cause, stalls);
    }

    /// Sorts all children by descending blocked time.
    fn sort(&mut self) {
        self.children.sort_by(|a, b| b.nanos().cmp(&a.nanos()).then_with(|| a.name.cmp(&b.name)));
        self.children.iter_mut().for_each(Node::sort);
    }

    pub(super) fn nanos(&self) -> u64 {
        self.nanos.iter().sum()
    }

    /// Returns the causes of the blocked time, and the nanoseconds of each.
    pub(super) fn causes(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.iter().copied().zip(self.nanos).filter(|(_, nanos)| *nanos > 0)
    }

    /// Returns the cause of most of the blocked time. A known cause wins a tie with `unknown`.
    pub(super) fn main_cause(&self) -> Option<Cause> {
        let rank = |(cause, nanos): &(Cause, u64)| (*nanos, *cause != Cause::Unknown);
        self.causes().max_by_key(rank).map(|(cause, _)| cause)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn sums_common_functions() {
        let profile = samples::stalls();
        let root = Node::root(&profile);
        assert_eq!((root.count, root.nanos()), (7, 4_015_000_500));
        let main = &root.children[0];
        let names: Vec<_> = main.children.iter().map(|node| &*node.name).collect();
        assert_eq!(names, ["src/main.rs:8:9", "src/other.rs:1:2", "[starved]"], "most blocked time first");
        let handler = &main.children[0].children[0];
        assert_eq!((&*handler.name, handler.count, handler.nanos()), ("app::handler", 5, 4_000_000_000));
        assert_eq!(handler.main_cause(), Some(Cause::Cpu));
        assert_eq!(handler.causes().collect::<Vec<_>>(), [(Cause::Cpu, 3_000_000_000), (Cause::Lock, 1_000_000_000)]);
        assert_eq!(handler.children.len(), 2);
    }

    #[test]
    fn a_known_cause_wins_a_tie_with_unknown() {
        let main_cause = |unknown_nanos| {
            let function = || vec![samples::function("f", "f.rs", 1)];
            let known = samples::entry("s", Cause::Cpu, function(), 1, 10);
            let unknown = samples::entry("s", Cause::Unknown, function(), 1, unknown_nanos);
            let profile = samples::profile([known, unknown]);
            Node::root(&profile).children[0].main_cause()
        };
        assert_eq!([9, 10, 11].map(main_cause), [Cause::Cpu, Cause::Cpu, Cause::Unknown].map(Some));
    }

    #[test]
    fn one_function_at_two_lines_is_one_node() {
        let at = |line| samples::entry("s", Cause::Cpu, vec![samples::function("f", "f.rs", line)], 1, 10);
        let profile = samples::profile([at(9), at(4)]);
        let root = Node::root(&profile);
        let function = &root.children[0].children[0].children[0];
        assert_eq!((function.nanos(), function.lines.iter().copied().collect::<Vec<_>>()), (20, vec![4, 9]));
    }
}
