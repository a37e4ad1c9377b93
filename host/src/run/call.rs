//! The host's end of one call into a plugin: when it must end, how fast it may send, what it has done.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, CallHost, Level};

use super::meter::{Meter, bounded};
use super::outbox::Outbox;
use super::pace::Pacer;
use super::stop::Stop;

/// Time for a short operation: look at a name, one page of a listing, delete, make a directory.
pub const SHORT: Duration = Duration::from_secs(120);
/// Time for an act that may take a server long: publish (a server merging parts), copy, digest.
pub const LONG: Duration = Duration::from_secs(3600);

/// How long a call may say that it is alive while no byte moves: one that waits for itself would say so for ever.
const QUIET: Duration = Duration::from_secs(3600);

/// What all calls of one worker share.
#[derive(Clone)]
pub struct Line {
    pub stop: Arc<Stop>,
    pub pacer: Arc<Pacer>,
    pub meter: Arc<Meter>,
    pub outbox: Arc<Outbox>,
}

impl Line {
    /// A call each of whose operations ends after `time` (`None`: when stopped). Its bytes do not count as progress.
    pub fn call(&self, time: Option<Duration>) -> Call {
        self.transfer(time, Counts::Nothing).0
    }

    /// A call that publishes files. Where small ones go up with it, their bytes are sent now, and done when they are
    /// published.
    pub fn publishing(&self, time: Duration) -> Call {
        self.transfer(Some(time), Counts::Sent).0
    }

    /// A call that sends a file's bytes, with its own count of them. It goes on for as long as bytes move.
    pub fn sending(&self) -> (Call, Arc<Counted>) {
        self.transfer(None, Counts::Progress)
    }

    /// A call whose bytes do not count as progress, for as long as bytes move: reading back.
    pub fn sending_unseen(&self) -> (Call, Arc<Counted>) {
        self.transfer(None, Counts::Nothing)
    }

    fn transfer(&self, time: Option<Duration>, counts: Counts) -> (Call, Arc<Counted>) {
        let counted = Arc::new(Counted::default());
        let host = WorkerCall {
            line: self.clone(),
            time,
            until: Mutex::new(Instant::now() + time.unwrap_or(QUIET)),
            quiet: QUIET,
            counts,
            counted: counted.clone(),
        };
        (Call::new(Arc::new(host)), counted)
    }
}

/// What the bytes a call acknowledges are.
#[derive(Clone, Copy, Debug)]
enum Counts {
    /// Bytes of a file, sent and done.
    Progress,
    /// Sent, but done only when it is published.
    Sent,
    Nothing,
}

/// What one call has done.
#[derive(Debug, Default)]
pub struct Counted {
    acked: AtomicU64,
    ended: AtomicBool,
}

impl Counted {
    /// Bytes acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Ends this call alone.
    pub fn cancel(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

struct WorkerCall {
    line: Line,
    time: Option<Duration>,
    /// When the operation under way must end. Without a time of its own: unless bytes move meanwhile.
    until: Mutex<Instant>,
    quiet: Duration,
    counts: Counts,
    counted: Arc<Counted>,
}

impl WorkerCall {
    fn put_off(&self, time: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + time;
    }

    /// Bytes moved, or wait for their turn.
    fn moves(&self) {
        if self.time.is_none() {
            self.put_off(self.quiet);
        }
    }
}

impl CallHost for WorkerCall {
    fn cancelled(&self) -> bool {
        self.line.stop.is_set() || self.counted.ended.load(Ordering::Relaxed)
    }

    fn remaining(&self) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn pace(&self, bytes: u64) -> bool {
        let say = |note: &str| {
            self.moves();
            self.line.meter.alive(&self.line.outbox, note);
        };
        self.moves();
        self.line.pacer.pace(bytes, &|| self.cancelled(), &say)
    }

    fn acked(&self, bytes: u64) {
        self.counted.acked.fetch_add(bytes, Ordering::Relaxed);
        self.moves();
        match self.counts {
            Counts::Progress => self.line.meter.acked(bytes),
            Counts::Sent => {
                self.line.meter.sent_late(bytes);
                self.alive("");
            }
            Counts::Nothing => self.alive(""),
        }
    }

    fn alive(&self, note: &str) {
        self.line.meter.alive(&self.line.outbox, note);
    }

    /// That an operation begins shows that the one before it ended: thousands of short ones are life, too.
    fn begins(&self) {
        self.put_off(self.time.unwrap_or(self.quiet));
        self.alive("");
    }

    fn log(&self, level: Level, message: &str) {
        let message = bounded(message);
        // Users do not read a log. What they were told already goes there.
        if level <= Level::Warn && self.line.outbox.warnings().plugin(&self.line.outbox, &message) {
            return;
        }
        match level {
            Level::Error => tracing::error!(target: "plugin", "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", "{message}"),
            Level::Info => tracing::info!(target: "plugin", "{message}"),
            Level::Debug => tracing::debug!(target: "plugin", "{message}"),
            Level::Trace => tracing::trace!(target: "plugin", "{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let stop = Arc::new(Stop::default());
        Line {
            stop: stop.clone(),
            pacer: Arc::new(Pacer::new(crate::config::Bandwidth::default())),
            meter: Arc::default(),
            outbox: Arc::new(Outbox::to(std::io::sink(), stop)),
        }
    }

    /// A plugin that waits for itself says that it is alive, for ever.
    #[test]
    fn a_call_that_only_says_that_it_is_alive_ends() {
        let host = WorkerCall {
            line: line(),
            time: None,
            until: Mutex::new(Instant::now() + Duration::from_millis(200)),
            quiet: Duration::from_millis(200),
            counts: Counts::Progress,
            counted: Arc::default(),
        };
        let call = Call::new(Arc::new(host));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(100));
            call.pace(1).unwrap();
            assert!(call.proceed().is_ok(), "bytes move");
        }
        for _ in 0..3 {
            call.alive("waiting for myself");
            std::thread::sleep(Duration::from_millis(100));
        }
        let error = call.proceed().unwrap_err();
        assert_eq!(error.kind(), &offsite_plugin_api::ErrorKind::TimedOut, "{error}");
    }

    #[test]
    fn each_operation_of_a_call_has_the_whole_time() {
        let call = line().call(Some(Duration::from_millis(200)));
        std::thread::sleep(Duration::from_millis(250));
        assert!(call.proceed().is_err(), "the first operation took too long");
        call.host().begins();
        assert!(call.proceed().is_ok(), "the second has its own time");
    }
}
