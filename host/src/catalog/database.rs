//! One SQLite file: opened, upgraded, refused when it is newer than this program, moved aside when it is damaged.
//!
//! WAL, so that `status` reads while a worker writes. A commit that a power cut must not lose waits until the log is on the
//! disk (`group`), the others do not; a later wait makes the earlier ones durable too, because the log is one file.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::group::Group;
use crate::error::{Error, Kind, Result};

/// Free bytes from which on a file is written anew.
const WORTH_TIDYING: i64 = 16 << 20;
/// Damaged databases kept of one path, the newest.
const ASIDE: usize = 3;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Full,
    Lazy,
}

pub(super) struct Database {
    #[cfg(not(test))]
    connection: Mutex<Connection>,
    #[cfg(test)]
    connection: Mutex<used::Held>,
    /// `None` without a log (in memory, or on a file system that takes none): SQLite itself waits at every commit then.
    group: Option<Group>,
    path: Option<PathBuf>,
    new: bool,
    moved_aside: Option<PathBuf>,
    /// For tests: after a simulated kill nothing is written any more.
    #[cfg(test)]
    power: std::sync::OnceLock<std::sync::Arc<crate::model::Power>>,
}

enum Opened {
    Good(Connection, bool),
    Damaged(rusqlite::Error),
}

impl Database {
    pub fn open(path: &Path, schema: &[&str]) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| {
                Error::new(Kind::State, "cannot make the state directory")
                    .on(dir.display().to_string())
                    .because(e)
                    .hint("give a writable directory with --state-dir")
            })?;
        }
        let mut moved_aside = None;
        if bad_mark(path).exists() {
            moved_aside = Some(move_aside(path)?);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let (connection, new) = match connect(path, flags, schema)? {
            Opened::Good(connection, new) => (connection, new),
            Opened::Damaged(_) => {
                moved_aside = Some(move_aside(path)?);
                match connect(path, flags, schema)? {
                    Opened::Good(connection, new) => (connection, new),
                    Opened::Damaged(error) => return Err(failed(Some(path), "cannot make", &error)),
                }
            }
        };
        Ok(Self::with(connection, Some(path.to_owned()), new, moved_aside))
    }

    pub fn peek(path: &Path, schema: &[&str]) -> Result<Self> {
        if !path.exists() || bad_mark(path).exists() {
            return Self::in_memory(schema);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // A file that a kill left before its tables were made stays as it is.
        let version = Connection::open_with_flags(path, flags)
            .and_then(|c| c.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)));
        if version.is_ok_and(|v| v == 0) {
            return Self::in_memory(schema);
        }
        match connect(path, flags, schema)? {
            Opened::Good(connection, new) => Ok(Self::with(connection, Some(path.to_owned()), new, None)),
            Opened::Damaged(_) => Self::in_memory(schema),
        }
    }

    pub fn in_memory(schema: &[&str]) -> Result<Self> {
        #[cfg(test)]
        if let Some(connection) = used::again(schema) {
            return Ok(Self::with(connection, None, true, None).given_back(schema));
        }
        match prepare(
            Connection::open_in_memory().map_err(|e| failed(None, "cannot make", &e))?,
            None,
            schema,
        )? {
            #[cfg(test)]
            Opened::Good(connection, new) => Ok(Self::with(connection, None, new, None).given_back(schema)),
            #[cfg(not(test))]
            Opened::Good(connection, new) => Ok(Self::with(connection, None, new, None)),
            Opened::Damaged(error) => Err(failed(None, "cannot make", &error)),
        }
    }

    fn with(connection: Connection, path: Option<PathBuf>, new: bool, moved_aside: Option<PathBuf>) -> Self {
        let logged = |c: &Connection| {
            let mode = c.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
            mode.is_ok_and(|m| m == "wal") && c.pragma_update(None, "synchronous", "NORMAL").is_ok()
        };
        let group = path.as_deref().filter(|_| logged(&connection)).map(Group::of);
        #[cfg(test)]
        let connection = used::Held::of(connection);
        Self {
            connection: Mutex::new(connection),
            group,
            path,
            new,
            moved_aside,
            #[cfg(test)]
            power: std::sync::OnceLock::new(),
        }
    }

    /// For tests: see [`used`].
    #[cfg(test)]
    fn given_back(self, schema: &[&str]) -> Self {
        let connection = self.connection.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self { connection: Mutex::new(connection.given_back(schema)), ..self }
    }

    /// For tests: every write is a step that a simulated kill counts, and forbids once it has struck.
    #[cfg(test)]
    pub fn powered_by(&self, power: std::sync::Arc<crate::model::Power>) {
        let _ = self.power.set(power);
    }

    /// For tests: another disk.
    #[cfg(test)]
    pub fn on_disk(self, group: Group) -> Self {
        assert!(self.group.is_some(), "the file system takes a log");
        Self { group: Some(group), ..self }
    }

    pub fn is_new(&self) -> bool {
        self.new
    }

    pub fn moved_aside(&self) -> Option<&PathBuf> {
        self.moved_aside.as_ref()
    }

    #[cfg(not(test))]
    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while it was held unwound the transaction, which rolled back: the connection is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn lock(&self) -> MutexGuard<'_, used::Held> {
        // A panic while it was held unwound the transaction, which rolled back: the connection is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on a consistent view.
    pub fn read<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.lock();
        let inner = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            act(&transaction)
        };
        inner().map_err(|e| self.failed("cannot read", &e))
    }

    /// Runs `act` as one transaction.
    pub fn write<T>(
        &self,
        sync: Sync,
        act: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut connection = self.lock();
        #[cfg(test)]
        if self.power.get().is_some_and(|power| !power.step()) {
            return Err(Error::new(Kind::State, "killed, as far as this test is concerned"));
        }
        let inner = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = act(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let value = inner().map_err(|e| self.failed("cannot write", &e))?;
        let awaited = self.group.as_ref().filter(|_| sync == Sync::Full).map(|g| (g, g.committed()));
        // Other threads commit while this one waits for the disk.
        drop(connection);
        if let Some((group, commit)) = awaited {
            group.wait(commit)?;
        }
        Ok(value)
    }

    /// Gives back to the disk what deleted rows left, once that is more than half of the file and worth the writing:
    /// the journal of a large upload, a first run's observations. Somebody who reads at the moment is no reason to wait.
    pub fn tidy(&self) -> Result<()> {
        let connection = self.lock();
        let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
        let inner = || {
            let (free, pages) = (number("PRAGMA freelist_count")?, number("PRAGMA page_count")?);
            if free * 2 <= pages || free * number("PRAGMA page_size")? < WORTH_TIDYING {
                return Ok(());
            }
            connection.execute_batch("VACUUM")?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        };
        match inner() {
            Err(e)
                if matches!(
                    e.sqlite_error_code(),
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                ) =>
            {
                Ok(())
            }
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
            other => other.map_err(|e| self.failed("cannot tidy", &e)),
        }
    }

    /// For tests: rows by table, bytes of the file, and how many of them are free.
    #[cfg(test)]
    pub fn sizes(&self) -> (std::collections::BTreeMap<String, u64>, u64, u64) {
        let c = self.lock();
        let number = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64;
        let tables: Vec<String> = c
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let rows = tables
            .into_iter()
            .map(|t| (t.clone(), number(&format!("SELECT count(*) FROM \"{t}\""))))
            .collect();
        let page = number("PRAGMA page_size");
        (rows, number("PRAGMA page_count") * page, number("PRAGMA freelist_count") * page)
    }

    /// A damage found in the middle of a run is remembered, so that the next run moves the file aside.
    fn failed(&self, what: &str, error: &rusqlite::Error) -> Error {
        if let Some(path) = &self.path
            && is_damage(error)
        {
            let _ = std::fs::write(bad_mark(path), error.to_string());
        }
        failed(self.path.as_deref(), what, error)
    }
}

