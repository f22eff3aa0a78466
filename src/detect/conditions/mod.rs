//! Conditions of a whole runtime: that nobody attends its I/O driver, and that it hangs.
//!
//! What tokio does: the workers of a multi-thread runtime share one driver for sockets and timers.
//! A worker that parks takes the driver if no other has it, and waits in `epoll_wait`. The others
//! park on condition variables. A worker that comes out of the driver polls the task that became
//! ready. If that task blocks, nobody is in the driver: tokio wakes another worker only if there is
//! more than one task to poll. Sockets and timers wait until the task returns, while all other
//! workers are idle. If the task waits for a timer or a socket of the same runtime, that is a
//! deadlock.
//!
//! What is read: [`driver_reading`] finds the thread that waits in the driver. [`driver_watch`]
//! decides from successive readings, and from what tokio publishes of the workers. It is pure.
//!
//! Why that is a proof: tokio publishes the count of a worker's parks before the worker enters the
//! driver. If nobody was in the driver at one reading, and until the next reading no worker has
//! published anything, nobody has entered the driver in between.

pub(crate) mod driver_reading;
pub(crate) mod driver_watch;
pub(crate) mod pool_watch;
pub(crate) mod reading_budget;
