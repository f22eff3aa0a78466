//! Situations within C libraries, which are loaded at run time: SQLite, PostgreSQL's client, and
//! Python. A test whose library is missing reports that it was skipped.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::TcpListener;
use std::ptr::{null, null_mut};
use std::sync::mpsc::channel;

use pollwatch::Cause;
use test_support::skipped;

use crate::fixture::{Expected, Situation, check, not_the_last_call};

/// A library that stays loaded.
#[derive(Clone, Copy)]
struct Library(*mut c_void);

// SAFETY: a handle, which any thread may use.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    fn load(names: &[&CStr]) -> Option<Library> {
        let found = names.iter().find_map(|name| {
            // SAFETY: the initializers of these libraries may run at any time.
            let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            (!handle.is_null()).then_some(Library(handle))
        });
        if found.is_none() {
            skipped(&format!("none of {names:?} is installed here"));
        }
        found
    }

    /// Returns a function of the library.
    ///
    /// # Safety
    ///
    /// `F` must be a pointer to a function of the type that the library documents.
    unsafe fn function<F: Copy>(self, name: &CStr) -> F {
        // SAFETY: the handle is valid, and the caller vouches for the type.
        unsafe {
            let symbol = libc::dlsym(self.0, name.as_ptr());
            assert!(!symbol.is_null(), "{name:?}");
            std::mem::transmute_copy(&symbol)
        }
    }
}

/// A connection to a SQLite database.
#[derive(Clone, Copy)]
struct Sqlite {
    connection: *mut c_void,
    exec: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void, *const c_void, *const c_void) -> c_int,
}

// SAFETY: SQLite serializes the use of a connection, and each is used by one thread here.
unsafe impl Send for Sqlite {}

impl Sqlite {
    fn open(library: Library, path: &CStr, busy_timeout: c_int) -> Sqlite {
        // SAFETY: the types are those of SQLite's documentation.
        unsafe {
            let open: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int =
                library.function(c"sqlite3_open");
            let set_timeout: unsafe extern "C" fn(*mut c_void, c_int) -> c_int =
                library.function(c"sqlite3_busy_timeout");
            let mut connection = null_mut();
            assert_eq!(open(path.as_ptr(), &mut connection), 0);
            assert_eq!(set_timeout(connection, busy_timeout), 0);
            Sqlite { connection, exec: library.function(c"sqlite3_exec") }
        }
    }
}

#[inline(never)]
fn executes(database: &Sqlite, sql: &CStr) -> c_int {
    // SAFETY: an open connection and a C string.
    let result = unsafe { (database.exec)(database.connection, sql.as_ptr(), null(), null(), null()) }; // blocks here
    not_the_last_call();
    result
}

/// SQLite sleeps until the other connection has committed.
#[test]
fn a_call_of_sqlite_is_diagnosed() {
    let Some(library) = Library::load(&[c"libsqlite3.so.0", c"libsqlite3.so"]) else { return };
    let (reason, advice) = ("a database call (SQLite)", "tokio-rusqlite");
    let (syscalls, function) = (&["clock_nanosleep", "nanosleep"], "c_libraries::executes");
    check(Expected { cause: Cause::Syscall, syscalls, reason, advice, function }, || {
        let folder = test_support::scratch(&format!("sqlite-{}", std::process::id()));
        let path = std::ffi::CString::new(folder.join("database").to_str().unwrap()).unwrap();
        let holder = Sqlite::open(library, &path, 0);
        let waiter = Sqlite::open(library, &path, 600_000);
        assert_eq!(executes(&holder, c"CREATE TABLE t (n INTEGER); BEGIN EXCLUSIVE"), 0);
        let block = move || {
            assert_eq!(executes(&waiter, c"INSERT INTO t VALUES (1)"), 0);
            std::fs::remove_dir_all(folder).unwrap();
        };
        Situation::new(block, move || assert_eq!(executes(&holder, c"COMMIT"), 0))
    });
}

#[inline(never)]
fn connects(connect: unsafe extern "C" fn(*const c_char) -> *mut c_void, to: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    let result = unsafe { connect(to.as_ptr()) }; // blocks here
    not_the_last_call();
    result
}

