//! The file that `pollwatch attach --output` writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use pollwatch::Profile;

use super::AttachCommandError;
use super::words::{ProfileFile, ProfileFormat};

/// The file of the profile. It keeps what it has until the new profile is written.
pub(super) struct OpenProfile {
    file: File,
    is: ProfileFile,
}

impl OpenProfile {
    /// Opens or creates the file, and changes nothing in it.
    pub(super) fn open(is: &ProfileFile) -> Result<OpenProfile, AttachCommandError> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&is.path);
        let file = opened.map_err(|error| AttachCommandError::Profile { file: is.clone(), error })?;
        Ok(OpenProfile { file, is: is.clone() })
    }

    /// Replaces what the file has by this profile.
    pub(super) fn write(mut self, profile: &Profile) -> Result<(), AttachCommandError> {
        let text = match self.is.format {
            ProfileFormat::Folded => profile.to_folded(),
            ProfileFormat::Speedscope => profile.to_speedscope(),
        };
        self.replace(text.as_bytes()).map_err(|error| AttachCommandError::Profile { file: self.is, error })
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A pipe or a device has no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(bytes)
    }
}
