//! Prints lines to standard output, and ends quietly when nobody reads them any more.

use std::io::{self, Write};

/// What a shell reports for a process that SIGPIPE ended: 128 + 13.
const CLOSED_PIPE: i32 = 141;

/// Prints one line. Use through [`say!`](crate::say).
pub fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    if printed.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // `fairway lab status | head` has all it wanted. `println!` would panic here.
        std::process::exit(CLOSED_PIPE);
    }
}

/// Prints one line for people beside the answer; one that nobody reads is lost. Use through [`complain!`](crate::complain).
pub fn complaint(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// `eprintln!` that survives a closed pipe.
#[macro_export]
macro_rules! complain {
    ($($text:tt)*) => { $crate::output::complaint(&format!($($text)*)) };
}

/// `println!` that survives a closed pipe.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(&format!($($text)*)) };
}
