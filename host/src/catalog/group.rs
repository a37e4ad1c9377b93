//! Durable commits of several threads share one wait for the disk.
//!
//! A commit appends to SQLite's log without waiting (`synchronous = NORMAL`), and its thread then waits until the log is on
//! the disk up to there. One thread at a time asks the disk; all that committed before it asked are answered with it.
//! The log is one file, read from its start after a crash and cut at the first frame that is not whole: what was flushed
//! up to a commit contains that commit and all before it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use crate::error::{Error, Kind, Result};

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
    /// SQLite's write-ahead log. The connection that this belongs to keeps it from being removed.
    log: PathBuf,
    file: OnceLock<File>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Group {
    pub fn of(database: &Path) -> Self {
        // As SQLite does: the log is beside the file that a link leads to.
        let database = database.canonicalize().unwrap_or_else(|_| database.to_owned());
        let mut log = database.into_os_string();
        log.push("-wal");
        Self { log: log.into(), file: OnceLock::new(), state: Mutex::default(), changed: Condvar::new() }
    }

    /// A commit was made; call it before another can be. Gives what to [`Group::wait`] for.
    pub fn committed(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.written += 1;
        state.written
    }

    /// Waits until that commit is on the disk. Errors: `State` when it cannot be known to be.
    pub fn wait(&self, commit: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(why) = &state.failed {
                return Err(Error::new(Kind::State, "the local database is not on the disk")
                    .on(self.log.display().to_string())
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
            let done = self.flush();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.flushing = false;
            match done {
                Ok(()) => state.flushed = upto,
                Err(error) => state.failed = Some(error.to_string()),
            }
            self.changed.notify_all();
        }
    }

    /// Closing a file ends this process's locks on it, but SQLite's are on the database and its index, never on the log.
    fn flush(&self) -> std::io::Result<()> {
        if let Some(file) = self.file.get() {
            return file.sync_data();
        }
        let file = File::open(&self.log)?;
        file.sync_data()?;
        if let Some(directory) = self.log.parent() {
            File::open(directory)?.sync_all()?;
        }
        let _ = self.file.set(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_waiting_thread_is_answered_and_a_failure_is_final() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("c.db");
        std::fs::write(dir.path().join("c.db-wal"), b"log").unwrap();
        let group = Group::of(&database);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        group.wait(group.committed()).unwrap();
                    }
                });
            }
        });
        let state = group.state.lock().unwrap();
        assert_eq!((state.written, state.flushed), (160, 160));
        drop(state);
        let lost = Group::of(&dir.path().join("other.db"));
        let first = lost.committed();
        assert!(lost.wait(first).is_err());
        std::fs::write(dir.path().join("other.db-wal"), b"log").unwrap();
        assert!(lost.wait(lost.committed()).is_err(), "what could not be flushed once is not flushed now");
    }
}
