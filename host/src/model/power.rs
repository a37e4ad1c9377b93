//! A kill between any two steps of a run, within one process.
//!
//! Every write of a catalog and every call of the simulated target is a step. After the last one that the plan of the
//! story allows, none happens any more: every later call fails and every later write is refused, whichever thread makes
//! it, so that nothing is done that a dead process could not have done.

use std::sync::atomic::{AtomicU64, Ordering};

const DEAD: u64 = 0;

/// Shared by the catalogs, the job's database and the target of one simulated process.
#[derive(Debug)]
pub(crate) struct Power {
    /// One more than the steps that are left; zero once one was refused.
    left: AtomicU64,
    steps: AtomicU64,
}

impl Default for Power {
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), steps: AtomicU64::new(0) }
    }
}

impl Power {
    /// One step; false: the process is dead, and the step may not happen.
    pub fn step(&self) -> bool {
        let spend = |left: u64| Some(left.saturating_sub(1));
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend);
        let alive = before.is_ok_and(|left| left > 1);
        if alive {
            self.steps.fetch_add(1, Ordering::SeqCst);
        }
        alive
    }

    /// A new process, which dies after so many steps (`None`: it lives to its end). The count of steps starts anew.
    pub fn on(&self, steps: Option<u64>) {
        self.left.store(steps.map_or(u64::MAX, |n| n.saturating_add(1)), Ordering::SeqCst);
        self.steps.store(0, Ordering::SeqCst);
    }

    /// Whether a step was refused since [`Power::on`].
    pub fn cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == DEAD
    }

    /// Steps that happened since [`Power::on`].
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, JobDb};
    use crate::error::Kind;
    use crate::source::{Learned, Observations, Place};
    use std::sync::Arc;

    #[test]
    fn nothing_is_written_after_the_kill_and_all_before_it() {
        let power = Arc::new(Power::default());
        let catalog = Catalog::in_memory().unwrap();
        catalog.powered_by(power.clone());
        power.on(Some(2));
        catalog.put_fact("a", b"1").unwrap();
        catalog.put_fact("b", b"1").unwrap();
        assert!(!power.cut());
        assert_eq!(catalog.put_fact("c", b"1").unwrap_err().kind, Kind::State);
        assert!(power.cut());
        assert_eq!(catalog.put_fact("d", b"1").unwrap_err().kind, Kind::State);
        assert_eq!(power.steps(), 2);
        power.on(None);
        let kept = ["a", "b", "c", "d"].map(|fact| catalog.fact(fact).unwrap().is_some());
        assert_eq!(kept, [true, true, false, false]);
    }

    #[test]
    fn a_dead_scan_remembers_nothing_and_the_next_process_does() {
        let power = Arc::new(Power::default());
        let mut job = JobDb::in_memory().unwrap();
        job.powered_by(power.clone());
        let place = Some(Place { device: 1, inode: 2 });
        let learned = Learned { place, ..Learned::default() };
        power.on(Some(0));
        assert!(job.save(&learned).is_err());
        power.on(None);
        let mut job = job.reopened(vec![Arc::new(Catalog::in_memory().unwrap())]);
        assert_eq!(job.load().unwrap().place, None);
        job.save(&learned).unwrap();
        assert_eq!(job.load().unwrap().place, place);
        assert_eq!(job.known_paths(), []);
    }
}
