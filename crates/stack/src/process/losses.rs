/// What could not be read of a process, or was left out because it would take too much.
///
/// Zeroes are usual. A process of which much is lost has files or memory that does not answer, such
/// as that of a dead mount, or was made to harm whoever reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadLosses {
    /// The number of times that memory was given up because it did not come in time.
    pub memory: u64,
    /// The number of times that a file was given up because it did not come in time: of all other
    /// processes together.
    pub files: u64,
    /// The number of modules without unwind tables, since those of all modules take more than 128
    /// MiB, and of mappings that were not searched for modules. Stacks end there.
    pub modules: u64,
}
