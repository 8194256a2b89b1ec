//! Signals: a signal that ends the program removes its unfinished files, and a limit on file size is an error.

use smelt::plans::partial;

/// What a shell reports for a program that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Installs the handlers, before anything else.
pub fn install() {
    // a second handler, of an embedding program, is its own business
    let _ = ctrlc::set_handler(|| partial::exit(INTERRUPTED));
    #[cfg(unix)]
    // SAFETY: no handler is installed: ignored, the signal leaves it to `write` to fail with EFBIG, as on a full disk.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
