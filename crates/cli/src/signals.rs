//! Signals: what ends the program takes its unfinished files with it, and a limit on the size of files is an error.

use smelt::plans::partial;

/// What a shell reports for a program that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Sets the handlers up, before anything is done.
pub fn install() {
    // a second handler, of a program around this one, is its own business
    let _ = ctrlc::set_handler(|| partial::exit(INTERRUPTED));
    #[cfg(unix)]
    // SAFETY: no handler is installed: ignored, the signal leaves it to `write` to fail with EFBIG, as on a full disk.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
