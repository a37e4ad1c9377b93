//! The job's own database: what earlier scans of the source saw, and run records. The supervisor's and the scanner's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use offsite_plugin_api::TargetPath;
use rusqlite::{Connection, OptionalExtension, params};

use super::database::{Database, Sync};
use super::published::path_at;
use super::{Catalog, SourceFacts, catalog_path, job_path};
use crate::error::Result;
use crate::source::{Earlier, Learned, MountPoint, Observations, Place, RecordedFile, Remembered, Seen};

/// What targets hold: source path -> (size, mtime, ctime) of the file when it was published.
type Known = BTreeMap<TargetPath, SourceFacts>;

pub struct JobDb {
    pub(super) db: Database,
    /// The catalogs of the job's targets.
    catalogs: Vec<PathBuf>,
    /// For tests: catalogs that have no file.
    #[cfg(test)]
    open: Vec<std::sync::Arc<Catalog>>,
    known: OnceLock<Known>,
}

/// As the catalog's.
pub(super) const SCHEMA: &[&str] = &["
CREATE TABLE seen (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    inode INTEGER NOT NULL, since INTEGER NOT NULL, absent INTEGER, header BLOB
) WITHOUT ROWID;
CREATE TABLE place (id INTEGER PRIMARY KEY CHECK (id = 1), device INTEGER NOT NULL, inode INTEGER NOT NULL);
CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, target TEXT NOT NULL, started INTEGER NOT NULL,
    ended INTEGER, outcome TEXT, images INTEGER NOT NULL, deleted INTEGER NOT NULL, failed INTEGER NOT NULL,
    sent INTEGER NOT NULL, error TEXT, UNIQUE (run_id, target)
);
", "
ALTER TABLE seen ADD COLUMN device INTEGER NOT NULL DEFAULT 0;
", "
ALTER TABLE seen ADD COLUMN mount INTEGER;
CREATE TABLE file_system (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE mount_point (
    path BLOB PRIMARY KEY, identity TEXT NOT NULL, occasion TEXT NOT NULL, inodes_drift INTEGER NOT NULL,
    ctimes_drift INTEGER NOT NULL
) WITHOUT ROWID;
", "
-- wrong: JSON
ALTER TABLE run ADD COLUMN clean INTEGER;
ALTER TABLE run ADD COLUMN wrong TEXT;
", "
-- What a file was before, while something beside it was missing: no size where there was no such file.
ALTER TABLE seen ADD COLUMN was_until INTEGER;
ALTER TABLE seen ADD COLUMN was_size INTEGER;
ALTER TABLE seen ADD COLUMN was_mtime INTEGER;
"];

impl JobDb {
    /// Opens the database of a job, made when it does not exist; a damaged one is moved aside. `targets`: the names of
    /// the job's targets, whose catalogs are asked for what they hold.
    pub fn open(state_dir: &Path, job: &str, targets: &[&str]) -> Result<Self> {
        Ok(Self::with(Database::open(&job_path(state_dir, job), SCHEMA)?, state_dir, job, targets))
    }

    /// The same with every catalog that lies beside it, whatever the job's targets are now.
    pub fn open_beside(state_dir: &Path, job: &str) -> Result<Self> {
        let mut found = Self::open(state_dir, job, &[])?;
        let own = job_path(state_dir, job);
        let beside = own.parent().and_then(|dir| std::fs::read_dir(dir).ok());
        let catalogs = beside.into_iter().flatten().flatten().map(|entry| entry.path());
        found.catalogs = catalogs.filter(|p| p.extension().is_some_and(|e| e == "db") && *p != own).collect();
        Ok(found)
    }

    /// For what must change nothing: the database if it exists and is sound, else an empty one in memory.
    pub fn peek(state_dir: &Path, job: &str, targets: &[&str]) -> Result<Self> {
        Ok(Self::with(Database::peek(&job_path(state_dir, job), SCHEMA)?, state_dir, job, targets))
    }

    fn with(db: Database, state_dir: &Path, job: &str, targets: &[&str]) -> Self {
        let catalogs = targets.iter().map(|t| catalog_path(state_dir, job, t)).collect();
        Self {
            db,
            catalogs,
            #[cfg(test)]
            open: Vec::new(),
            known: OnceLock::new(),
        }
    }

    /// For tests: an empty database that ends with this value.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Result<Self> {
        Ok(Self::with(Database::in_memory(SCHEMA)?, std::path::Path::new("/nowhere"), "job", &[]))
    }

    /// For tests: as another process opens it, while these are the catalogs of the job's targets.
    #[cfg(test)]
    pub(crate) fn reopened(self, open: Vec<std::sync::Arc<Catalog>>) -> Self {
        Self { open, known: OnceLock::new(), ..self }
    }

    /// For tests: see [`Database::powered_by`].
    #[cfg(test)]
    pub(crate) fn powered_by(&self, power: std::sync::Arc<crate::model::Power>) {
        self.db.powered_by(power);
    }

    /// What each target's catalog knows. One that cannot be read counts as empty.
    fn held(&self) -> impl Iterator<Item = Vec<(TargetPath, SourceFacts)>> {
        let peeked =
            self.catalogs.iter().filter(|p| p.exists()).map(|path| Catalog::peek(path)?.known_sources());
        #[cfg(test)]
        let peeked = peeked.chain(self.open.iter().map(|c| c.known_sources()));
        peeked.flatten()
    }

    /// Gives back to the disk what deleted rows left, where that is much.
    pub fn tidy(&self) -> Result<()> {
        self.db.tidy()
    }

    /// For tests: see [`Database::sizes`].
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (std::collections::BTreeMap<String, u64>, u64, u64) {
        self.db.sizes()
    }

    /// Where a damaged predecessor was moved when this one was opened.
    pub fn moved_aside(&self) -> Option<&PathBuf> {
        self.db.moved_aside()
    }

    /// A catalog that cannot be read costs waiting for files to settle, never more. Where targets disagree about a file, nothing is known of it.
    fn known(&self) -> &Known {
        self.known.get_or_init(|| {
            let mut known = Known::new();
            let mut disputed = BTreeSet::new();
            for files in self.held() {
                for (source, facts) in files {
                    if *known.entry(source.clone()).or_insert(facts) != facts {
                        disputed.insert(source);
                    }
                }
            }
            for source in disputed {
                // An mtime and ctime no file has: the path stays known, and settles by observation.
                known.insert(source, (u64::MAX, i64::MIN, i64::MIN));
            }
            known
        })
    }
}

