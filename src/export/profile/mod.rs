//! What stalls add up to, in the formats of the tools that show it. Each is a pure function of the profile's entries, called by the
//! server.

pub(crate) mod entries;
pub(crate) mod flamegraph;
pub(crate) mod folded;
pub(crate) mod pprof;
pub(crate) mod speedscope;
mod tree;

use std::borrow::Cow;

use crate::report::profile::Key;
use crate::report::totals::CountAndTime as Amount;

/// What is exported, most blocked time first.
pub(crate) type Entry = (Key, Amount);

/// The name of the program's file.
pub(crate) fn program() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default()
}

/// One step on the way from a runtime to where it blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step<'a> {
    name: Cow<'a, str>,
    file: Option<&'a str>,
    line: Option<u32>,
    /// Neither a function nor what stands for one: a runtime, a site, a remark on them.
    group: bool,
}

impl<'a> Step<'a> {
    fn group(name: impl Into<Cow<'a, str>>) -> Step<'a> {
        Step { name: name.into(), file: None, line: None, group: true }
    }
}

/// Runtime, route (else site), functions; outermost first. What is not the task's fault stands apart from what is.
fn steps(key: &Key) -> Vec<Step<'_>> {
    let mut steps = vec![Step::group(&*key.runtime)];
    if !key.cause.is_blamed() {
        steps.push(Step::group(format!("[{}]", key.cause)));
    }
    steps.push(Step::group(key.route.as_deref().unwrap_or(&key.site)));
    steps.extend(key.stack.iter().map(|function| Step {
        name: (&*function.name).into(),
        file: function.file.as_deref(),
        line: function.line,
        group: false,
    }));
    if key.stack.is_empty() {
        steps.push(Step { group: false, ..Step::group(no_stack(key)) });
    }
    steps
}

fn no_stack(key: &Key) -> String {
    format!("[no stack: {}]", key.cause)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod samples {
    use super::*;
    use crate::model::cause::Cause;
    use crate::report::profile::Function;

    pub(super) fn function(name: &str, file: &str, line: u32) -> Function {
        Function { name: name.into(), file: (!file.is_empty()).then(|| file.into()), line: (line > 0).then_some(line) }
    }

    pub(super) fn entry(site: &str, cause: Cause, stack: Vec<Function>, count: u64, nanos: u64) -> Entry {
        (
            Key { runtime: "main".into(), site: site.into(), route: None, parent_route: None, cause, stack },
            Amount { count, nanos },
        )
    }

    /// Two stacks that part in their innermost function, one without a stack, one that is nobody's fault.
    pub(super) fn entries() -> Vec<Entry> {
        let handler = || function("app::handler", "src/app.rs", 17);
        let lock = vec![handler(), function("app::lock", "src/app.rs", 50)];
        vec![
            entry(
                "src/main.rs:8:9",
                Cause::Cpu,
                vec![handler(), function("app::render", "src/app.rs", 41)],
                3,
                3_000_000_000,
            ),
            entry("src/main.rs:8:9", Cause::Lock, lock.clone(), 2, 1_000_000_000),
            entry("src/other.rs:1:2", Cause::Unknown, Vec::new(), 1, 10_000_500),
            entry("src/main.rs:8:9", Cause::Starved, lock, 1, 5_000_000),
        ]
    }

    /// Names that would be markup, or would break a line, if they were not escaped.
    pub(super) fn hostile() -> Vec<Entry> {
        let mut entry = entry(
            "a;b\n<img onerror=alert(1)>",
            Cause::Cpu,
            vec![function("</title><script>\"'&\u{1b}\0", "<b>;.rs", 1)],
            1,
            20_000_000,
        );
        entry.0.runtime = "r&d 7\r\n".into();
        vec![entry]
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn names(entry: &Entry) -> Vec<String> {
        steps(&entry.0).into_iter().map(|step| step.name.into_owned()).collect()
    }

    #[test]
    fn from_the_runtime_to_the_function() {
        let entries = samples::entries();
        assert_eq!(names(&entries[0]), ["main", "src/main.rs:8:9", "app::handler", "app::render"]);
        assert_eq!(names(&entries[2]), ["main", "src/other.rs:1:2", "[no stack: unknown]"]);
        let mut routed = entries[0].clone();
        routed.0.route = Some("/report/{id}".into());
        assert_eq!(names(&routed)[..3], ["main", "/report/{id}", "app::handler"], "all connections have one site");
        assert_eq!(names(&entries[3]), ["main", "[starved]", "src/main.rs:8:9", "app::handler", "app::lock"]);
    }
}
