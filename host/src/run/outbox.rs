//! The worker's way out: one JSON line each to the supervisor's descriptor.
//!
//! The descriptor is opened anew through `/proc/self/fd`, which needs no unsafe code; whatever a plugin prints goes to
//! standard output and error and can never be taken for one of these lines.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::protocol::{Answer, Ask, Line};
use super::stop::Stop;
use super::warnings::Warnings;
use crate::error::{Error, Kind, Result};
use crate::notice::{Notice, NoticeCode};
use crate::report::Event;

/// Writes lines; safe to share.
pub struct Outbox {
    to: Mutex<Box<dyn Write + Send>>,
    /// Set when the supervisor does not read any more.
    stop: Arc<Stop>,
    warnings: Warnings,
}

impl Outbox {
    /// `descriptor`: the write end of a pipe. Errors: `Usage` when there is none.
    pub fn open(descriptor: u32, stop: Arc<Stop>) -> Result<Self> {
        let path = format!("/proc/self/fd/{descriptor}");
        let file = File::options().write(true).open(&path).map_err(|e| {
            Error::new(Kind::Usage, "cannot write events").on(path).because(e).hint(
                "`offsite worker` is started by `offsite` itself, with the write end of a pipe as --events-fd",
            )
        })?;
        Ok(Self::to(file, stop))
    }

    pub fn to(writer: impl Write + Send + 'static, stop: Arc<Stop>) -> Self {
        Self { to: Mutex::new(Box::new(writer)), stop, warnings: Warnings::default() }
    }

    pub fn event(&self, event: Event) {
        self.line(&Line::Event(event));
    }

    /// What a plugin or the worker warned of.
    pub fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    pub fn notice(&self, code: NoticeCode, text: impl Into<String>) {
        self.event(Event::Notice(Notice::new(code, text)));
    }

    pub fn ask(&self, ask: Ask) {
        self.line(&Line::Ask(ask));
    }

    pub fn answer(&self, answer: Answer) {
        self.line(&Line::Answer(Box::new(answer)));
    }

    pub fn log(&self, level: &str, message: impl Into<String>) {
        self.event(Event::Log { level: level.to_owned(), message: message.into() });
    }

    fn line(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).expect("a line of the protocol always serialises");
        text.push(b'\n');
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if to.write_all(&text).is_err() {
            self.stop.set();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_stops_the_worker() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let stop = Arc::new(Stop::default());
        Outbox::to(Gone, stop.clone()).log("info", "x");
        assert!(stop.is_set());
    }
}
