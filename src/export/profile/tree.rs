//! Stacks merged into a tree: what they share from the outside is one node.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Step;
use crate::model::cause::Cause;
use crate::report::totals::CountAndTime as Amount;

/// A function as called from one place, with everything further in.
#[derive(Clone, Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) file: Option<&'a str>,
    /// Where in it the blocked time was.
    pub(super) lines: BTreeSet<u32>,
    /// Not a function: a runtime, a site.
    pub(super) group: bool,
    pub(super) count: u64,
    pub(super) children: Vec<Node<'a>>,
    /// In the order of `Cause::ALL`.
    nanos: [u64; Cause::ALL.len()],
}

impl<'a> Node<'a> {
    /// Adds a stack that begins at this node; `steps` are further in.
    pub(super) fn add(&mut self, steps: &[Step<'a>], cause: Cause, amount: Amount) {
        self.count += amount.count;
        self.nanos[cause as usize] += amount.nanos;
        let Some((step, inner)) = steps.split_first() else { return };
        let same = |node: &Node<'_>| node.name == step.name && node.file == step.file && node.group == step.group;
        let at = self.children.iter().position(same).unwrap_or_else(|| {
            let Step { name, file, group, .. } = step.clone();
            self.children.push(Node { name, file, group, ..Node::default() });
            self.children.len() - 1
        });
        let child = &mut self.children[at];
        child.lines.extend(step.line);
        child.add(inner, cause, amount);
    }

    /// Most blocked time first, everywhere.
    pub(super) fn sort(&mut self) {
        self.children.sort_by(|a, b| b.nanos().cmp(&a.nanos()).then_with(|| a.name.cmp(&b.name)));
        self.children.iter_mut().for_each(Node::sort);
    }

    pub(super) fn nanos(&self) -> u64 {
        self.nanos.iter().sum()
    }

    /// Causes that it has any time of.
    pub(super) fn causes(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.iter().copied().zip(self.nanos).filter(|(_, nanos)| *nanos > 0)
    }

    /// The cause of most of its time.
    pub(super) fn main_cause(&self) -> Option<Cause> {
        self.causes().max_by_key(|(_, nanos)| *nanos).map(|(cause, _)| cause)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::{samples, steps};
    use super::*;

    fn tree(entries: &[super::super::Entry]) -> Node<'_> {
        let mut root = Node::default();
        entries.iter().for_each(|(key, amount)| root.add(&steps(key), key.cause, *amount));
        root.sort();
        root
    }

    #[test]
    fn adds_up_what_is_shared() {
        let entries = samples::entries();
        let root = tree(&entries);
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
    fn one_function_at_two_lines_is_one_node() {
        let at = |line| samples::entry("s", Cause::Cpu, vec![samples::function("f", "f.rs", line)], 1, 10);
        let entries = [at(9), at(4)];
        let root = tree(&entries);
        let function = &root.children[0].children[0].children[0];
        assert_eq!((function.nanos(), function.lines.iter().copied().collect::<Vec<_>>()), (20, vec![4, 9]));
    }
}
