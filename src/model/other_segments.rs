//! What a thread did during a stall besides what the stall's cause and reason say.

use std::fmt;
use std::time::Duration;

use super::cause::Cause;
use super::segment::Segment;
use super::time::Millis;

/// The number of other activities that a line names: the longest ones.
const MAX_NAMED: usize = 2;
/// The part of a stall below which another activity is not named.
const MIN_PART: u32 = 100;

/// The segments of a stall that its cause and reason do not describe. `Display` formats them as in
/// `100 ms in a sleep`.
pub(crate) struct OtherSegments {
    /// The time of the segments that the cause and the reason describe.
    pub(crate) shown: Duration,
    /// The others, each activity once, in the order in which they started.
    activities: Vec<OtherActivity>,
    is_ongoing: bool,
}

/// What a thread did for a time.
struct OtherActivity {
    cause: Cause,
    text: String,
    time: Duration,
}

/// What the cause and the reason of a stall describe.
pub(super) struct ShownActivity<'a> {
    pub(super) cause: Cause,
    pub(super) reason: &'a str,
    pub(super) location: Option<&'a str>,
    /// True if it is what the thread does now, and not what it did for the longest time.
    pub(super) is_ongoing: bool,
}

impl ShownActivity<'_> {
    /// Returns whether a segment has the same cause and reason.
    fn is_like(&self, segment: &Segment) -> bool {
        segment.cause == self.cause && segment.reason == self.reason
    }

    /// Returns whether a segment is described. Where a thread waits for the same kind of lock
    /// elsewhere, it waits for another one.
    fn includes(&self, segment: &Segment) -> bool {
        self.is_like(segment) && (!waits(segment.cause) || segment.location.as_deref() == self.location)
    }
}

impl OtherSegments {
    /// Returns the other segments of a stall, `None` if there are none to name.
    pub(super) fn new(segments: &[Segment], shown: &ShownActivity<'_>, elapsed: Duration) -> Option<OtherSegments> {
        let is_shown = |segment: &&Segment| shown.includes(segment);
        let (included, others): (Vec<&Segment>, Vec<&Segment>) = if shown.is_ongoing {
            let running = segments.iter().rev().take_while(is_shown).count();
            let (others, included) = segments.split_at(segments.len() - running);
            (included.iter().collect(), others.iter().collect())
        } else {
            segments.iter().partition(is_shown)
        };
        let mut time: Duration = included.iter().map(|segment| segment.duration()).sum();
        if let (true, Some(running)) = (shown.is_ongoing, included.last()) {
            time += elapsed.saturating_sub(running.to);
        }
        let mut activities: Vec<OtherActivity> = Vec::new();
        for segment in others {
            let text = text(segment, shown.is_like(segment));
            match activities.iter_mut().find(|known| known.text == text && known.cause == segment.cause) {
                Some(known) => known.time += segment.duration(),
                None => activities.push(OtherActivity { cause: segment.cause, text, time: segment.duration() }),
            }
        }
        activities.retain(|activity| activity.time >= elapsed / MIN_PART && !activity.time.is_zero());
        while activities.len() > MAX_NAMED
            && let Some(shortest) = (0..activities.len()).min_by_key(|&i| activities[i].time)
        {
            activities.remove(shortest);
        }
        (!activities.is_empty()).then_some(OtherSegments { shown: time, activities, is_ongoing: shown.is_ongoing })
    }
}

impl OtherSegments {
    /// Returns the word that introduces these segments in a line.
    pub(super) fn introduction(&self) -> &'static str {
        if self.is_ongoing { "before" } else { "besides" }
    }
}

/// Returns whether a thread with this cause waits for something.
fn waits(cause: Cause) -> bool {
    matches!(cause, Cause::Syscall | Cause::Lock)
}

/// Returns what the thread did in a segment, after the words "100 ms".
fn text(segment: &Segment, is_same: bool) -> String {
    let reason = segment.reason;
    match (segment.cause, &segment.location) {
        (Cause::Syscall | Cause::Lock, Some(location)) if is_same => format!("in {reason} at {location}"),
        (Cause::Syscall | Cause::Lock, _) => format!("in {reason}"),
        (Cause::Starved, _) => "without a CPU".into(),
        (Cause::Unknown, _) => "of unknown cause".into(),
        (Cause::Cpu | Cause::Paused, _) => reason.into(),
    }
}

impl fmt::Display for OtherSegments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, OtherActivity { text, time, .. }) in self.activities.iter().enumerate() {
            let separator = if i > 0 { ", " } else { "" };
            write!(f, "{separator}{} {text}", Millis(*time))?;
        }
        Ok(())
    }
}
