//! When a file was written whose time moved since, while its content stayed: a touch makes nothing newer. Where names order
//! nothing, which set takes another's place is told by when each began.

use std::collections::BTreeMap;

use offsite_plugin_api::TargetPath;
use rusqlite::{Connection, OptionalExtension, params};

use super::Catalog;
use super::published::{hash_at, path_at};
use crate::error::Result;

/// Before the record of a file says that it has this content and time.
pub(super) fn note(
    t: &Connection,
    path: &TargetPath,
    content: Option<[u8; 32]>,
    mtime_ns: i64,
) -> rusqlite::Result<()> {
    let was = t
        .prepare_cached("SELECT blake3, source_mtime FROM published WHERE path = ?1")?
        .query_row([path.as_bytes()], |row| Ok((hash_at(row, 0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((known, then)) = was else { return Ok(()) };
    if known.is_none() || known != content {
        t.prepare_cached("DELETE FROM begun WHERE path = ?1")?.execute([path.as_bytes()])?;
    } else if then < mtime_ns {
        t.prepare_cached("INSERT OR IGNORE INTO begun (path, mtime) VALUES (?1, ?2)")?
            .execute(params![path.as_bytes(), then])?;
    }
    Ok(())
}

impl Catalog {
    /// By path on the target: the first time that the recorded content had at the source, where that is another one now.
    pub fn begun(&self) -> Result<BTreeMap<TargetPath, i64>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT path, mtime FROM begun")?
                .query_map([], |row| Ok((path_at(row, 0)?, row.get(1)?)))?
                .collect()
        })
    }
}
