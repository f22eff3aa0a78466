//! The serialized forms of the parts of a snapshot that are flat, as in `/live`.

use serde::Serializer;
use serde::ser::SerializeStruct;

use super::{ConditionSnapshot, StallSnapshot};

/// The names of the fields of a condition. `/live` has some of them.
struct ConditionNames {
    count: &'static str,
    seconds: &'static str,
    rescues: &'static str,
}

impl ConditionNames {
    fn serialize<S: Serializer>(&self, condition: &ConditionSnapshot, s: S) -> Result<S::Ok, S::Error> {
        let mut fields = s.serialize_struct("ConditionSnapshot", 3)?;
        fields.serialize_field(self.count, &condition.count)?;
        fields.serialize_field(self.seconds, &condition.time.as_secs_f64())?;
        fields.serialize_field(self.rescues, &condition.rescues)?;
        fields.end()
    }
}

pub(super) fn as_driver_unattended<S: Serializer>(condition: &ConditionSnapshot, s: S) -> Result<S::Ok, S::Error> {
    let names = ConditionNames {
        count: "driver_unattended_count",
        seconds: "driver_unattended_seconds",
        rescues: "driver_unattended_rescues",
    };
    names.serialize(condition, s)
}

pub(super) fn as_hung<S: Serializer>(condition: &ConditionSnapshot, s: S) -> Result<S::Ok, S::Error> {
    let names = ConditionNames { count: "hung_count", seconds: "hung_seconds", rescues: "hung_rescues" };
    names.serialize(condition, s)
}

pub(super) fn as_blocking_pool_full<S: Serializer>(condition: &ConditionSnapshot, s: S) -> Result<S::Ok, S::Error> {
    let names = ConditionNames {
        count: "blocking_pool_full_count",
        seconds: "blocking_pool_full_seconds",
        rescues: "blocking_pool_full_rescues",
    };
    names.serialize(condition, s)
}

pub(super) fn as_spawned_stalls<S: Serializer>(stalls: &StallSnapshot, s: S) -> Result<S::Ok, S::Error> {
    let mut fields = s.serialize_struct("StallSnapshot", 2)?;
    fields.serialize_field("spawned_stalls", &stalls.count)?;
    fields.serialize_field("spawned_stalled_seconds", &stalls.time.as_secs_f64())?;
    fields.end()
}
