//! The command that gives the permission to observe a process.

use pollwatch_stack::{Denial, ProcessError};

use super::{Pid, ProcessInfo};
use crate::text::clean;

/// Returns the command that helps where the kernel does not permit to observe a process, and
/// `None` where something else fails, or nothing helps.
pub(crate) fn remedy(error: &pollwatch::Error, process: &ProcessInfo) -> Option<String> {
    remedy_of(error.process_error()?, process, &own_command())
}

/// Returns the remedy with the command line of this program that is to be run.
pub(crate) fn remedy_of(error: &ProcessError, process: &ProcessInfo, command: &str) -> Option<String> {
    let ProcessError::Denied { denial, .. } = error else { return None };
    let sudo = format!("sudo {command}");
    Some(match denial {
        Denial::Yama { scope: 1 } => format!("Run `{sudo}`, or `sudo sysctl kernel.yama.ptrace_scope=0` first."),
        Denial::Yama { scope: 2 } | Denial::NotDumpable | Denial::Capabilities | Denial::HiddenProc => {
            format!("Run `{sudo}`.")
        }
        Denial::OtherUser { .. } if is_root() => in_container(process),
        Denial::OtherUser { .. } => format!("Run `{sudo}`."),
        Denial::OtherUserNamespace => format!("Run `{sudo}` on the host."),
        Denial::Filtered => in_container(process),
        _ => return None,
    })
}

/// Returns the remedy for a container that does not have the capability.
fn in_container(process: &ProcessInfo) -> String {
    format!(
        "In a container: `docker run --cap-add SYS_PTRACE --pid container:NAME ..`, or `kubectl debug -it POD \
         --image=IMAGE --target=CONTAINER --profile=general`, and there `pollwatch attach {}`.",
        process.label()
    )
}

fn is_root() -> bool {
    ProcessInfo::read(Pid(std::process::id())).is_ok_and(|own| own.user == 0)
}

/// Returns the command line of this program, for a shell. The program has its whole path, since
/// `sudo` does not search the directories of this user.
fn own_command() -> String {
    let program = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words = [program.unwrap_or_else(|_| "pollwatch".into())].into_iter().chain(arguments);
    words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
}

/// Returns a word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@,+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", clean(word).replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy_for(denial: Denial) -> Option<String> {
        let own = std::process::id();
        let process = ProcessInfo::read(Pid(own)).unwrap();
        let error = ProcessError::Denied { pid: pollwatch_stack::Pid::from_raw(own as i32), denial };
        remedy_of(&error, &process, "/bin/pollwatch attach 7")
    }

    #[test]
    fn each_missing_permission_has_a_command() {
        let yama = |scope| remedy_for(Denial::Yama { scope });
        let sudo = "`sudo /bin/pollwatch attach 7`";
        assert!(yama(1).unwrap().contains(sudo) && yama(1).unwrap().contains("sysctl kernel.yama.ptrace_scope=0"));
        assert!(yama(2).unwrap().contains(sudo));
        assert_eq!(yama(3), None, "nothing helps but a boot");
        assert!(remedy_for(Denial::NotDumpable).unwrap().contains(sudo));
        assert!(remedy_for(Denial::Filtered).unwrap().contains("--cap-add SYS_PTRACE"));
    }

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("--listen=127.0.0.1:9464"), "--listen=127.0.0.1:9464");
        assert_eq!((quoted("a b"), quoted("it's"), quoted("")), ("'a b'".into(), "'it'\\''s'".into(), "''".into()));
    }
}
