//! The two places where text leaves the program. A reader that went away (`| head`) is no error.

use std::io::Write;

/// A result, on standard output.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}

/// What is said beside the result, on standard error.
pub fn note(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "{text}");
}