impl Observations for JobDb {
    fn load(&mut self) -> Result<Remembered> {
        self.db.read(|c| {
            let place = c
                .query_row("SELECT device, inode FROM place", [], |row| {
                    Ok(Place { device: row.get::<_, i64>(0)? as u64, inode: row.get::<_, i64>(1)? as u64 })
                })
                .optional()?;
            let file_systems: BTreeMap<i64, Arc<str>> = c
                .prepare_cached("SELECT id, identity FROM file_system")?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.into())))?
                .collect::<rusqlite::Result<_>>()?;
            let files = c
                .prepare_cached(
                    "SELECT path, size, mtime, ctime, inode, since, absent, header, device, mount, \
                     was_until, was_size, was_mtime FROM seen \
                     ORDER BY path",
                )?
                .query_map([], |row| {
                    let seen = Seen {
                        size: row.get::<_, i64>(1)? as u64,
                        mtime_ns: row.get(2)?,
                        ctime_ns: row.get(3)?,
                        inode: row.get::<_, i64>(4)? as u64,
                        since_ns: row.get(5)?,
                        absent_ns: row.get(6)?,
                        header: row.get(7)?,
                        device: row.get::<_, i64>(8)? as u64,
                        mount: row.get::<_, Option<i64>>(9)?.and_then(|id| file_systems.get(&id).cloned()),
                        earlier: earlier(row)?,
                    };
                    Ok((path_at(row, 0)?, seen))
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Remembered { place, mounts: mount_points(c)?, files })
        })
    }

    fn save(&mut self, learned: &Learned) -> Result<()> {
        // Lazy: an observation that a power cut takes back is made again.
        self.db.write(Sync::Lazy, |t| {
            if let Some(place) = learned.place {
                t.execute(
                    "INSERT OR REPLACE INTO place (id, device, inode) VALUES (1, ?1, ?2)",
                    params![place.device as i64, place.inode as i64],
                )?;
            }
            let mut put = t.prepare_cached(
                "INSERT OR REPLACE INTO seen (path, size, mtime, ctime, inode, since, absent, header, \
                 device, mount, was_until, was_size, was_mtime) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?;
            let mut file_systems = BTreeMap::new();
            for (path, seen) in &learned.put {
                let mount = match &seen.mount {
                    Some(identity) => Some(file_system(t, identity, &mut file_systems)?),
                    None => None,
                };
                put.execute(params![
                    path.as_bytes(),
                    seen.size as i64,
                    seen.mtime_ns,
                    seen.ctime_ns,
                    seen.inode as i64,
                    seen.since_ns,
                    seen.absent_ns,
                    seen.header,
                    seen.device as i64,
                    mount,
                    seen.earlier.map(|earlier| earlier.until_ns),
                    seen.earlier.and_then(|earlier| earlier.form).map(|(size, _)| size as i64),
                    seen.earlier.and_then(|earlier| earlier.form).map(|(_, mtime_ns)| mtime_ns),
                ])?;
            }
            if let Some(mounts) = &learned.mounts {
                put_mount_points(t, mounts)?;
            }
            for path in &learned.forget {
                t.execute("DELETE FROM seen WHERE path = ?1", params![path.as_bytes()])?;
            }
            Ok(())
        })
    }

    fn known_settled(&self, path: &TargetPath) -> Option<(u64, i64, i64)> {
        self.known().get(path).copied()
    }

    fn known_paths(&self) -> Vec<TargetPath> {
        self.known().keys().cloned().collect()
    }

    fn learned(&self) -> Vec<RecordedFile> {
        let peeked =
            self.catalogs.iter().filter(|p| p.exists()).map(|path| Catalog::peek(path)?.learned_sources());
        #[cfg(test)]
        let peeked = peeked.chain(self.open.iter().map(|c| c.learned_sources()));
        peeked.flatten().flatten().collect()
    }

    /// A catalog that cannot be read proves nothing.
    fn recorded(&self) -> Vec<RecordedFile> {
        let peeked =
            self.catalogs.iter().filter(|p| p.exists()).map(|path| Catalog::peek(path)?.recorded_sources());
        #[cfg(test)]
        let peeked = peeked.chain(self.open.iter().map(|c| c.recorded_sources()));
        peeked.flatten().flatten().collect()
    }
}

