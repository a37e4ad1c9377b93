//! Numbered points around everything that must survive a kill, so that tests can kill at each of them.
//!
//! Points are numbered in the order in which a process reaches them. In debug builds `OFFSITE_KILL_LOG=<file>` appends
//! one line (`number name`) for each, and `OFFSITE_KILL_AT=<n>` ends the process with SIGKILL at the n-th; a release
//! build has neither. The environment is read once per process, and every process counts for itself.

/// Marks a point; see the module. `name` is `what.where`: `publish.after-intent`.
#[inline]
pub fn reach(name: &str) {
    #[cfg(debug_assertions)]
    debug::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod debug {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock};

    struct Plan {
        at: Option<u64>,
        log: Option<Mutex<std::fs::File>>,
        count: AtomicU64,
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| Plan {
            at: std::env::var("OFFSITE_KILL_AT").ok().and_then(|n| n.parse().ok()),
            log: std::env::var_os("OFFSITE_KILL_LOG")
                .and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok())
                .map(Mutex::new),
            count: AtomicU64::new(0),
        })
    }

    pub(super) fn reach(name: &str) {
        #[cfg(test)]
        super::in_thread::reach(name);
        let plan = plan();
        if plan.at.is_none() && plan.log.is_none() {
            return;
        }
        let number = plan.count.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(log) = &plan.log {
            // One write of one line: other processes append to the same file.
            let line = format!("{number} {name}\n");
            let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let _ = log.write_all(line.as_bytes());
        }
        if plan.at == Some(number) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // SIGKILL is delivered before this thread goes on; nothing after the point may happen.
            loop {
                std::thread::park();
            }
        }
    }
}

/// For unit tests of this crate: the n-th point reached by the test's own thread unwinds instead of killing.
#[cfg(test)]
pub(crate) mod in_thread {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// What unwinds.
    struct Killed;

    pub(super) fn reach(_: &str) {
        LEFT.with(|left| {
            if let Some(n) = left.get() {
                left.set(n.checked_sub(1));
                if n <= 1 {
                    left.set(None);
                    // Not `panic!`: the hook would print a backtrace for each of thousands of kills.
                    resume_unwind(Box::new(Killed));
                }
            }
        });
    }

    /// Runs `act`, killed at the `n`-th point it reaches (from 1). `None` when it was killed.
    pub(crate) fn killed_at<T>(n: u64, act: impl FnOnce() -> T) -> Option<T> {
        LEFT.with(|left| left.set(Some(n)));
        let result = catch_unwind(AssertUnwindSafe(act));
        LEFT.with(|left| left.set(None));
        match result {
            Ok(value) => Some(value),
            Err(reason) if reason.is::<Killed>() => None,
            Err(reason) => resume_unwind(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_point_is_the_last_thing_that_happens() {
        let reached = std::cell::RefCell::new(Vec::new());
        let act = || {
            for point in ["a", "b", "c"] {
                reach(point);
                reached.borrow_mut().push(point);
            }
        };
        assert_eq!(in_thread::killed_at(2, act), None);
        assert_eq!(*reached.borrow(), ["a"]);
        assert_eq!(in_thread::killed_at(4, act), Some(()));
    }
}
