//! Task ids as one word, so that a slot can publish them.
//!
//! `tokio::task::Id` does not expose its number. Its bits are copied as they are, and only turned
//! back into the `Id` that they came from. Nothing is assumed about their meaning. If a later tokio
//! changes the size of `Id`, reports have no task id, and everything else works as before.

use tokio::task::Id;

const FITS: bool = size_of::<Id>() == size_of::<u64>();

/// The bits of a task's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskBits(pub(crate) u64);

impl TaskBits {
    /// No task.
    pub(crate) const NONE: TaskBits = TaskBits(0);

    /// Returns the bits of an id.
    #[inline]
    pub(crate) fn of(id: Id) -> TaskBits {
        if !FITS {
            return TaskBits::NONE;
        }
        // SAFETY: source and target have the same size (checked), and `Id` wraps one integer: it
        // has no padding. If that changes, an integer of the same size cannot have padding either,
        // and a larger `Id` fails `FITS`.
        TaskBits(unsafe { std::mem::transmute_copy::<Id, u64>(&id) })
    }

    /// Returns the bits of the task that polls on this thread, or `NONE` outside of a task.
    #[inline]
    pub(crate) fn current() -> TaskBits {
        tokio::task::try_id().map_or(TaskBits::NONE, TaskBits::of)
    }

    /// Returns the id with these bits.
    ///
    /// # Safety
    ///
    /// The bits are 0, or come from [`TaskBits::of`] in this process.
    pub(crate) unsafe fn id(self) -> Option<Id> {
        if self == TaskBits::NONE || !FITS {
            return None;
        }
        // SAFETY: the caller promises that these are the bits of a valid `Id`, whose size is
        // checked above.
        Some(unsafe { std::mem::transmute_copy::<u64, Id>(&self.0) })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_survives_the_conversion() {
        let id = tokio::spawn(async {}).id();
        // SAFETY: the bits come from `of`.
        assert_eq!(unsafe { TaskBits::of(id).id() }, Some(id));
        // SAFETY: 0 is allowed.
        assert_eq!(unsafe { TaskBits::NONE.id() }, None);
        const { assert!(FITS, "this tokio's task ids no longer fit a word: reports lose them") };
    }
}
