//! What was published (or adopted) on the target, by path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use offsite_plugin_api::{TargetPath, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::database::Sync;
use super::{Catalog, Upon};
use crate::chain::Span;
use crate::error::Result;
use crate::format::Recognised;
use crate::source::RecordedFile;
use crate::target::manifest::pieces;
use crate::target::{ParentRecord, Recorded, VerifyLevel};

/// One published file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// On the target.
    pub path: TargetPath,
    /// Relative to the source's root; `None` where that is not known (read from a manifest).
    pub source: Option<TargetPath>,
    pub record: Recorded,
    /// The run that the image holds, given with its anchor when longer than one.
    pub span: Option<Span>,
}

impl Published {
    /// Whether this is the file that its image is known by.
    pub fn is_anchor(&self) -> bool {
        *self.source.as_ref().unwrap_or(&self.path) == self.record.image
    }
}

/// (size, mtime, ctime) of a source file when it was published: bytes, nanoseconds since the Unix epoch.
pub type SourceFacts = (u64, i64, i64);

/// How [`Recognised`] is kept: a version byte and postcard. It is compact and quick, and where the layout has changed it
/// reads as "not known", which costs reading a header again.
pub struct RecognisedBytes;

impl RecognisedBytes {
    /// Count it up whenever the layout of [`Recognised`] changes (a test notices).
    const VERSION: u8 = 1;

    pub fn encode(recognised: &Recognised) -> Vec<u8> {
        postcard::to_extend(recognised, vec![Self::VERSION]).expect("a recognised file always serialises")
    }

    pub fn decode(bytes: &[u8]) -> Option<Recognised> {
        match bytes.split_first() {
            Some((&Self::VERSION, rest)) => postcard::from_bytes(rest).ok(),
            _ => None,
        }
    }
}

pub(super) fn level_number(level: VerifyLevel) -> i64 {
    match level {
        VerifyLevel::Size => 0,
        VerifyLevel::Sampled => 1,
        VerifyLevel::Digest => 2,
        VerifyLevel::ReadBack => 3,
    }
}

/// Anything unknown counts as the weakest.
pub(super) fn level_of(number: i64) -> VerifyLevel {
    match number {
        1 => VerifyLevel::Sampled,
        2 => VerifyLevel::Digest,
        3 => VerifyLevel::ReadBack,
        _ => VerifyLevel::Size,
    }
}

pub(super) fn damaged(column: usize, why: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, why.to_string().into())
}

pub(super) fn path_at(row: &Row<'_>, column: usize) -> rusqlite::Result<TargetPath> {
    let bytes = row.get_ref(column)?.as_blob().map_err(|e| damaged(column, e))?;
    TargetPath::new(bytes).map_err(|e| damaged(column, e))
}

pub(super) fn hash_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<[u8; 32]>> {
    match row.get_ref(column)?.as_blob_or_null().map_err(|e| damaged(column, e))? {
        None => Ok(None),
        Some(bytes) => bytes.try_into().map(Some).map_err(|e| damaged(column, e)),
    }
}

const COLUMNS: &str = "path, size, blake3, source_mtime, source_ctime, source_inode, version, mtime, \
                       mtime_precision, level, recognised, set_id, image, parent, parent_blake3, head, mount";

fn record_at(row: &Row<'_>) -> rusqlite::Result<(TargetPath, Box<Recorded>)> {
    record_after(row, &mut None)
}

/// As [`record_at`], with the file system of the row before: nearly all rows have the same.
fn record_after(
    row: &Row<'_>,
    mount: &mut Option<Arc<str>>,
) -> rusqlite::Result<(TargetPath, Box<Recorded>)> {
    let path = path_at(row, 0)?;
    let mtime: Option<i64> = row.get(7)?;
    let precision: Option<i64> = row.get(8)?;
    let recognised = row.get_ref(10)?.as_blob_or_null().map_err(|e| damaged(10, e))?;
    let image = row.get_ref(12)?.as_blob().map_err(|e| damaged(12, e))?;
    let record = Box::new(Recorded {
        size: row.get::<_, i64>(1)? as u64,
        blake3: hash_at(row, 2)?,
        source_mtime_ns: row.get(3)?,
        source_ctime_ns: row.get(4)?,
        source_inode: row.get::<_, i64>(5)? as u64,
        target_version: row.get(6)?,
        target_mtime: mtime.map(|ns| Timestamp { ns, precision_ns: precision.unwrap_or(1) as u64 }),
        level: level_of(row.get(9)?),
        recognised: recognised.and_then(RecognisedBytes::decode),
        set: row.get(11)?,
        image: or_own(image, &path, 12)?,
        parent: parent_at(row, 13)?,
        head: row.get_ref(15)?.as_blob_or_null().ok().flatten().and_then(|b| b.try_into().ok()),
        mount: mount_at(row, 16, mount)?,
    });
    Ok((path, record))
}