fn connect(path: &Path, flags: OpenFlags, schema: &[&str]) -> Result<Opened> {
    match Connection::open_with_flags(path, flags) {
        Ok(connection) => prepare(connection, Some(path), schema),
        Err(error) if is_damage(&error) => Ok(Opened::Damaged(error)),
        Err(error) => Err(failed(Some(path), "cannot open", &error)),
    }
}

fn prepare(mut connection: Connection, path: Option<&Path>, schema: &[&str]) -> Result<Opened> {
    let mut inner = || -> rusqlite::Result<Result<bool>> {
        connection.busy_timeout(Duration::from_secs(10))?;
        // More than there are statements.
        connection.set_prepared_statement_cache_capacity(192);
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > schema.len() as i64 {
            return Ok(Err(Error::new(Kind::State, "the database was made by a newer offsite")
                .on(path.map(|p| p.display().to_string()).unwrap_or_default())
                .because(format!("its version is {version}, this offsite knows up to {}", schema.len()))
                .hint("use that newer offsite, or another --state-dir")));
        }
        if path.is_some() {
            connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        }
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;",
        )?;
        if version < schema.len() as i64 {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have done it meanwhile.
            let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            for batch in schema.iter().skip(usize::try_from(version).unwrap_or(0)) {
                transaction.execute_batch(batch)?;
            }
            transaction.pragma_update(None, "user_version", schema.len() as i64)?;
            transaction.commit()?;
        } else {
            // Reads the schema, and with it the first pages: a file that is no database shows itself here.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        }
        Ok(Ok(version == 0))
    };
    match inner() {
        Ok(Ok(new)) => Ok(Opened::Good(connection, new)),
        Ok(Err(error)) => Err(error),
        Err(error) if is_damage(&error) => Ok(Opened::Damaged(error)),
        Err(error) => Err(failed(path, "cannot open", &error)),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
        || matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        )
}

