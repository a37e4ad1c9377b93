//! When something is tried again: how often, after which wait, and what counts as a new beginning.
//!
//! The budget is the target's `attempts` per image (and per act of the run itself: open, list, settle). It counts
//! failures in a row: an attempt that came further than any before it, by a checkpoint's worth of bytes, starts the count anew,
//! because a long transfer over a line that drops every hour must end some day, and one that never gets anywhere must
//! not go on for ever. Waits grow exponentially from the target's first wait to at most five minutes, with jitter so
//! that the streams of many machines do not come back in step; a server's own wait is honoured when it is longer.

use std::time::Duration;

use offsite_plugin_api::Retry as Class;

use super::stop::Stop;
use crate::config::Retry;
use crate::error::{Error, Kind, Result};

const LONGEST: Duration = Duration::from_secs(300);
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// Bytes gained that start the count of failures anew: a checkpoint's worth.
pub const PROGRESS: u64 = 64 << 20;

/// Why and when the next attempt comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// The number of the attempt that failed, from 1.
    pub attempt: u32,
    pub of: u32,
    pub wait: Duration,
}

/// The attempts of one image, or of one act of a run.
#[derive(Debug)]
pub struct Attempts {
    policy: Retry,
    failed: u32,
}

impl Attempts {
    pub fn new(policy: Retry) -> Self {
        Self { policy, failed: 0 }
    }

    /// After a failure. `moved`: bytes by which the attempt came further than any before it. `chance`: 0 to 1, the jitter.
    /// `None`: give up.
    pub fn failed(&mut self, error: &Error, moved: u64, chance: f64) -> Option<Again> {
        if moved >= PROGRESS {
            self.failed = 0;
        }
        self.failed += 1;
        if error.retry == Class::Never || error.kind == Kind::Stopped || self.failed >= self.policy.attempts {
            return None;
        }
        let doubled = self.policy.first_wait.saturating_mul(1u32 << (self.failed - 1).min(20)).min(LONGEST);
        let jittered = doubled.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
        let wait = match error.retry {
            Class::After(asked) => jittered.max(asked.min(LONGEST_ASKED)),
            _ => jittered,
        };
        Some(Again { attempt: self.failed, of: self.policy.attempts, wait })
    }

    /// Runs `act` until it succeeds or the budget ends. `moved` gives the bytes gained so far; `say` is told of
    /// each failure that is followed by another attempt.
    pub fn run<T>(
        &mut self,
        stop: &Stop,
        moved: &dyn Fn() -> u64,
        say: &dyn Fn(&Error, &Again),
        mut act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        loop {
            stop.proceed()?;
            let before = moved();
            let error = match act() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // What a call reports after it was asked to end is not a failure of the target.
            stop.proceed()?;
            let Some(again) = self.failed(&error, moved().saturating_sub(before), chance()) else {
                return Err(error);
            };
            say(&error, &again);
            if stop.wait(again.wait) {
                return Err(super::stop::stopped());
            }
        }
    }
}

/// A number from 0 to 1 that differs between machines and moments; no more is asked of it.
pub fn chance() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BackendKind;

    fn policy() -> Retry {
        Retry { attempts: 4, first_wait: Duration::from_millis(100) }
    }

    fn error(kind: BackendKind) -> Error {
        Error::new(Kind::Backend(kind), "x")
    }

    #[test]
    fn waits_double_and_end_with_the_attempts() {
        let mut attempts = Attempts::new(policy());
        let e = error(BackendKind::Interrupted);
        let waits: Vec<_> =
            std::iter::from_fn(|| attempts.failed(&e, 0, 0.5)).map(|a| a.wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400]);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for (chance, wait) in [(0.0, 75), (1.0, 125)] {
            let again = Attempts::new(policy()).failed(&error(BackendKind::Busy), 0, chance).unwrap();
            assert_eq!(again.wait.as_millis(), wait);
        }
    }

    #[test]
    fn progress_starts_the_count_anew() {
        let mut attempts = Attempts::new(policy());
        let e = error(BackendKind::Interrupted);
        for _ in 0..20 {
            assert_eq!(attempts.failed(&e, PROGRESS, 0.5).unwrap().attempt, 1);
        }
    }

    #[test]
    fn a_servers_own_wait_is_honoured_and_final_errors_are_final() {
        let mut attempts = Attempts::new(policy());
        let mut asked = error(BackendKind::Throttled);
        asked.retry = Class::After(Duration::from_secs(9));
        assert_eq!(attempts.failed(&asked, 0, 0.5).unwrap().wait, Duration::from_secs(9));
        assert_eq!(attempts.failed(&error(BackendKind::Denied), 0, 0.5), None);
        assert_eq!(Attempts::new(policy()).failed(&super::super::stop::stopped(), 0, 0.5), None);
    }

    #[test]
    fn a_stop_cuts_a_wait_short() {
        let stop = std::sync::Arc::new(Stop::default());
        let other = stop.clone();
        let mut attempts = Attempts::new(Retry { attempts: 3, first_wait: Duration::from_secs(60) });
        let begun = std::time::Instant::now();
        let result: Result<()> =
            attempts.run(&stop, &|| 0, &|_, _| other.set(), || Err(error(BackendKind::Offline)));
        assert_eq!(result.unwrap_err().kind, Kind::Stopped);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
