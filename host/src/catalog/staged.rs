//! What is staged and not yet published: enough to resume it after a kill, and to prove what is resumed.

use offsite_plugin_api::{Attributes, Range, TargetPath, Token};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Catalog;
use super::database::Sync;
use super::published::{damaged, hash_at, level_number, level_of, path_at};
use crate::error::{Error, Kind, Result};
use crate::run::killpoint;
use crate::source::SourceFile;
use crate::target::VerifyLevel;

/// What a source file was when its staging began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub inode: u64,
}

impl Identity {
    pub fn of(file: &SourceFile) -> Self {
        Self { size: file.size, mtime_ns: file.mtime_ns, ctime_ns: file.ctime_ns, inode: file.inode }
    }
}

/// One staging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// Where it will be published.
    pub path: TargetPath,
    /// Relative to the source's root.
    pub source: TargetPath,
    /// As of the last checkpoint; `None` before the first.
    pub token: Option<Token>,
    /// The staging name the host chose.
    pub staging: TargetPath,
    pub identity: Identity,
    pub attributes: Attributes,
    /// Held by the server as of the last checkpoint; sorted, disjoint.
    pub ranges: Vec<Range>,
    /// Whether a power cut at the server cannot lose them.
    pub durable: bool,
    /// Bytes of a block of the journalled hashes.
    pub block_size: u64,
    /// Of the whole file, once known.
    pub blake3: Option<[u8; 32]>,
    /// Every byte is staged.
    pub complete: bool,
    /// Reached before publishing.
    pub verified: Option<VerifyLevel>,
    /// Offsets at which the transfer was taken up again, ever: sorted, each once. The proof looks at all of them.
    pub boundaries: Vec<u64>,
}

const COLUMNS: &str = "path, source, token, staging, size, mtime, ctime, inode, attributes, ranges, durable, \
                       block_size, blake3, complete, level, boundaries";

fn staged_at(row: &Row<'_>) -> rusqlite::Result<StagedFile> {
    let attributes: String = row.get(8)?;
    let ranges = row.get_ref(9)?.as_blob().map_err(|e| damaged(9, e))?;
    Ok(StagedFile {
        path: path_at(row, 0)?,
        source: path_at(row, 1)?,
        token: row.get::<_, Option<Vec<u8>>>(2)?.map(Token),
        staging: path_at(row, 3)?,
        identity: Identity {
            size: row.get::<_, i64>(4)? as u64,
            mtime_ns: row.get(5)?,
            ctime_ns: row.get(6)?,
            inode: row.get::<_, i64>(7)? as u64,
        },
        attributes: serde_json::from_str(&attributes).map_err(|e| damaged(8, e))?,
        ranges: postcard::from_bytes(ranges).map_err(|e| damaged(9, e))?,
        durable: row.get(10)?,
        block_size: row.get::<_, i64>(11)? as u64,
        blake3: hash_at(row, 12)?,
        complete: row.get(13)?,
        verified: row.get::<_, Option<i64>>(14)?.map(level_of),
        // None: staged by a version that did not keep them.
        boundaries: match row.get_ref(15)?.as_blob_or_null().map_err(|e| damaged(15, e))? {
            Some(bytes) => postcard::from_bytes(bytes).map_err(|e| damaged(15, e))?,
            None => Vec::new(),
        },
    })
}

fn boundaries_bytes(boundaries: &[u64]) -> Vec<u8> {
    postcard::to_stdvec(boundaries).expect("numbers always serialise")
}

fn ranges_bytes(ranges: &[Range]) -> Vec<u8> {
    postcard::to_stdvec(ranges).expect("ranges always serialise")
}

pub(super) fn remove(t: &Connection, path: &TargetPath) -> rusqlite::Result<()> {
    t.prepare_cached("DELETE FROM staged_block WHERE staged = (SELECT id FROM staged WHERE path = ?1)")?
        .execute([path.as_bytes()])?;
    t.prepare_cached("DELETE FROM staged WHERE path = ?1")?.execute([path.as_bytes()])?;
    Ok(())
}

fn missing(path: &TargetPath) -> Error {
    Error::new(Kind::State, "the catalog knows of no staging").on(path.display())
}

impl Catalog {
    /// Records that a staging begins, or begins anew: block hashes of an earlier one are dropped.
    pub fn begin_staging(&self, file: &StagedFile) -> Result<()> {
        let attributes = serde_json::to_string(&file.attributes).expect("attributes always serialise");
        self.db.write(self.dropping(&file.path)?, |t| {
            remove(t, &file.path)?;
            let sql = format!(
                "INSERT INTO staged ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
            );
            t.prepare_cached(&sql)?.execute(params![
                file.path.as_bytes(),
                file.source.as_bytes(),
                file.token.as_ref().map(|t| &t.0),
                file.staging.as_bytes(),
                file.identity.size as i64,
                file.identity.mtime_ns,
                file.identity.ctime_ns,
                file.identity.inode as i64,
                attributes,
                ranges_bytes(&file.ranges),
                file.durable,
                file.block_size as i64,
                file.blake3.as_ref().map(|h| h.as_slice()),
                file.complete,
                file.verified.map(level_number),
                boundaries_bytes(&file.boundaries),
            ])?;
            Ok(())
        })
    }