fn earlier(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Earlier>> {
    let Some(until_ns) = row.get(10)? else { return Ok(None) };
    let size: Option<i64> = row.get(11)?;
    let mtime_ns: Option<i64> = row.get(12)?;
    Ok(Some(Earlier { form: size.zip(mtime_ns).map(|(size, mtime_ns)| (size as u64, mtime_ns)), until_ns }))
}

/// The id of a file system's identity, made when it is new.
fn file_system<'a>(
    t: &Connection,
    identity: &'a str,
    known: &mut BTreeMap<&'a str, i64>,
) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(identity) {
        return Ok(*id);
    }
    t.prepare_cached("INSERT OR IGNORE INTO file_system (identity) VALUES (?1)")?.execute([identity])?;
    let id = t
        .prepare_cached("SELECT id FROM file_system WHERE identity = ?1")?
        .query_row([identity], |row| row.get(0))?;
    known.insert(identity, id);
    Ok(id)
}

fn mount_points(c: &Connection) -> rusqlite::Result<Vec<MountPoint>> {
    c.prepare_cached(
        "SELECT path, identity, occasion, inodes_drift, ctimes_drift FROM mount_point ORDER BY path",
    )?
    .query_map([], |row| {
        Ok(MountPoint {
            path: path_at(row, 0)?,
            identity: row.get::<_, String>(1)?.into(),
            occasion: row.get(2)?,
            inodes_drift: row.get(3)?,
            ctimes_drift: row.get(4)?,
        })
    })?
    .collect()
}

/// Instead of those that were there; identities that nothing refers to any more go with them.
fn put_mount_points(t: &Connection, mounts: &[MountPoint]) -> rusqlite::Result<()> {
    t.execute("DELETE FROM mount_point", [])?;
    for mount in mounts {
        t.prepare_cached(
            "INSERT INTO mount_point (path, identity, occasion, inodes_drift, ctimes_drift) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            mount.path.as_bytes(),
            &*mount.identity,
            mount.occasion,
            mount.inodes_drift,
            mount.ctimes_drift
        ])?;
    }
    t.execute(
        "DELETE FROM file_system WHERE id NOT IN (SELECT mount FROM seen WHERE mount IS NOT NULL)",
        [],
    )?;
    Ok(())
}
