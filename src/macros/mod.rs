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
    use crate::error::ADDRESS_ADVICE;

    /// A crate of macros exports nothing but macros, so that both parse durations by themselves,
    /// and word errors by themselves.
    #[test]
    fn both_parsers_of_settings_are_the_same() {
        let of_macros = |file: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/macros/src/");
            std::fs::read_to_string(folder.to_owned() + file).unwrap()
        };
        assert_eq!(of_macros("duration.rs"), include_str!("duration.rs"));
        assert_eq!(of_macros("threshold_text.rs"), include_str!("../util/threshold_text.rs"));
        assert!(of_macros("arguments.rs").contains(ADDRESS_ADVICE));
    }
}
