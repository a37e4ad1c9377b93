//! How many threads work on one target.
//!
//! As many as there are streams, from the first moment. A small image, though, is next to no bytes and many waits: for
//! the disk, for a server far away. Where the configuration does not name a number, helpers join once a run has lasted a
//! while and small work is piling up, one with each task that ends, and leave when nothing is left for them. A run
//! that is over soon opens no further connection for it. Nor does one that is held to a low rate: it waits for its turn to
//! send, and the more files share that turn, the longer each of them is under way.

use std::time::{Duration, Instant};

use crate::config::Bandwidth;

/// Streams where neither the configuration nor the target names a number.
const STREAMS: u32 = 4;
/// Bytes of a file up to which it counts as small.
pub const SMALL: u64 = 1 << 20;
/// Threads at most where the configuration names no number of streams.
const MOST: usize = 16;
const AFTER: Duration = Duration::from_secs(1);
/// Bytes per second: with less, at any hour, there are no helpers.
const LOW: u64 = 4 << 20;

/// Whether the target is held to a rate, at some hour, at which helpers are of no use.
pub fn slow(bandwidth: &Bandwidth) -> bool {
    let mut rates = bandwidth.windows.iter().map(|w| w.rate).chain(bandwidth.rate);
    rates.any(|rate| (1..LOW).contains(&rate))
}

/// Streams where the configuration names no number. `suited`: what the target suggests.
pub fn streams(suited: Option<u32>, slow: bool) -> u32 {
    suited.filter(|_| !slow).map_or(STREAMS, |number| number.clamp(1, MOST as u32))
}

#[derive(Debug)]
pub struct Crew {
    begun: Instant,
    /// Threads at work, helpers included, and how many there may be.
    threads: usize,
    most: usize,
}

impl Crew {
    /// `fixed`: the configuration names the number of streams.
    pub fn new(begun: Instant, streams: usize, fixed: bool) -> Self {
        Self { begun, threads: streams, most: if fixed { streams } else { MOST.max(streams) } }
    }

    /// Whether a helper joins now; it is counted if so. `ready`: small tasks that could begin.
    pub fn joins(&mut self, now: Instant, ready: usize) -> bool {
        let wanted = self.threads < self.most && ready > self.threads && now - self.begun >= AFTER;
        self.threads += usize::from(wanted);
        wanted
    }

    /// A helper has nothing more to do.
    pub fn leaves(&mut self) {
        self.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_rate_at_any_hour_needs_no_helpers() {
        let at = |rate| Bandwidth { rate, windows: Vec::new() };
        assert!(!slow(&at(None)) && !slow(&at(Some(LOW))) && slow(&at(Some(LOW - 1))));
        let window = crate::config::Window { days: vec![0], from: 0, to: 60, rate: 1000 };
        assert!(slow(&Bandwidth { rate: None, windows: vec![window.clone()] }));
        // A closed window sends nothing at all.
        assert!(!slow(&Bandwidth { rate: None, windows: vec![crate::config::Window { rate: 0, ..window }] }));
    }

    #[test]
    fn a_target_may_suggest_its_number_of_streams() {
        assert_eq!((streams(None, false), streams(Some(8), false)), (4, 8));
        assert_eq!((streams(Some(0), false), streams(Some(1000), false)), (1, 16));
        assert_eq!(streams(Some(8), true), 4, "more connections are of no use at a low rate");
    }

    #[test]
    fn helpers_join_a_run_that_lasts_and_only_as_many_as_have_work() {
        let begun = Instant::now();
        let later = begun + AFTER;
        let joined = |mut crew: Crew, now, ready| (0..100).filter(|_| crew.joins(now, ready)).count();
        assert_eq!(joined(Crew::new(begun, 4, false), begun, 1000), 0, "too early");
        assert_eq!(joined(Crew::new(begun, 4, false), later, 1000), MOST - 4);
        assert_eq!(joined(Crew::new(begun, 4, false), later, 7), 3);
        assert_eq!(joined(Crew::new(begun, 4, false), later, 4), 0);
        assert_eq!(joined(Crew::new(begun, 4, true), later, 1000), 0, "the user's number is honoured");
        assert_eq!(joined(Crew::new(begun, 40, true), later, 1000), 0);
        let mut crew = Crew::new(begun, 15, false);
        assert!(crew.joins(later, 1000) && !crew.joins(later, 1000));
        crew.leaves();
        assert!(crew.joins(later, 1000));
    }
}
