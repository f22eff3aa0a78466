//! Thread dumps of another process.

use pollwatch::ThreadRole;
use pollwatch::attach::threads;

use crate::fixture::{Target, wait_for};

#[test]
fn a_dump_has_the_roles_of_threads_and_their_runtimes() {
    let target = Target::start("two_runtimes");
    let dump = threads(target.child.id(), true).unwrap();
    println!("{dump}");
    let workers = |dump: &pollwatch::ThreadDump| {
        let is_worker = |role: &ThreadRole| matches!(role, ThreadRole::Worker { .. });
        dump.groups.iter().filter(|group| is_worker(&group.role)).map(|group| group.count).sum::<usize>()
    };
    assert!(dump.threads >= 6 && dump.with_stack > 0, "{dump}");
    assert_eq!(workers(&dump), 4, "{dump}");
    let attached = target.attach().start().unwrap();
    wait_for(&attached, |stall| &*stall.runtime == "api");
    let named = attached.threads();
    let of_api = |role: &ThreadRole| matches!(role, ThreadRole::Worker { runtime: Some(name), .. } if &**name == "api");
    assert!(named.groups.iter().any(|group| of_api(&group.role)), "{named}");
}

#[test]
fn there_is_no_dump_of_a_process_that_does_not_exist() {
    let error = threads(u32::MAX, false).unwrap_err();
    assert_eq!(error.kind(), pollwatch::ErrorKind::Process);
    assert!(matches!(error.process_error(), Some(pollwatch::ProcessError::NotFound { .. })), "{error}");
}