fn mount_at(row: &Row<'_>, column: usize, last: &mut Option<Arc<str>>) -> rusqlite::Result<Option<Arc<str>>> {
    let Some(now) = row.get_ref(column)?.as_str_or_null().map_err(|e| damaged(column, e))? else {
        return Ok(None);
    };
    if last.as_deref() != Some(now) {
        *last = Some(now.into());
    }
    Ok(last.clone())
}

/// From the columns `parent`, which is that one, and `parent_blake3` behind it.
pub(super) fn parent_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Box<ParentRecord>>> {
    let path = row.get_ref(column)?.as_blob_or_null().map_err(|e| damaged(column, e))?;
    let (Some(path), Some(blake3)) = (path, hash_at(row, column + 1)?) else { return Ok(None) };
    let path = TargetPath::new(path).map_err(|e| damaged(column, e))?;
    Ok(Some(Box::new(ParentRecord { path, blake3 })))
}

/// A path that is nearly always the row's own is kept as nothing: 100,000 rows are read at every start.
fn unless_same<'a>(path: &'a TargetPath, own: &TargetPath) -> &'a [u8] {
    if path == own { &[] } else { path.as_bytes() }
}

fn or_own(bytes: &[u8], own: &TargetPath, column: usize) -> rusqlite::Result<TargetPath> {
    if bytes.is_empty() { Ok(own.clone()) } else { TargetPath::new(bytes).map_err(|e| damaged(column, e)) }
}

/// Records a file and its image's span and marks its set's manifest as behind. What it records is known first hand: no
/// manifest's word any more.
pub(super) fn put(t: &Connection, file: &Published, upon: &Upon) -> rusqlite::Result<()> {
    let r = &file.record;
    let parent = super::parents::resolve(t, file, upon)?;
    super::begun::note(t, &file.path, r.blake3, r.source_mtime_ns)?;
    // A file whose set is called otherwise now (its folder was renamed by case): the old set's manifest claims it, too.
    let unit = pieces::unit_of(&r.set, &file.path);
    let before = set_of(t, &file.path)?.map(|set| pieces::unit_of(&set, &file.path));
    if let Some(before) = before.filter(|before| *before != unit) {
        behind(t, &before)?;
    }
    t.prepare_cached("DELETE FROM vouched WHERE path = ?1")?.execute([file.path.as_bytes()])?;
    t.prepare_cached(
        "INSERT OR REPLACE INTO published (path, size, blake3, source_mtime, source_ctime, source_inode, version, \
         mtime, mtime_precision, level, recognised, set_id, image, source, parent, parent_blake3, head, mount) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        file.path.as_bytes(),
        r.size as i64,
        r.blake3.as_ref().map(|h| h.as_slice()),
        r.source_mtime_ns,
        r.source_ctime_ns,
        r.source_inode as i64,
        r.target_version,
        r.target_mtime.map(|m| m.ns),
        r.target_mtime.map(|m| m.precision_ns as i64),
        level_number(r.level),
        r.recognised.as_ref().map(RecognisedBytes::encode),
        r.set,
        unless_same(&r.image, &file.path),
        file.source.as_ref().map(|s| unless_same(s, &file.path)),
        parent.as_ref().map(|p| p.path.as_bytes()),
        parent.as_ref().map(|p| p.blake3.as_slice()),
        r.head.as_ref().map(|h| h.as_slice()),
        r.mount.as_deref(),
    ])?;
    if file.is_anchor() {
        match file.span.filter(|s| s.first < s.last) {
            Some(span) => t
                .prepare_cached("INSERT OR REPLACE INTO span (image, first, last) VALUES (?1, ?2, ?3)")?
                .execute(params![file.path.as_bytes(), span.first as i64, span.last as i64])?,
            None => t.prepare_cached("DELETE FROM span WHERE image = ?1")?.execute([file.path.as_bytes()])?,
        };
    }
    behind(t, &unit)
}

fn set_of(t: &Connection, path: &TargetPath) -> rusqlite::Result<Option<String>> {
    t.prepare_cached("SELECT set_id FROM published WHERE path = ?1")?
        .query_row([path.as_bytes()], |row| row.get(0))
        .optional()
}

/// The set's manifest does not say what the catalog says. Counted, so that a change made while a manifest is being
/// written is not taken for written.
pub(super) fn behind(t: &Connection, set: &str) -> rusqlite::Result<()> {
    t.prepare_cached(
        "INSERT INTO unwritten_set (set_id, changes) VALUES (?1, 1) \
         ON CONFLICT (set_id) DO UPDATE SET changes = changes + 1",
    )?
    .execute([set])?;
    Ok(())
}

