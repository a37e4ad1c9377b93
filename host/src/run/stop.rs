//! Whether this worker should end: one flag, asked by every call into a plugin, and a way to wait that it cuts short.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};

#[derive(Debug, Default)]
pub struct Stop {
    flag: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// Asks everything to end at the next checkpoint. Cannot be taken back.
    pub fn set(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.flag.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Errors: `Stopped`.
    pub fn proceed(&self) -> Result<()> {
        if self.is_set() { Err(stopped()) } else { Ok(()) }
    }

    /// Waits that long, or until asked to stop: then true.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_set() {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                return false;
            };
            guard = self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

pub fn stopped() -> Error {
    Error::new(Kind::Stopped, "stopped at a checkpoint")
}
