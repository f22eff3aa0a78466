//! Names as a person would say them. Pure.

use crate::util::short_path;

/// A demangled name without what the compiler added: closures, generic arguments, `<T as Trait>`.
///
/// `<app::Rows as core::iter::Iterator>::next` becomes `app::Rows::next`; `app::handler::{{closure}}` and
/// `app::handler::{async_fn_env#0}` become `app::handler`.
pub(crate) fn readable(demangled: &str) -> String {
    let name = without_impl(demangled);
    let mut plain = String::with_capacity(name.len());
    let mut depth = 0usize;
    let mut previous = ' ';
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            // The arrow of a function type is no bracket.
            '>' if previous != '-' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
        previous = c;
    }
    let named = plain.split("::").filter(|part| !is_hash(part)).filter_map(|part| part.split('{').next());
    let parts: Vec<&str> = named.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { kind(demangled) } else { parts.join("::") }
}

/// What a function without a name of its own is: `{async_fn#0}` an async fn.
fn kind(demangled: &str) -> String {
    let inner = demangled.strip_prefix('{').and_then(|rest| rest.split(['#', '}', ':']).next());
    inner.map_or_else(|| demangled.to_owned(), |kind| kind.trim_end_matches("_env").replace('_', " "))
}

/// The whole name of a function without one, as line tables give it when it was inlined (`{async_fn#0}`): whatever calls it in the
/// libraries is generic over it, and says so (`poll<app::report::handler::{async_fn_env#0}>`). `outer` are the functions that it was
/// inlined into, up to the next of the user's.
pub(crate) fn told_by_caller<'a>(made_up: &str, mut outer: impl Iterator<Item = &'a str>) -> Option<String> {
    let (kind, number) = made_up.strip_prefix('{')?.split('}').next()?.split_once('#')?;
    let env = format!("::{{{kind}_env#{number}}}");
    outer.find_map(|caller| {
        let end = caller.find(&env)?;
        let in_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '{' | '}' | '#');
        let begin = caller[..end].rfind(|c| !in_path(c)).map_or(0, |at| at + 1);
        Some(readable(&caller[begin..end]))
    })
}

/// `<Type as Trait>::rest` and `<Type>::rest` as `Type::rest`.
fn without_impl(name: &str) -> String {
    let Some(inner) = name.strip_prefix('<') else { return name.to_owned() };
    let mut depth = 1usize;
    let mut previous = ' ';
    let (mut end, mut trait_at) = (None, None);
    for (i, c) in inner.char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if previous == '-' => {}
            '>' | ')' | ']' => depth -= 1,
            ' ' if depth == 1 && trait_at.is_none() && inner[i..].starts_with(" as ") => trait_at = Some(i),
            _ => {}
        }
        if depth == 0 {
            end = Some(i);
            break;
        }
        previous = c;
    }
    let Some(end) = end else { return name.to_owned() };
    let of = without_impl(inner[..trait_at.unwrap_or(end)].trim_start_matches(['&', '*']).trim_start_matches("mut "));
    format!("{of}{}", &inner[end + 1..])
}

/// The hash at the end of old names. What else is made up is in braces: `{closure#0}`, `call_once{{vtable.shim}}`.
fn is_hash(part: &str) -> bool {
    part.len() == 17 && part.starts_with('h') && part[1..].chars().all(|c| c.is_ascii_hexdigit())
}

/// Whether a function belongs to the language, the C library or the runtime (with what that waits and polls by, and locks of the
/// same kind as the language's): not where a person would look.
pub(crate) fn is_library(name: &str, file: Option<&str>, in_program: bool) -> bool {
    const CRATES: [&str; 8] = ["std", "core", "alloc", "tokio", "mio", "parking_lot", "parking_lot_core", "lock_api"];
    let of_version = |folder: &str| {
        let (name, version) = folder.rsplit_once('-').unwrap_or_default();
        CRATES.contains(&name) && version.starts_with(|c: char| c.is_ascii_digit())
    };
    let by_file = file.is_some_and(|f| {
        // As the compiler's makers built it, as it is built here (`rust-src`), and what the standard library is made of.
        f.starts_with("/rustc/")
            || f.contains("/rustlib/src/rust/library/")
            || f.starts_with("/rust/deps/")
            || f.split('/').any(of_version)
    });
    let root = name.split("::").next().unwrap_or(name);
    let by_name = CRATES.contains(&root) || ["__", "_start", "rust_"].iter().any(|p| name.starts_with(p));
    !in_program || by_file || by_name
}

/// Whether a file belongs to a dependency, as far as its path tells.
pub(crate) fn is_dependency(file: &str) -> bool {
    file.contains("/registry/src/") || file.contains("/git/checkouts/") || file.contains("/vendor/")
}

