//! The functions that the code of `#[pollwatch::main]` and `#[pollwatch::test]` calls. They are no
//! part of the public interface.

mod duration;
mod environment;
mod main;
mod test;

pub use main::Main;
pub use test::Test;

/// Passes the address of the argument `listen`.
#[cfg(feature = "server")]
#[doc(hidden)]
#[macro_export]
macro_rules! __server_address {
    ($address:literal) => {
        $address
    };
}

/// Refuses the argument `listen`.
#[cfg(not(feature = "server"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __server_address {
    ($address:literal) => {
        compile_error!("`listen` needs pollwatch's feature `server`")
    };
}

/// Writes one line to the standard error, where it can be written to. There is no subscriber of
/// `tracing` before a program's main function runs.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "pollwatch: {text}");
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    /// A crate of macros exports nothing but macros, so that both parse durations by themselves.
    #[test]
    fn both_parsers_of_durations_are_the_same() {
        let of_macros = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/macros/src/duration.rs");
        assert_eq!(std::fs::read_to_string(of_macros).unwrap(), include_str!("duration.rs"));
    }
}