/// Forgets a file: it was deleted, or is known to be gone.
pub(super) fn remove(t: &Connection, path: &TargetPath) -> rusqlite::Result<()> {
    if let Some(set) = set_of(t, path)? {
        behind(t, &pieces::unit_of(&set, path))?;
    }
    for sql in [
        "DELETE FROM published WHERE path = ?1",
        "DELETE FROM span WHERE image = ?1",
        "DELETE FROM accepted WHERE image = ?1",
        "DELETE FROM absorbed WHERE path = ?1 OR holder = ?1",
        "DELETE FROM vouched WHERE path = ?1",
        "DELETE FROM begun WHERE path = ?1",
    ] {
        t.prepare_cached(sql)?.execute([path.as_bytes()])?;
    }
    Ok(())
}

impl Catalog {
    /// Every published file.
    pub fn published(&self) -> Result<BTreeMap<TargetPath, Box<Recorded>>> {
        self.db.read(|c| {
            let sql = format!("SELECT {COLUMNS} FROM published ORDER BY path");
            let mut mount = None;
            c.prepare_cached(&sql)?.query_map([], |row| record_after(row, &mut mount))?.collect()
        })
    }

    /// One published file.
    pub fn published_at(&self, path: &TargetPath) -> Result<Option<Recorded>> {
        self.db.read(|c| {
            let sql = format!("SELECT {COLUMNS} FROM published WHERE path = ?1");
            let mut statement = c.prepare_cached(&sql)?;
            let mut rows = statement.query_map([path.as_bytes()], record_at)?;
            Ok(rows.next().transpose()?.map(|(_, record)| *record))
        })
    }

    /// The published files of one set, by path, each anchor with its image's span.
    pub fn published_of_set(&self, set: &str) -> Result<Vec<Published>> {
        self.db.read(|c| {
            let sql = format!(
                "SELECT {COLUMNS}, source, first, last FROM published LEFT JOIN span ON span.image = published.path \
                 WHERE set_id = ?1 ORDER BY path"
            )
            .replace(" image, parent", " published.image, parent");
            c.prepare_cached(&sql)?
                .query_map([set], |row| {
                    let (path, record) = record_at(row)?;
                    let source = match row.get_ref(17)?.as_blob_or_null().map_err(|e| damaged(17, e))? {
                        Some(bytes) => Some(or_own(bytes, &path, 17)?),
                        None => None,
                    };
                    let span = match (row.get::<_, Option<i64>>(18)?, row.get::<_, Option<i64>>(19)?) {
                        (Some(first), Some(last)) => Some(Span { first: first as u64, last: last as u64 }),
                        _ => None,
                    };
                    Ok(Published { path, source, record: *record, span })
                })?
                .collect()
        })
    }

    /// The same of what one manifest is about.
    pub fn published_of_unit(&self, unit: &str) -> Result<Vec<Published>> {
        let mut files = self.published_of_set(pieces::set_of(unit))?;
        if pieces::set_of(unit).is_empty() {
            files.retain(|file| pieces::unit_of("", &file.path) == unit);
        }
        Ok(files)
    }

    /// Source path -> (size, mtime, ctime) of everything that was published from this machine's source. What only a manifest
    /// told of is left out: whether that is missing at the source is not for a manifest to say.
    pub fn known_sources(&self) -> Result<Vec<(TargetPath, SourceFacts)>> {
        self.db.read(|c| {
            c.prepare_cached(
                "SELECT path, source, size, source_mtime, source_ctime FROM published \
                 WHERE source IS NOT NULL AND (source_ctime != 0 OR source_inode != 0)",
            )?
            .query_map([], |row| {
                let source = row.get_ref(1)?.as_blob().map_err(|e| damaged(1, e))?;
                let source = or_own(source, &path_at(row, 0)?, 1)?;
                Ok((source, (row.get::<_, i64>(2)? as u64, row.get(3)?, row.get(4)?)))
            })?
            .collect()
        })
    }

