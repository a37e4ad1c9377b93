//! Durable commits of several threads share one wait for the disk.
//!
//! A commit appends to SQLite's log without waiting (`synchronous = NORMAL`), and its thread then waits until the log is on
//! the disk up to there. One thread at a time asks the disk; all that committed before it asked are answered with it, and
//! nobody by a request that began before its commit was made.
//! The log is one file, read from its start after a crash and cut at the first frame that is not whole: what was flushed
//! up to a commit contains that commit and all before it. When SQLite moves the log's content into the database it waits
//! for the disk itself, before and after, in this mode too.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Kind, Result};

/// Puts everything that was written to the log on the disk.
type Flush = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

#[derive(Default)]
struct State {
    /// Commits in the log, and how many of them are known to be on the disk.
    written: u64,
    flushed: u64,
    flushing: bool,
    /// A flush failed: the kernel may have dropped what it could not write, so that no later flush proves anything.
    failed: Option<String>,
}

pub(super) struct Group {
    name: String,
    flush: Flush,
    state: Mutex<State>,
    changed: Condvar,
}

impl Group {
    /// For the database of this path, which is open: its connection keeps the log from being removed.
    pub fn of(database: &Path) -> Self {
        // As SQLite does: the log is beside the file that a link leads to.
        let database = database.canonicalize().unwrap_or_else(|_| database.to_owned());
        let mut log = database.into_os_string();
        log.push("-wal");
        let name = log.to_string_lossy().into_owned();
        let opened = OnceLock::new();
        Self::with(name, Box::new(move || flush(Path::new(&log), &opened)))
    }

    fn with(name: String, flush: Flush) -> Self {
        Self { name, flush, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit was made. Gives what to [`Group::wait`] for.
    pub fn committed(&self) -> u64 {
        let mut state = self.lock();
        state.written += 1;
        state.written
    }

    /// Waits until that commit is on the disk. Errors: `State` when it cannot be known to be, now and ever after.
    pub fn wait(&self, commit: u64) -> Result<()> {
        let mut state = self.lock();
        loop {
            if let Some(why) = &state.failed {
                return Err(Error::new(Kind::State, "the local database is not on the disk")
                    .on(self.name.clone())
                    .because(why.clone())
                    .hint("is its disk full or failing?"));
            }
            if state.flushed >= commit {
                return Ok(());
            }
            if state.flushing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.flushing = true;
            let upto = state.written;
            drop(state);
            let done = (self.flush)();
            state = self.lock();
            state.flushing = false;
            match done {
                Ok(()) => state.flushed = upto,
                Err(error) => state.failed = Some(error.to_string()),
            }
            self.changed.notify_all();
        }
    }
}

/// Closing a file ends this process's locks on it, but SQLite's are on the database and its index, never on the log.
fn flush(log: &Path, opened: &OnceLock<File>) -> io::Result<()> {
    if let Some(file) = opened.get() {
        return file.sync_data();
    }
    let file = File::open(log)?;
    file.sync_data()?;
    if let Some(directory) = log.parent() {
        File::open(directory)?.sync_all()?;
    }
    let _ = opened.set(file);
    Ok(())
}

#[cfg(test)]
impl Group {
    /// For tests: a disk of their own.
    pub fn on(flush: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::with("test".to_owned(), Box::new(flush))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::Duration;

    #[test]
    fn nobody_is_answered_by_a_flush_that_began_before_its_commit() {
        // The log's length, what of it is on the disk, and the number of flushes.
        let (log, disk, flushes) =
            (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let group = Group::on({
            let (log, disk, flushes) = (log.clone(), disk.clone(), flushes.clone());
            move || {
                flushes.fetch_add(1, SeqCst);
                let length = log.load(SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                disk.store(length, SeqCst);
                Ok(())
            }
        });
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        let own = log.fetch_add(1, SeqCst) + 1;
                        group.wait(group.committed()).unwrap();
                        assert!(disk.load(SeqCst) >= own);
                    }
                });
            }
        });
        let flushes = flushes.load(SeqCst);
        assert!((30..240).contains(&flushes), "{flushes} flushes for 240 commits: they are shared");
    }

    #[test]
    fn a_flush_that_failed_is_never_made_good_by_a_later_one() {
        let times = AtomicU64::new(0);
        let group = Group::on(move || match times.fetch_add(1, SeqCst) {
            1 => Err(io::Error::other("no medium")),
            _ => Ok(()),
        });
        let first = group.committed();
        group.wait(first).unwrap();
        let second = group.committed();
        for commit in [second, second, group.committed()] {
            let error = group.wait(commit).unwrap_err();
            assert_eq!(error.kind, Kind::State);
            assert!(error.to_string().contains("no medium"), "{error}");
        }
    }

    #[test]
    fn a_log_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::of(&dir.path().join("c.db"));
        assert!(group.wait(group.committed()).is_err());
        std::fs::write(dir.path().join("c.db-wal"), b"log").unwrap();
        assert!(group.wait(group.committed()).is_err());
        let group = Group::of(&dir.path().join("c.db"));
        group.wait(group.committed()).unwrap();
    }
}
