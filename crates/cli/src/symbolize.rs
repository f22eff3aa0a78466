//! The subcommand `pollwatch symbolize`: functions and lines for stacks of a stripped program, from
//! files that have symbols.

mod binaries;
mod json;
mod text;

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use pollwatch_stack::SymbolFileError;
use serde_json::Value;

use crate::text::{clean, note};
use binaries::Binaries;

/// Add functions and lines to the stacks of a program that was stripped of its symbols
///
/// Reads what a program with pollwatch inside has reported: the JSON of one stall, of /stalls, or
/// of one stall a line; or text with frames such as `service+0x1f3a0`, such as its log. Prints the
/// same with functions, files and lines. These come from files of the same build that have symbols:
/// the program before it was stripped, or its separate debug file. The build id decides.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct SymbolizeArgs {
    /// File with symbols: the unstripped program, a library, or a debug file. May be repeated
    #[arg(long = "binary", value_name = "FILE", required = true)]
    binaries: Vec<PathBuf>,

    /// File to read, or - for standard input
    #[arg(value_name = "INPUT", default_value = "-")]
    input: PathBuf,
}

/// The reason why `pollwatch symbolize` failed.
#[derive(Debug)]
pub(crate) enum SymbolizeError {
    Binary(SymbolFileError),
    NoSymbols { path: PathBuf },
    Read { input: PathBuf, source: io::Error },
    Json(serde_json::Error),
    NoStack,
    OtherBuild { binary: String, has: String, needed: String },
    NothingMatches { modules: String },
    Write(io::Error),
}

impl fmt::Display for SymbolizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SymbolizeError::Binary(error) => error.fmt(f),
            SymbolizeError::NoSymbols { path } => write!(
                f,
                "{} has no symbols, and no debug file of it was found. Give the file as it was before `strip`.",
                path.display()
            ),
            SymbolizeError::Read { input, source } => write!(f, "cannot read {}: {source}", input.display()),
            SymbolizeError::Json(error) => write!(f, "the input starts like JSON and is not: {error}"),
            SymbolizeError::NoStack => {
                f.write_str("the input has no frame with a module and an offset, such as `service+0x1f3a0`")
            }
            SymbolizeError::OtherBuild { binary, has, needed } => write!(
                f,
                "{binary} is of another build than the program that reported the stalls: its build id is {has}, and theirs \
                 is {needed}. Its functions would be wrong, so it is not used."
            ),
            SymbolizeError::NothingMatches { modules } => {
                write!(f, "no --binary is one of the modules without symbols: {modules}")
            }
            SymbolizeError::Write(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

/// Executes the subcommand.
pub(crate) fn run(args: &SymbolizeArgs) -> Result<(), SymbolizeError> {
    let mut binaries = Binaries::open(&args.binaries)?;
    let input = read(args)?;
    let output = symbolize(&input, &mut binaries)?;
    binaries.check()?;
    for warning in binaries.warnings() {
        note(&format!("pollwatch symbolize: {warning}"));
    }
    write(&output)
}

/// Returns the input with functions and lines.
fn symbolize(input: &str, binaries: &mut Binaries) -> Result<String, SymbolizeError> {
    if !input.trim_start().starts_with(['{', '[']) {
        return Ok(text::symbolize(input, binaries));
    }
    let values = serde_json::Deserializer::from_str(input).into_iter::<Value>();
    let mut values = values.collect::<Result<Vec<_>, _>>().map_err(SymbolizeError::Json)?;
    values.iter_mut().for_each(|value| json::symbolize(value, binaries));
    let print = |value: &Value| match &values[..] {
        [_] => serde_json::to_string_pretty(value),
        _ => serde_json::to_string(value),
    };
    let lines = values.iter().map(|value| print(value).map(|line| line + "\n"));
    lines.collect::<Result<String, _>>().map_err(SymbolizeError::Json)
}

fn read(args: &SymbolizeArgs) -> Result<String, SymbolizeError> {
    let mut bytes = Vec::new();
    let result = match args.input.to_str() {
        Some("-") => io::stdin().lock().read_to_end(&mut bytes).map(drop),
        _ => std::fs::read(&args.input).map(|content| bytes = content),
    };
    result.map_err(|source| SymbolizeError::Read { input: args.input.clone(), source })?;
    // A log may have a line that is no UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Prints the output. A terminal gets no escape sequences that the input may contain.
fn write(output: &str) -> Result<(), SymbolizeError> {
    let mut out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    for line in output.split_inclusive('\n') {
        let line = if is_terminal { clean(line.trim_end_matches('\n')) + "\n" } else { line.to_owned() };
        match out.write_all(line.as_bytes()) {
            Ok(()) => {}
            // `pollwatch symbolize .. | head` closes the pipe after some lines.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(SymbolizeError::Write(error)),
        }
    }
    Ok(())
}
