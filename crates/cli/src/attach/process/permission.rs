//! The command that gives the permission to observe a process.

use pollwatch_stack::{Denial, ProcessError};

use super::{Pid, ProcessInfo};
use crate::text::clean;

/// Returns why the kernel does not permit to observe a process, and the command that helps: the
/// library's own advice is for programs. `None` where something else fails, or no command helps.
pub(crate) fn explain(error: &pollwatch::Error) -> Option<String> {
    let ProcessError::Denied { pid, denial } = error.process_error()? else { return None };
    // `sudo` does not search the directories of this user, and a container has its own.
    let path = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
    let here = own_command(&path.unwrap_or_else(|_| "pollwatch".into()));
    let remedy = remedy(*denial, is_root(), &here, &own_command("pollwatch"))?;
    Some(format!("process {pid} may not be read: {}. {remedy}", denial.reason()))
}

/// Returns the remedy with the command line of this program that is to be run, here and in a
/// container. Root lacks a permission only where it lacks the capability, which `sudo` does not
/// give.
fn remedy(denial: Denial, is_root: bool, here: &str, in_container: &str) -> Option<String> {
    let sudo = format!("sudo {here}");
    let in_container = || {
        format!(
            "In a container, run `{in_container}` in another one that shares its processes and has the capability to \
             trace: `docker run --cap-add SYS_PTRACE --pid container:CONTAINER ..`, or `kubectl debug -it POD --image=IMAGE \
             --target=CONTAINER --profile=general`."
        )
    };
    Some(match denial {
        Denial::Yama { scope: 3 } => return None,
        Denial::OtherUserNamespace => format!("Run `{sudo}` on the host."),
        Denial::Filtered => in_container(),
        _ if is_root => in_container(),
        Denial::Yama { scope: 1 } => format!("Run `{sudo}`, or `sudo sysctl kernel.yama.ptrace_scope=0` first."),
        _ => format!("Run `{sudo}`."),
    })
}

fn is_root() -> bool {
    ProcessInfo::read(Pid(std::process::id())).is_ok_and(|own| own.user == 0)
}

/// Returns the command line of this program, for a shell.
fn own_command(program: &str) -> String {
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let words = [program.to_owned()].into_iter().chain(arguments);
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

    fn remedy_for(denial: Denial, is_root: bool) -> Option<String> {
        remedy(denial, is_root, "/bin/pollwatch attach 7", "pollwatch attach 7")
    }

    #[test]
    fn each_missing_permission_has_a_command() {
        let yama = |scope| remedy_for(Denial::Yama { scope }, false);
        let sudo = "`sudo /bin/pollwatch attach 7`";
        assert!(yama(1).unwrap().contains(sudo) && yama(1).unwrap().contains("sysctl kernel.yama.ptrace_scope=0"));
        assert!(yama(2).unwrap().contains(sudo));
        assert_eq!(yama(3), None, "nothing helps but a boot");
        assert!(remedy_for(Denial::NotDumpable, false).unwrap().contains(sudo));
        assert!(remedy_for(Denial::Filtered, false).unwrap().contains("--cap-add SYS_PTRACE"));
        // In a container root has no `sudo`, and cannot set the host's variables.
        for denial in [Denial::OtherUser { user: 7, own: 0 }, Denial::Yama { scope: 1 }, Denial::Capabilities] {
            let remedy = remedy_for(denial, true).unwrap();
            let command = "In a container, run `pollwatch attach 7` in another one";
            assert!(remedy.starts_with(command) && remedy.contains("--cap-add SYS_PTRACE"), "{remedy}");
            assert!(!remedy.contains("sudo"), "{remedy}");
        }
    }

    /// The library's text has a remedy, too, which is not printed besides.
    #[test]
    fn one_line_has_the_reason_and_one_remedy() {
        let pid = pollwatch_stack::Pid::from_raw(7);
        for denial in [Denial::Filtered, Denial::OtherUser { user: 7, own: 0 }, Denial::NotDumpable] {
            let error = pollwatch::Error::from(ProcessError::Denied { pid, denial });
            let text = explain(&error).unwrap();
            assert!(text.starts_with(&format!("process 7 may not be read: {}. ", denial.reason())), "{text}");
            assert!(!text.contains(denial.remedy().unwrap()) && text.lines().count() == 1, "{text}");
            assert!(text.matches("--cap-add").count() <= 1 && text.matches("sudo").count() <= 1, "{text}");
        }
        let other = pollwatch::Error::from(ProcessError::NotFound { pid });
        assert_eq!(explain(&other), None);
        let never = pollwatch::Error::from(ProcessError::Denied { pid, denial: Denial::Yama { scope: 3 } });
        assert_eq!(explain(&never), None, "the library's text says that nothing helps");
    }

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("--listen=127.0.0.1:9464"), "--listen=127.0.0.1:9464");
        assert_eq!((quoted("a b"), quoted("it's"), quoted("")), ("'a b'".into(), "'it'\\''s'".into(), "''".into()));
    }
}
