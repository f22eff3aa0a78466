//! The error for a threshold that is out of range: the same in a builder, an attribute, a variable
//! of the environment and on the command line.
//!
//! The crate of pollwatch's macros has a copy of this file, because it exports nothing but macros.
//! A test of `pollwatch` compares the two.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Returns the error. The limits are written as every parser of thresholds reads them.
pub(crate) fn out_of_range(threshold: Duration, accepted: &RangeInclusive<Duration>) -> String {
    let (least, most) = (accepted.start(), accepted.end());
    format!("the threshold must be from {least:?} to {most:?}, not {threshold:?}; 10ms suits a service")
}
