//! A file and a name server that answer late, so that the example shows the same on every machine.

use std::path::PathBuf;
use std::time::Duration;

/// Creates a file that ends after some time: a FIFO in place of a network file system. On platforms
/// without FIFOs the file ends at once.
pub(crate) fn file(time: Duration) -> std::io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("pollwatch-blocked-{}", std::process::id()));
    if cfg!(unix) {
        std::process::Command::new("mkfifo").arg(&path).status()?;
    } else {
        std::fs::write(&path, "")?;
    }
    let file = path.clone();
    std::thread::spawn(move || {
        let _writer = std::fs::File::options().append(true).open(&file);
        std::thread::sleep(time);
        let _ = std::fs::remove_file(&file);
    });
    Ok(path)
}

/// Sends the name look-ups of this thread to a server that answers "no such name" after some time.
/// A look-up has two questions, which the server answers one after the other. The time limit that
/// glibc has for both (5 s) is raised. With another C library, look-ups go to the usual server.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn resolver(time: Duration) -> std::io::Result<()> {
    use std::ffi::{c_int, c_ulong};

    /// The first fields of `struct __res_state` in `resolv.h`.
    #[repr(C)]
    struct Settings {
        retrans: c_int,
        retry: c_int,
        options: c_ulong,
        servers: c_int,
        server: [libc::sockaddr_in; 3],
    }

    unsafe extern "C" {
        fn __res_init() -> c_int;
        fn __res_state() -> *mut Settings;
    }

    let server = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
    let port = server.local_addr()?.port();
    // SAFETY: the settings belong to this thread and are initialized by the first call. No look-up
    // runs on this thread.
    unsafe {
        if __res_init() != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let settings = __res_state();
        // In seconds, from the questions to the second answer.
        (*settings).retrans = c_int::try_from(2 * time.as_secs() + 5).unwrap_or(c_int::MAX);
        (*settings).servers = 1;
        (*settings).server[0] = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(std::net::Ipv4Addr::LOCALHOST).to_be() },
            sin_zero: [0; 8],
        };
    }
    std::thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((len, from)) = server.recv_from(&mut message) {
            std::thread::sleep(time);
            // The question as it came, marked as a reply: recursion available, no such name.
            message[2] |= 0x80;
            message[3] = 0x83;
            let _ = server.send_to(&message[..len], from);
        }
    });
    Ok(())
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn resolver(_: Duration) -> std::io::Result<()> {
    Ok(())
}