/// Whether a function is the way by which a runtime came to poll: what lies outside of it is not the task's. Functions that were
/// inlined may have no name but their last one: then the file tells.
pub(crate) fn is_poll_entry(name: &str, file: Option<&str>) -> bool {
    const ENTRIES: [&str; 6] = [
        "tokio::runtime::task::",
        "tokio::runtime::park::",
        "tokio::task::local::",
        "pollwatch::measure::entry::future::",
        "pollwatch::measure::layer::",
        "pollwatch::measure::entry::task::",
    ];
    const FILES: [&str; 3] = ["src/runtime/task/", "src/runtime/park.rs", "src/task/local.rs"];
    let of_tokio = file.filter(|f| f.starts_with("tokio-1.")).and_then(|f| f.split_once('/')).map(|(_, below)| below);
    let by_name = ENTRIES.iter().any(|entry| name.starts_with(entry))
        || name.starts_with("tokio::runtime::") && name.ends_with("::block_on");
    let by_file = of_tokio.is_some_and(|f| {
        FILES.iter().any(|entry| f.starts_with(entry)) || f.starts_with("src/runtime/") && name == "block_on"
    });
    let by_ours = file.is_some_and(|file| own_entries().any(|entry| file == short_path(entry)));
    by_name || by_file || by_ours
}

/// Our files that poll what is the user's.
fn own_entries() -> impl Iterator<Item = &'static str> {
    let entries = [crate::measure::future::FILE, crate::measure::task::FILE].into_iter();
    #[cfg(feature = "tower")]
    let entries = entries.chain(crate::measure::layer::FILES);
    entries
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_of_people() {
        for (compiler, person) in [
            ("app::report::handler::{{closure}}", "app::report::handler"),
            ("app::report::handler::{async_fn_env#0}", "app::report::handler"),
            ("app::report::handler::{closure#0}::{closure#1}", "app::report::handler"),
            ("<app::Rows as core::iter::traits::Iterator>::next", "app::Rows::next"),
            ("<app::Rows<T> as Iterator>::next", "app::Rows::next"),
            ("<alloc::boxed::Box<F> as core::ops::FnOnce<(A,)>>::call_once", "alloc::boxed::Box::call_once"),
            ("app::load::<u32>", "app::load"),
            ("app::load<fn(u8) -> u16>::go", "app::load::go"),
            ("<<A as B>::C as D>::e", "A::C::e"),
            ("app::work::h0123456789abcdef", "app::work"),
            ("core::ops::function::FnOnce::call_once{{vtable.shim}}", "core::ops::function::FnOnce::call_once"),
            ("main", "main"),
            ("{async_fn#0}", "async fn"),
            ("{closure_env#1}<alloc::vec::Vec<u8>>", "closure"),
            ("<unclosed", "<unclosed"),
            ("", ""),
        ] {
            assert_eq!(readable(compiler), person, "{compiler}");
        }
    }

    #[test]
    fn whose_it_is() {
        assert!(is_library("std::thread::sleep", None, true));
        assert!(is_library("nanosleep", None, false));
        for file in [
            "/rustc/abc/library/core/src/slice.rs",
            "/home/me/.rustup/toolchains/stable/lib/rustlib/src/rust/library/alloc/src/vec/mod.rs",
            "/rust/deps/hashbrown-0.16.1/src/map.rs",
            "/home/me/.cargo/registry/src/index-1/tokio-1.54.1/src/runtime/park.rs",
            "/home/me/.cargo/registry/src/index-1/parking_lot-0.12.5/src/condvar.rs",
        ] {
            assert!(is_library("inlined", Some(file), true), "{file}");
        }
        for file in ["src/library/core/mod.rs", "/r/registry/src/i/tokio-util-0.7.1/src/lib.rs", "/w/mio/src/lib.rs"] {
            assert!(!is_library("inlined", Some(file), true), "{file}");
        }
        assert!(!is_library("standard::thing", Some("src/standard.rs"), true));
        assert!(is_poll_entry("tokio::runtime::task::core::Core::poll", None));
        assert!(is_poll_entry("tokio::runtime::scheduler::current_thread::CoreGuard::block_on", None));
        assert!(!is_poll_entry("tokio::runtime::scheduler::multi_thread::worker::block_in_place", None));
        assert!(!is_poll_entry("app::block_on", None));
        assert!(is_poll_entry("with_mut", Some("tokio-1.54.1/src/runtime/task/core.rs")));
        assert!(is_poll_entry("block_on", Some("tokio-1.54.1/src/runtime/runtime.rs")));
        assert!(is_poll_entry("poll", Some("src/measure/entry/future.rs")));
        assert!(!is_poll_entry("poll", Some("tokio-1.54.1/src/time/timeout.rs")));
        assert!(!is_poll_entry("block_on", Some("src/runtime/mine.rs")));
    }

    #[test]
    fn inlined_functions_are_told_by_their_callers() {
        let poll = "{closure#0}<app::report::handler::{async_fn_env#0}, alloc::sync::Arc<tokio::Handle>>";
        assert_eq!(told_by_caller("{async_fn#0}", [poll].into_iter()).as_deref(), Some("app::report::handler"));
        let call = "for_each<u8, app::load::{closure#2}::{closure_env#0}<(), &app::other::{closure_env#1}>>";
        assert_eq!(told_by_caller("{closure#0}<()>", ["next", call].into_iter()).as_deref(), Some("app::load"));
        assert_eq!(told_by_caller("{closure#1}", [call].into_iter()).as_deref(), Some("app::other"));
        assert_eq!(told_by_caller("{async_block#0}", [call].into_iter()), None);
        assert_eq!(told_by_caller("named", [call].into_iter()), None);
        assert_eq!(told_by_caller("{closure#0}", std::iter::empty()), None);
    }
}
