//! Function names as a person would write them. The functions here are pure.

/// Returns a demangled name without what the compiler added: closures, generic arguments,
/// `<T as Trait>`.
///
/// `<app::Rows as core::iter::Iterator>::next` becomes `app::Rows::next`;
/// `app::handler::{{closure}}` and `app::handler::{async_fn_env#0}` become `app::handler`.
pub(crate) fn readable(demangled: &str) -> String {
    if let Some((path, value)) = dropped(demangled) {
        return format!("{path}<{}>", short_type(value, 0));
    }
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

/// The largest number of characters of a type's name.
const MAX_TYPE: usize = 80;
/// The largest number of types within each other in such a name.
const MAX_NESTED_TYPES: usize = 8;

/// Returns the path and the type argument of the function that drops a value. The type is all that
/// distinguishes one such function from another.
fn dropped(name: &str) -> Option<(&str, &str)> {
    let (path, value) = name.split_once("drop_in_place").and_then(|(path, rest)| {
        let value = rest.trim_start_matches("::").strip_prefix('<')?;
        Some((&name[..path.len() + "drop_in_place".len()], &value[..value.rfind('>')?]))
    })?;
    matches!(path, "core::ptr::drop_in_place" | "drop_in_place").then_some((path, value))
}

/// Returns a type's name without the paths of the standard library, allocators, and arguments of
/// types of other crates: `[String]`, `Vec<app::Row>`, `app::handler` for an async function's
/// future.
fn short_type(name: &str, depth: usize) -> String {
    let name = name.trim();
    let inner_type = |inner| short_type(inner, depth + 1);
    let short = if depth == MAX_NESTED_TYPES {
        "..".to_owned()
    } else if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        match inner.rsplit_once("; ") {
            Some((of, count)) => format!("[{}; {count}]", inner_type(of)),
            None => format!("[{}]", inner_type(inner)),
        }
    } else {
        let plain = readable(name);
        let is_std = ["alloc::", "core::", "std::"].iter().any(|root| name.starts_with(root));
        let last = plain.rsplit("::").next().filter(|_| is_std).unwrap_or(&plain).to_owned();
        match first_argument(name).filter(|_| is_std) {
            Some(argument) => format!("{last}<{}>", inner_type(argument)),
            None => last,
        }
    };
    if short.chars().count() > MAX_TYPE { "..".to_owned() } else { short }
}

/// Returns the first generic argument at the end of a type's name.
fn first_argument(name: &str) -> Option<&str> {
    let inner = name.strip_suffix('>')?.split_once('<')?.1;
    let mut depth = 0usize;
    let end = inner.char_indices().find(|(_, c)| {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *c == ','
    });
    Some(&inner[..end.map_or(inner.len(), |(at, _)| at)])
}

/// Returns the kind of a function without a name of its own: `{async_fn#0}` is an `async fn`.
fn kind(demangled: &str) -> String {
    let inner = demangled.strip_prefix('{').and_then(|rest| rest.split(['#', '}', ':']).next());
    inner.map_or_else(|| demangled.to_owned(), |kind| kind.trim_end_matches("_env").replace('_', " "))
}

/// Returns the full path of an inlined function that line tables name by its kind only
/// (`{async_fn#0}`).
///
/// The library functions that call it are generic over it, and so contain its name
/// (`poll<app::report::handler::{async_fn_env#0}>`). `callers` are the functions that it was
/// inlined into, up to the next one that belongs to no library.
pub(super) fn name_from_callers<'a>(kind: &str, mut callers: impl Iterator<Item = &'a str>) -> Option<String> {
    let (kind, number) = kind.strip_prefix('{')?.split('}').next()?.split_once('#')?;
    let env = format!("::{{{kind}_env#{number}}}");
    callers.find_map(|caller| {
        let end = caller.find(&env)?;
        let in_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '{' | '}' | '#');
        let start = caller[..end].rfind(|c| !in_path(c)).map_or(0, |at| at + 1);
        Some(readable(&caller[start..end]))
    })
}

/// Returns `<Type as Trait>::rest` and `<Type>::rest` as `Type::rest`.
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

/// Returns whether a part of a name is the hash at the end of names in the legacy mangling. Other
/// parts that the compiler adds are in braces: `{closure#0}`, `call_once{{vtable.shim}}`.
fn is_hash(part: &str) -> bool {
    part.len() == 17 && part.starts_with('h') && part[1..].chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn readable_names() {
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
            ("core::ptr::drop_in_place::<[alloc::string::String]>", "core::ptr::drop_in_place<[String]>"),
            (
                "core::ptr::drop_in_place<alloc::vec::Vec<app::Row<u8>, alloc::alloc::Global>>",
                "core::ptr::drop_in_place<Vec<app::Row>>",
            ),
            ("drop_in_place<[alloc::vec::Vec<u8>; 2]>", "drop_in_place<[Vec<u8>; 2]>"),
            ("core::ptr::drop_in_place<app::handler::{{closure}}>", "core::ptr::drop_in_place<app::handler>"),
            ("core::ptr::drop_in_place<app::handler::{async_fn_env#0}>", "core::ptr::drop_in_place<app::handler>"),
            (
                "core::ptr::drop_in_place<(u8, alloc::string::String)>",
                "core::ptr::drop_in_place<(u8, alloc::string::String)>",
            ),
            (
                "core::ptr::drop_in_place<alloc::boxed::Box<dyn core::future::Future>>",
                "core::ptr::drop_in_place<Box<dyn core::future::Future>>",
            ),
            ("core::ptr::drop_in_place<", "core::ptr::drop_in_place"),
            ("drop_in_place<>", "drop_in_place<>"),
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
    fn deep_types_are_cut() {
        let nested = |depth: usize| format!("core::ptr::drop_in_place<{}u8{}>", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(readable(&nested(2)), "core::ptr::drop_in_place<[[u8]]>");
        assert_eq!(readable(&nested(100_000)), "core::ptr::drop_in_place<[[[[[[[[..]]]]]]]]>");
        let long = format!("core::ptr::drop_in_place<{}>", "a".repeat(100_000));
        assert_eq!(readable(&long), "core::ptr::drop_in_place<..>");
    }

    #[test]
    fn callers_name_inlined_functions() {
        let poll = "{closure#0}<app::report::handler::{async_fn_env#0}, alloc::sync::Arc<tokio::Handle>>";
        assert_eq!(name_from_callers("{async_fn#0}", [poll].into_iter()).as_deref(), Some("app::report::handler"));
        let call = "for_each<u8, app::load::{closure#2}::{closure_env#0}<(), &app::other::{closure_env#1}>>";
        assert_eq!(name_from_callers("{closure#0}<()>", ["next", call].into_iter()).as_deref(), Some("app::load"));
        assert_eq!(name_from_callers("{closure#1}", [call].into_iter()).as_deref(), Some("app::other"));
        assert_eq!(name_from_callers("{async_block#0}", [call].into_iter()), None);
        assert_eq!(name_from_callers("named", [call].into_iter()), None);
        assert_eq!(name_from_callers("{closure#0}", std::iter::empty()), None);
    }
}