fn failed(path: Option<&Path>, what: &str, error: &rusqlite::Error) -> Error {
    let made = Error::new(Kind::State, format!("{what} the local database"))
        .on(path.map_or_else(|| "in memory".to_owned(), |p| p.display().to_string()))
        .because(error);
    if is_damage(error) {
        made.hint("it is damaged; the next run moves it aside and rebuilds it from the target")
    } else {
        made
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn bad_mark(path: &Path) -> PathBuf {
    with_ending(path, ".damaged")
}

/// A disk that damages a database again and again must not be filled with them. Best effort.
fn drop_oldest(path: &Path) {
    let prefix = with_ending(path, ".corrupt-");
    let (Some(dir), Some(prefix)) =
        (path.parent(), prefix.file_name().map(|n| n.to_string_lossy().into_owned()))
    else {
        return;
    };
    let age = |name: &str| {
        let (seconds, number) = name.strip_prefix(&prefix)?.split_once('-')?;
        Some((seconds.parse::<u64>().ok()?, number.parse::<u32>().ok()?))
    };
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut aside: Vec<_> = names.filter_map(|name| Some((age(&name)?, name))).collect();
    aside.sort();
    for (_, name) in aside.iter().rev().skip(ASIDE) {
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.join(format!("{name}{ending}")));
        }
    }
}

/// Keeps a damaged database under another name: somebody may want to look at it.
fn move_aside(path: &Path) -> Result<PathBuf> {
    let seconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let aside = (0..u32::MAX)
        .map(|n| with_ending(path, &format!(".corrupt-{seconds}-{n}")))
        .find(|p| !p.exists())
        .expect("some number of 32 bits is free");
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::rename(with_ending(path, ending), with_ending(&aside, ending));
    }
    match std::fs::rename(path, &aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::new(Kind::State, "cannot move a damaged database aside")
                .on(path.display().to_string())
                .because(e)
                .hint("move it away; it is rebuilt from the target"));
        }
        _ => {}
    }
    let _ = std::fs::remove_file(bad_mark(path));
    drop_oldest(path);
    Ok(aside)
}

/// For tests: making the tables takes longer than most of what a test does with them, so that a thread empties its
/// databases in memory and uses them again.
#[cfg(test)]
mod used {
    use std::cell::RefCell;
    use std::ops::{Deref, DerefMut};

    use rusqlite::Connection;

    /// Which tables: the place of the schema and its length.
    type Tables = (usize, usize);

    thread_local! {
        static FREE: RefCell<Vec<(Tables, Connection)>> = const { RefCell::new(Vec::new()) };
    }

    fn tables(schema: &[&str]) -> Tables {
        (schema.as_ptr() as usize, schema.len())
    }

    /// A database without rows that had these tables made before.
    pub fn again(schema: &[&str]) -> Option<Connection> {
        FREE.with_borrow_mut(|free| {
            let at = free.iter().rposition(|(of, _)| *of == tables(schema))?;
            Some(free.swap_remove(at).1)
        })
    }

    fn emptied(connection: &Connection) -> rusqlite::Result<()> {
        let tables: Vec<String> = connection
            .prepare_cached("SELECT name FROM sqlite_schema WHERE type = 'table'")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        connection.execute_batch("BEGIN")?;
        for table in tables {
            connection.prepare_cached(&format!("DELETE FROM \"{table}\""))?.execute([])?;
        }
        connection.execute_batch("COMMIT")
    }

    /// A connection that its thread takes back where it is told for which tables.
    pub struct Held(Option<Connection>, Option<Tables>);

    impl Held {
        pub fn of(connection: Connection) -> Self {
            Self(Some(connection), None)
        }

        pub fn given_back(mut self, schema: &[&str]) -> Self {
            self.1 = Some(tables(schema));
            self
        }
    }

    impl Deref for Held {
        type Target = Connection;

        fn deref(&self) -> &Connection {
            self.0.as_ref().expect("there until it is dropped")
        }
    }

    impl DerefMut for Held {
        fn deref_mut(&mut self) -> &mut Connection {
            self.0.as_mut().expect("there until it is dropped")
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if let (Some(connection), Some(of)) = (self.0.take(), self.1)
                && emptied(&connection).is_ok()
            {
                let _ = FREE.try_with(|free| free.borrow_mut().push((of, connection)));
            }
        }
    }
}
