use super::*;
use crate::measure::runtime::meter::{Meter, Settings};
use crate::measure::thread::local_handle;

/// Returns a meter that tracks the last polls, and a runtime of it.
fn tracking() -> (std::sync::Arc<Meter>, std::sync::Arc<Runtime>) {
    let meter = Meter::new(Settings {
        threshold: Nanos::from_secs(1),
        max_sites: 10,
        max_routes: 10,
        track_delays: false,
        track_unpolled: true,
        #[cfg(feature = "tower")]
        route_histograms: false,
    });
    let runtime = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
    (meter, runtime)
}

/// Returns the tasks of which a last poll is stored.
fn tracked(runtime: &Runtime) -> Vec<TaskBits> {
    let mut tasks = Vec::new();
    runtime.last_polls.as_ref().unwrap().for_each(|task, _| tasks.push(task));
    tasks
}

/// tokio does that on a runtime that is shut down.
#[test]
fn nothing_is_kept_of_a_task_whose_end_comes_before_its_spawn() {
    let (meter, runtime) = tracking();
    let location = Location::caller();
    let [alive, at_known_location, on_new_thread] = [7, 8, 9].map(TaskBits);
    let end_and_spawn = |task| {
        count_task_end(&runtime, location, task);
        count_spawn(&runtime, location, task);
    };
    // On a thread that is not registered yet, at a location that is not known yet.
    std::thread::scope(|scope| scope.spawn(|| end_and_spawn(on_new_thread)).join().unwrap());
    assert_eq!(tracked(&runtime), []);
    count_spawn(&runtime, location, alive);
    end_and_spawn(at_known_location);
    assert_eq!(tracked(&runtime), [alive]);
    let site = meter.sites.intern(location);
    assert_eq!(meter.alive()[&(runtime.id, site)], 1);
    count_task_end(&runtime, location, alive);
    assert_eq!((tracked(&runtime), meter.alive()[&(runtime.id, site)]), (vec![], 0));
}

/// A stackful coroutine that is abandoned within a watched future leaves frames behind.
#[test]
fn the_end_of_a_poll_pops_the_frames_that_were_left_in_it() {
    let meter = Meter::of(Nanos::from_secs(1), 10);
    let runtime = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
    let thread = local_handle(&meter).unwrap();
    let slot = &thread.state.slot;
    let location = Location::caller();
    let [outer, inner, unknown] = [7, 8, 9].map(TaskBits);
    start_task_poll(&runtime, location, outer);
    start_task_poll(&runtime, location, inner);
    let origin = WrapperOrigin { site: meter.sites.intern(location), parent_route: None, runtime: runtime.id };
    let left = enter(thread, origin, || inner, || runtime.id).unwrap();
    enter(thread, origin, || inner, || runtime.id).unwrap();
    assert_eq!(slot.depth(), 4);
    end_task_poll(&runtime, location, unknown);
    assert_eq!(slot.depth(), 4, "of no task that is polled");
    end_task_poll(&runtime, location, inner);
    assert_eq!(slot.depth(), 1);
    assert!(slot.is_polling(outer) && !slot.is_polling(inner));
    leave(thread, left);
    assert_eq!(slot.depth(), 1, "its guard runs after its frame was popped");
    end_task_poll(&runtime, location, outer);
    assert_eq!(slot.depth(), 0);
}