#[test]
fn a_connection_of_libpq_is_diagnosed() {
    let Some(library) = Library::load(&[c"libpq.so.5", c"libpq.so"]) else { return };
    let (reason, advice) = ("a database call (libpq)", "tokio-postgres");
    let (syscalls, function) = (&["poll", "ppoll"], "c_libraries::connects");
    check(Expected { cause: Cause::Syscall, syscalls, reason, advice, function }, || {
        // A server that accepts and says nothing.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("host=127.0.0.1 port={} sslmode=disable", server.local_addr().unwrap().port());
        let to = std::ffi::CString::new(to).unwrap();
        // SAFETY: the type is that of libpq's documentation.
        let connect = unsafe { library.function(c"PQconnectdb") };
        let block = move || assert!(!connects(connect, &to).is_null());
        Situation::new(block, move || drop(server.accept().unwrap()))
    });
}

/// The functions of Python's C interface that take and release the global interpreter lock.
#[derive(Clone, Copy)]
struct Gil {
    ensure: unsafe extern "C" fn() -> c_int,
    release: unsafe extern "C" fn(c_int),
    run: unsafe extern "C" fn(*const c_char) -> c_int,
}

impl Gil {
    /// Starts Python, once in a process, and leaves its lock free.
    fn start(library: Library) -> Gil {
        static START: std::sync::Once = std::sync::Once::new();
        // SAFETY: the types are those of Python's documentation. The thread that starts Python
        // releases the lock.
        unsafe {
            START.call_once(|| {
                let initialize: unsafe extern "C" fn(c_int) = library.function(c"Py_InitializeEx");
                let save_thread: unsafe extern "C" fn() -> *mut c_void = library.function(c"PyEval_SaveThread");
                initialize(0);
                save_thread();
            });
            Gil {
                ensure: library.function(c"PyGILState_Ensure"),
                release: library.function(c"PyGILState_Release"),
                run: library.function(c"PyRun_SimpleString"),
            }
        }
    }
}

#[inline(never)]
fn takes_the_gil(gil: Gil) -> c_int {
    // SAFETY: Python has been started, and the caller releases the lock.
    let result = unsafe { (gil.ensure)() }; // blocks here
    not_the_last_call();
    result
}

fn python() -> Option<Gil> {
    let names = [c"libpython3.13.so.1.0", c"libpython3.12.so.1.0", c"libpython3.11.so.1.0", c"libpython3.so"];
    Library::load(&names).map(Gil::start)
}

#[inline(never)]
fn runs_python(gil: Gil, code: &CStr) -> c_int {
    // SAFETY: this thread holds the lock.
    let result = unsafe { (gil.run)(code.as_ptr()) }; // blocks here
    not_the_last_call();
    result
}

#[test]
fn python_code_is_diagnosed() {
    let Some(gil) = python() else { return };
    let (reason, advice) = ("computing in Python code", "tokio::task::spawn_blocking");
    let function = "c_libraries::runs_python";
    check(Expected { cause: Cause::Cpu, syscalls: &[], reason, advice, function }, || {
        let folder = test_support::scratch(&format!("python-{}", std::process::id()));
        let stop = folder.join("stop");
        let code = format!("import os\nwhile not os.path.exists({stop:?}):\n  sum(range(1000000))\n");
        let code = std::ffi::CString::new(code).unwrap();
        let block = move || {
            let state = takes_the_gil(gil);
            assert_eq!(runs_python(gil, &code), 0);
            // SAFETY: the state is that of this thread.
            unsafe { (gil.release)(state) };
            std::fs::remove_dir_all(folder).unwrap();
        };
        Situation::new(block, move || std::fs::write(stop, "").unwrap())
    });
}

#[test]
fn the_gil_is_diagnosed() {
    let Some(gil) = python() else { return };
    let (reason, advice, function) = ("the Python GIL", "release the GIL", "c_libraries::takes_the_gil");
    check(Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }, || {
        let ((held, is_held), (release, released)) = (channel(), channel::<()>());
        let holder = std::thread::spawn(move || {
            let state = takes_the_gil(gil);
            held.send(()).unwrap();
            let _ = released.recv();
            // SAFETY: the state is that of this thread.
            unsafe { (gil.release)(state) };
        });
        is_held.recv().unwrap();
        let block = move || {
            let state = takes_the_gil(gil);
            // SAFETY: the state is that of this thread.
            unsafe { (gil.release)(state) };
        };
        Situation::new(block, move || {
            drop(release);
            holder.join().unwrap();
        })
    });
}
