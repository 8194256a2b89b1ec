//! What happens when a mapped file is truncated while it is read: an error that names the file, exit code 3, and no
//! unfinished output.
//!
//! The system sends SIGBUS to the thread that reads a page which the file no longer has. A handler can do little, for
//! it may have interrupted anything; ours only checks whether the address is in a mapped file, passes it to a thread
//! that waits for it, and suspends the interrupted thread. The waiting thread is an ordinary one: it may lock and
//! allocate, since nobody reads mapped files while holding a lock that it needs. It does what Ctrl-C does. Other
//! addresses are left to the previous handler, which ends the process.

use std::ffi::{c_int, c_void};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::OnceLock;

use smelt::plans::{mapped, partial};

use crate::failure::{BAD_INPUT, Failure};
use crate::output::print_failure;

/// What a handler needs, set before it is installed.
struct Before {
    /// Where addresses are sent.
    pipe: RawFd,
    handler: libc::sigaction,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Handles SIGBUS from now on. If that is impossible, a truncated file ends the process as usual.
pub fn install() {
    let Ok((mut reader, writer)) = std::io::pipe() else { return };
    let end = move || {
        let mut address = [0; size_of::<usize>()];
        if reader.read_exact(&mut address).is_ok() {
            end(usize::from_ne_bytes(address));
        }
    };
    let waiting = std::thread::Builder::new().name("cut files".to_owned()).stack_size(256 << 10).spawn(end);
    if waiting.is_err() {
        return;
    }
    let mut handler = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer asks for the handler alone, which is written where it succeeds; zeros are one, too.
    let handler = unsafe {
        libc::sigaction(libc::SIGBUS, std::ptr::null(), handler.as_mut_ptr());
        handler.assume_init()
    };
    if BEFORE.set(Before { pipe: writer.into_raw_fd(), handler }).is_err() {
        return;
    }
    // SAFETY: `on_fault` has the signature of SA_SIGINFO and does only what a handler may. It runs on the signal stack,
    // if there is one.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Says which file was cut, and ends the process.
fn end(address: usize) -> ! {
    let file = mapped::file_at(address).map_or_else(|| "a file".to_owned(), |file| file.display().to_string());
    let failure = Failure::bad_input(format!(
        "{file}: was truncated while it was read: run the command again when the file is complete and nothing writes to it"
    ));
    let _ = print_failure(failure, false);
    partial::exit(BAD_INPUT.into())
}

/// Handles the signal. Does only what is async-signal-safe: atomics, write(2), pause(2), sigaction(2).
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system hands over a filled structure. The address is one only where the system itself is the sender.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let Some(before) = BEFORE.get() else { return };
    if code > 0 && mapped::holds(address) {
        // SAFETY: the pipe is open as long as the process is, and the bytes are those of a local value.
        unsafe { libc::write(before.pipe, (&raw const address).cast(), size_of::<usize>()) };
        loop {
            // SAFETY: takes nothing and changes nothing.
            unsafe { libc::pause() };
        }
    }
    let handler = before.handler.sa_sigaction;
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: the thread continues where it was, faults on the same page, and the system ends the process as usual.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if code <= 0 {
                libc::raise(signal);
            }
        }
    } else if before.handler.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the flag says which signature the handler has.
        unsafe {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
            handler(signal, info, context);
        }
    } else {
        // SAFETY: without the flag, it has this one.
        unsafe {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}
