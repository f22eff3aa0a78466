use std::fmt;
use std::sync::Arc;

use crate::{Address, Module};

/// One function of a [`Stack`](crate::Stack).
///
/// A function that was inlined has a frame of its own, inside that of the function that called it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Frame {
    /// The function's name as a person would write it: `app::report::handler`, also for the future
    /// of an async function.
    pub function: Option<Arc<str>>,
    /// The source file, shortened by [`short_path`](crate::paths::short_path).
    pub file: Option<Arc<str>>,
    /// The line in the source file.
    pub line: Option<u32>,
    /// The file name of the binary or library that contains the code.
    pub module: Option<Arc<str>>,
    /// The address in that file, as the linker has assigned it. For the caller of a function it is
    /// that of the last byte of the call.
    pub offset: u64,
    /// The path of that file and its build id. [`Stack`](crate::Stack) serializes it once for all
    /// frames.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub module_info: Option<Arc<Module>>,
    /// True if the function belongs to Rust's standard library, to the system, to tokio, to a crate
    /// of locks (`parking_lot`, `lock_api`), or to another module than the program.
    pub library: bool,
    /// True if the path of the source file is one of a dependency: a registry, a git checkout, or a
    /// vendored crate.
    pub dependency: bool,
    /// The dependency's package that the function belongs to, without its version.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub package: Option<Arc<str>>,
    /// The address in memory.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub address: Address,
}

impl Frame {
    /// Returns the function's name, or module and offset where the name is unknown.
    ///
    /// ```
    /// let mut frame = pollwatch_stack::Frame::default();
    /// frame.module = Some("service".into());
    /// frame.offset = 0x1234;
    /// assert_eq!(frame.name(), "service+0x1234");
    /// ```
    pub fn name(&self) -> String {
        match (&self.function, &self.module) {
            (Some(function), _) => function.to_string(),
            (None, Some(module)) => format!("{module}+{:#x}", self.offset),
            (None, None) => self.address.to_string(),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            (Some(file), None) => write!(f, " ({file})"),
            _ => Ok(()),
        }
    }
}