    /// Durably records that `ranges` (everything staged so far) are held under `token`, with the hashes of blocks that
    /// became known since the last checkpoint: (block index, BLAKE3 subtree chaining value).
    ///
    /// Errors: `State` without a preceding [`Catalog::begin_staging`].
    pub fn checkpoint(
        &self,
        path: &TargetPath,
        token: &Token,
        ranges: &[Range],
        durable: bool,
        blocks: &[(u64, [u8; 32])],
    ) -> Result<()> {
        killpoint::reach("checkpoint.before");
        let known = self.db.write(Sync::Full, |t| {
            let id: Option<i64> = t
                .prepare_cached("SELECT id FROM staged WHERE path = ?1")?
                .query_row([path.as_bytes()], |row| row.get(0))
                .optional()?;
            let Some(id) = id else { return Ok(false) };
            t.prepare_cached("UPDATE staged SET token = ?2, ranges = ?3, durable = ?4 WHERE id = ?1")?
                .execute(params![id, token.0, ranges_bytes(ranges), durable])?;
            put_blocks(t, id, blocks)?;
            Ok(true)
        })?;
        killpoint::reach("checkpoint.after");
        if known { Ok(()) } else { Err(missing(path)) }
    }

    /// Records all the offsets at which a staging was taken up again. Not waited for: the next checkpoint makes it durable,
    /// and until then the ranges of the last one show them.
    ///
    /// Errors: `State` without a preceding [`Catalog::begin_staging`].
    pub fn taken_up(&self, path: &TargetPath, boundaries: &[u64]) -> Result<()> {
        let known = self.db.write(Sync::Lazy, |t| {
            t.prepare_cached("UPDATE staged SET boundaries = ?2 WHERE path = ?1")?
                .execute(params![path.as_bytes(), boundaries_bytes(boundaries)])
        })?;
        if known == 1 { Ok(()) } else { Err(missing(path)) }
    }

    /// Records that everything is staged under `token`, the file's hash, and the level its bytes were verified at (`None`
    /// until they were). Not waited for: a power cut costs what came after the last checkpoint, and the intent that
    /// follows makes it durable.
    pub fn staging_complete(
        &self,
        path: &TargetPath,
        token: &Token,
        blake3: [u8; 32],
        verified: Option<VerifyLevel>,
        blocks: &[(u64, [u8; 32])],
    ) -> Result<()> {
        killpoint::reach("staged.before");
        let known = self.db.write(Sync::Lazy, |t| {
            let found: Option<(i64, i64)> = t
                .prepare_cached("SELECT id, size FROM staged WHERE path = ?1")?
                .query_row([path.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, size)) = found else { return Ok(false) };
            let all = if size == 0 { Vec::new() } else { vec![Range { offset: 0, length: size as u64 }] };
            t.prepare_cached(
                "UPDATE staged SET token = ?2, ranges = ?3, blake3 = ?4, complete = 1, level = ?5 WHERE id = ?1",
            )?
            .execute(params![
                id,
                token.0,
                ranges_bytes(&all),
                blake3.as_slice(),
                verified.map(level_number)
            ])?;
            put_blocks(t, id, blocks)?;
            Ok(true)
        })?;
        killpoint::reach("staged.after");
        if known { Ok(()) } else { Err(missing(path)) }
    }

    /// What is staged for a path.
    pub fn staged_at(&self, path: &TargetPath) -> Result<Option<StagedFile>> {
        self.db.read(|c| {
            let sql = format!("SELECT {COLUMNS} FROM staged WHERE path = ?1");
            c.prepare_cached(&sql)?.query_row([path.as_bytes()], staged_at).optional()
        })
    }

    /// Everything staged, by path.
    pub fn staged(&self) -> Result<Vec<StagedFile>> {
        self.db.read(|c| {
            let sql = format!("SELECT {COLUMNS} FROM staged ORDER BY path");
            c.prepare_cached(&sql)?.query_map([], staged_at)?.collect()
        })
    }

    /// The journalled block hashes of a staging, by index.
    pub fn staged_blocks(&self, path: &TargetPath) -> Result<Vec<(u64, [u8; 32])>> {
        self.db.read(|c| {
            c.prepare_cached(
                "SELECT b.block, b.hash FROM staged_block b JOIN staged s ON s.id = b.staged WHERE s.path = ?1 \
                 ORDER BY b.block",
            )?
            .query_map([path.as_bytes()], |row| {
                let hash = hash_at(row, 1)?.ok_or_else(|| damaged(1, "no hash"))?;
                Ok((row.get::<_, i64>(0)? as u64, hash))
            })?
            .collect()
        })
    }

    /// Forgets a staging; call it after the staged bytes were discarded.
    pub fn drop_staged(&self, path: &TargetPath) -> Result<()> {
        self.db.write(self.dropping(path)?, |t| remove(t, path))
    }

    /// How a staging's row is dropped: one that holds a checkpoint durably, before another staging writes under its
    /// name. Brought back by a power cut, it would vouch for bytes that are not the ones it hashed.
    fn dropping(&self, path: &TargetPath) -> Result<Sync> {
        let checkpointed = self.db.read(|c| {
            c.prepare_cached("SELECT token IS NOT NULL FROM staged WHERE path = ?1")?
                .query_row([path.as_bytes()], |row| row.get::<_, bool>(0))
                .optional()
        })?;
        Ok(if checkpointed == Some(true) { Sync::Full } else { Sync::Lazy })
    }
}

fn put_blocks(t: &Connection, id: i64, blocks: &[(u64, [u8; 32])]) -> rusqlite::Result<()> {
    let mut insert =
        t.prepare_cached("INSERT OR REPLACE INTO staged_block (staged, block, hash) VALUES (?1, ?2, ?3)")?;
    for (block, hash) in blocks {
        insert.execute(params![id, *block as i64, hash.as_slice()])?;
    }
    Ok(())
}