    /// What a manifest told of that this machine's source was never seen to hold, after a loss of state. Only what the key of
    /// this installation signs, or the user accepted.
    pub fn learned_sources(&self) -> Result<Vec<RecordedFile>> {
        self.db.read(|c| {
            c.prepare_cached(
                "SELECT path, source, size, source_mtime, blake3, mount, image FROM published \
                 WHERE (source IS NULL OR (source_ctime = 0 AND source_inode = 0)) \
                 AND path NOT IN (SELECT path FROM vouched)",
            )?
            .query_map([], |row| {
                let path = path_at(row, 0)?;
                let image = or_own(row.get_ref(6)?.as_blob().map_err(|e| damaged(6, e))?, &path, 6)?;
                let source = match row.get_ref(1)?.as_blob_or_null().map_err(|e| damaged(1, e))? {
                    Some(source) => or_own(source, &path, 1)?,
                    None if path.as_bytes().ends_with(image.as_bytes()) => image,
                    None => path,
                };
                Ok(RecordedFile {
                    path: source,
                    size: row.get::<_, i64>(2)? as u64,
                    mtime_ns: row.get(3)?,
                    blake3: hash_at(row, 4)?,
                    mount: row.get::<_, Option<String>>(5)?.map(Into::into),
                })
            })?
            .collect()
        })
    }

    /// The same files with what proves that a directory of the source is the one they lay in: content and file system.
    pub fn recorded_sources(&self) -> Result<Vec<RecordedFile>> {
        self.db.read(|c| {
            c.prepare_cached(
                "SELECT path, source, size, source_mtime, blake3, mount FROM published \
                 WHERE source IS NOT NULL AND (source_ctime != 0 OR source_inode != 0)",
            )?
            .query_map([], |row| {
                let source = row.get_ref(1)?.as_blob().map_err(|e| damaged(1, e))?;
                Ok(RecordedFile {
                    path: or_own(source, &path_at(row, 0)?, 1)?,
                    size: row.get::<_, i64>(2)? as u64,
                    mtime_ns: row.get(3)?,
                    blake3: hash_at(row, 4)?,
                    mount: row.get::<_, Option<String>>(5)?.map(Into::into),
                })
            })?
            .collect()
        })
    }

    /// Records files that were found on the target and proved to be what they seem (adopted), in one transaction.
    pub fn record(&self, files: &[Published]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for file in files {
                put(t, file, &Upon::default())?;
                super::intents::finish_path(t, &file.path)?;
            }
            Ok(())
        })
    }

    /// As [`Catalog::record`], for one file that was compared with the source's, whose chain says what it builds on.
    pub fn adopt(&self, file: &Published, upon: &Upon) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            put(t, file, upon)?;
            super::intents::finish_path(t, &file.path)
        })
    }

    /// The source file that a record is of has this time, change time and inode now, and the content that is recorded.
    /// Nothing that a manifest holds changes with the last two.
    pub fn refresh(&self, path: &TargetPath, mtime_ns: i64, ctime_ns: i64, inode: u64) -> Result<()> {
        self.db.write(Sync::Lazy, |t| {
            t.prepare_cached(
                "INSERT OR IGNORE INTO begun (path, mtime) SELECT path, source_mtime FROM published \
                 WHERE path = ?1 AND source_mtime < ?2",
            )?
            .execute(params![path.as_bytes(), mtime_ns])?;
            t.prepare_cached(
                "UPDATE published SET source_mtime = ?2, source_ctime = ?3, source_inode = ?4 WHERE path = ?1",
            )?
            .execute(params![path.as_bytes(), mtime_ns, ctime_ns, inode as i64])?;
            Ok(())
        })
    }

    /// Records what only a manifest says that this installation did not sign: see [`Catalog::vouched`].
    pub fn record_vouched(&self, files: &[Published]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for file in files {
                put(t, file, &Upon::default())?;
                t.prepare_cached("INSERT OR REPLACE INTO vouched (path) VALUES (?1)")?
                    .execute([file.path.as_bytes()])?;
                super::intents::finish_path(t, &file.path)?;
            }
            Ok(())
        })
    }

    /// Files that only a manifest speaks for which nobody with this target's key signed: until they are compared with
    /// the source, or accepted.
    pub fn vouched(&self) -> Result<BTreeSet<TargetPath>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT path FROM vouched")?.query_map([], |row| path_at(row, 0))?.collect()
        })
    }

    /// The user accepts what that manifest says of these files.
    pub fn believe(&self, paths: &[TargetPath]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for path in paths {
                t.prepare_cached("DELETE FROM vouched WHERE path = ?1")?.execute([path.as_bytes()])?;
            }
            Ok(())
        })
    }

    /// Forgets files that are not on the target any more, in one transaction.
    pub fn forget(&self, paths: &[TargetPath]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for path in paths {
                remove(t, path)?;
            }
            Ok(())
        })
    }

    /// The spans longer than one that were published or read from manifests.
    pub fn spans(&self) -> Result<BTreeMap<TargetPath, Span>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT image, first, last FROM span ORDER BY image")?
                .query_map([], |row| {
                    let span =
                        Span { first: row.get::<_, i64>(1)? as u64, last: row.get::<_, i64>(2)? as u64 };
                    Ok((path_at(row, 0)?, span))
                })?
                .collect()
        })
    }
}
