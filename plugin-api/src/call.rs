//! The host's end of one call: cancellation, time, pacing, progress, log.

use std::sync::Arc;
use std::time::Duration;

use crate::{Error, ErrorKind, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

/// What the host implements; a backend sees it through [`Call`].
pub trait CallHost: Send + Sync {
    fn cancelled(&self) -> bool;
    /// Time left; `None` for no limit.
    fn remaining(&self) -> Option<Duration>;
    /// Blocks until `bytes` may be sent. Returns false when the call was cancelled meanwhile.
    fn pace(&self, bytes: u64) -> bool;
    fn acked(&self, bytes: u64);
    fn alive(&self, note: &str);
    fn log(&self, level: Level, message: &str);
    /// For the host itself: the next operation of a call that serves several begins, and its time with it.
    #[doc(hidden)]
    fn begins(&self) {}
}

/// Passed to every method of a backend; cheap to clone into threads and tasks.
#[derive(Clone)]
pub struct Call(Arc<dyn CallHost>);

impl Call {
    pub fn new(host: Arc<dyn CallHost>) -> Self {
        Self(host)
    }

    /// A call that nobody cancels, paces or watches: for tests.
    pub fn unwatched() -> Self {
        struct Nobody;
        impl CallHost for Nobody {
            fn cancelled(&self) -> bool {
                false
            }
            fn remaining(&self) -> Option<Duration> {
                None
            }
            fn pace(&self, _: u64) -> bool {
                true
            }
            fn acked(&self, _: u64) {}
            fn alive(&self, _: &str) {}
            fn log(&self, _: Level, _: &str) {}
        }
        Self::new(Arc::new(Nobody))
    }

    pub fn cancelled(&self) -> bool {
        self.0.cancelled()
    }

    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// `Cancelled` or `TimedOut` when this call should end: ask at least every two seconds.
    pub fn proceed(&self) -> Result<()> {
        if self.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        if self.remaining().is_some_and(|left| left.is_zero()) {
            return Err(Error::new(ErrorKind::TimedOut, "the time for this operation ran out"));
        }
        Ok(())
    }

    /// The throttle: call it before each write to the network or disk, with at most 256 KiB (where a library must
    /// be offered more, call it with the acknowledged bytes). Blocks; `Cancelled` when the call ends meanwhile.
    pub fn pace(&self, bytes: u64) -> Result<()> {
        if self.0.pace(bytes) { Ok(()) } else { Err(Error::new(ErrorKind::Cancelled, "cancelled")) }
    }

    /// Progress: this many more bytes are acknowledged by the server.
    pub fn acked(&self, bytes: u64) {
        self.0.acked(bytes);
    }

    /// Says that work goes on although no bytes are acknowledged (a server merging parts, a long digest).
    pub fn alive(&self, note: &str) {
        self.0.alive(note);
    }

    pub fn log(&self, level: Level, message: &str) {
        self.0.log(level, message);
    }

    pub fn host(&self) -> &Arc<dyn CallHost> {
        &self.0
    }
}
