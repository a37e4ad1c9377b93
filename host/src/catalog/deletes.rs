//! What is remembered of deletions that were not done: since when each could have been, what the last run held, and what
//! the user allowed. By path on the target.

use offsite_plugin_api::TargetPath;
use rusqlite::params;

use super::Catalog;
use super::database::Sync;
use super::published::{hash_at, path_at};
use crate::error::Result;
use crate::target::{Bound, PendingDeletes};

impl Catalog {
    /// All of it.
    pub fn pending_deletes(&self) -> Result<PendingDeletes> {
        self.db.read(|c| {
            let mut pending = PendingDeletes::default();
            let mut marks = c.prepare_cached("SELECT path, since FROM delete_mark")?;
            let mut rows = marks.query([])?;
            while let Some(row) = rows.next()? {
                pending.found.insert(path_at(row, 0)?, row.get(1)?);
            }
            let mut holds =
                c.prepare_cached("SELECT path, size, blake3, version, allowed FROM delete_hold")?;
            let mut rows = holds.query([])?;
            while let Some(row) = rows.next()? {
                let bound = Bound {
                    size: row.get::<_, i64>(1)? as u64,
                    blake3: hash_at(row, 2)?,
                    version: row.get(3)?,
                };
                let of = if row.get(4)? { &mut pending.allowed } else { &mut pending.held };
                of.insert(path_at(row, 0)?, bound);
            }
            Ok(pending)
        })
    }

    /// Remembers what a plan found: paths that could be deleted from `now_ns` on, all that is held, and paths of which
    /// nothing is to be remembered any more.
    pub fn remember_deletes(
        &self,
        found: &[TargetPath],
        now_ns: i64,
        held: &[(TargetPath, Bound)],
        dropped: &[TargetPath],
    ) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for path in dropped {
                t.prepare_cached("DELETE FROM delete_mark WHERE path = ?1")?.execute([path.as_bytes()])?;
                t.prepare_cached("DELETE FROM delete_hold WHERE path = ?1")?.execute([path.as_bytes()])?;
            }
            for path in found {
                t.prepare_cached("INSERT OR IGNORE INTO delete_mark (path, since) VALUES (?1, ?2)")?
                    .execute(params![path.as_bytes(), now_ns])?;
            }
            t.execute("DELETE FROM delete_hold WHERE allowed = 0", [])?;
            for (path, bound) in held {
                t.prepare_cached(
                    "INSERT OR REPLACE INTO delete_hold (path, size, blake3, version, allowed) VALUES (?1, ?2, ?3, ?4, 0)",
                )?
                .execute(params![
                    path.as_bytes(),
                    bound.size as i64,
                    bound.blake3.as_ref().map(|d| d.as_slice()),
                    bound.version
                ])?;
            }
            Ok(())
        })
    }

    /// The user allows to delete these of what is held, as they are.
    pub fn allow_deletes(&self, images: &[TargetPath]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for image in images {
                t.prepare_cached("UPDATE delete_hold SET allowed = 1 WHERE path = ?1")?
                    .execute([image.as_bytes()])?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_what_is_allowed_and_what_waits_are_remembered_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.db");
        let path = |name: &str| TargetPath::new(name).unwrap();
        let bound = |size| Bound { size, blake3: Some([size as u8; 32]), version: Some("v".into()) };
        let catalog = Catalog::open(&file).unwrap();
        let held = [(path("a"), bound(1)), (path("b"), bound(2))];
        catalog.remember_deletes(&[path("c")], 5, &held, &[]).unwrap();
        catalog.remember_deletes(&[path("c"), path("d")], 7, &held, &[]).unwrap();
        catalog.allow_deletes(&[path("a"), path("unknown")]).unwrap();
        drop(catalog);
        let catalog = Catalog::open(&file).unwrap();
        let pending = catalog.pending_deletes().unwrap();
        assert_eq!(pending.found, [(path("c"), 5), (path("d"), 7)].into(), "the first time counts");
        assert_eq!(pending.allowed, [(path("a"), bound(1))].into());
        assert_eq!(pending.held, [(path("b"), bound(2))].into());
        // The next run holds another content under a name that was allowed, and nothing else.
        catalog.remember_deletes(&[], 8, &[(path("a"), bound(9))], &[path("c")]).unwrap();
        let pending = catalog.pending_deletes().unwrap();
        assert_eq!((pending.allowed.len(), pending.held), (0, [(path("a"), bound(9))].into()));
        assert_eq!(pending.found, [(path("d"), 7)].into());
        // An allowance lasts over runs that hold nothing, until it is dropped.
        catalog.allow_deletes(&[path("a")]).unwrap();
        catalog.remember_deletes(&[], 9, &[], &[]).unwrap();
        assert_eq!(catalog.pending_deletes().unwrap().allowed.len(), 1);
        catalog.remember_deletes(&[], 9, &[], &[path("a")]).unwrap();
        assert_eq!(catalog.pending_deletes().unwrap().allowed.len(), 0);
    }
}
