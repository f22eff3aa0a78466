//! The subcommand `pollwatch attach` on platforms where other processes cannot be observed.

use std::fmt;
use std::process::ExitCode;

/// Watch a running process from outside (not on this platform)
///
/// Other processes can be observed only on Linux with glibc, on x86_64 and aarch64.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct AttachArgs {
    /// The process, and all options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The platform does not have what observing another process needs.
#[derive(Debug)]
pub(crate) struct AttachCommandError;

impl fmt::Display for AttachCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("other processes can be observed only on Linux with glibc, on x86_64 and aarch64")
    }
}

impl std::error::Error for AttachCommandError {}

/// Fails, whatever process is meant.
pub(crate) fn run(_: &AttachArgs) -> Result<ExitCode, AttachCommandError> {
    Err(AttachCommandError)
}

/// Fails, whatever process is meant.
pub(crate) fn thread_dump(_: &str, _: bool, _: bool) -> Result<String, AttachCommandError> {
    Err(AttachCommandError)
}
