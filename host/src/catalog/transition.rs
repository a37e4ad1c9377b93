//! Sets of which the target holds old and new images at once, for longer than one act: what differs of them did not fit
//! beside the old images and is replaced one by one. Until the last one is there, nothing of the set is restorable.

use super::Catalog;
use super::database::Sync;
use crate::error::Result;

impl Catalog {
    /// The set's id at the source, as records name it. On disk before the first of its images is replaced.
    pub fn begin_transition(&self, set: &str) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            t.prepare_cached("INSERT OR IGNORE INTO transition (set_id) VALUES (?1)")?.execute([set])?;
            Ok(())
        })
    }

    pub fn transitions(&self) -> Result<Vec<String>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT set_id FROM transition ORDER BY set_id")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// All of it is as the source has it, or none of it is left.
    pub fn end_transition(&self, set: &str) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            t.prepare_cached("DELETE FROM transition WHERE set_id = ?1")?.execute([set])?;
            Ok(())
        })
    }
}
