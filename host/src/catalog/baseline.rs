//! The identities that were present when a policy took effect.

use rusqlite::{OptionalExtension, params};

use super::Catalog;
use super::database::Sync;
use super::published::path_at;
use crate::error::Result;
use crate::plan::{Baseline, Policy};

fn name(policy: Policy) -> &'static str {
    match policy {
        Policy::NewImages => "new-images",
        Policy::NewSets => "new-sets",
    }
}

impl Catalog {
    /// The baseline of a policy; `None` when it never took effect here.
    pub fn baseline(&self, policy: Policy) -> Result<Option<Baseline>> {
        self.db.read(|c| {
            let taken: Option<i64> = c
                .prepare_cached("SELECT taken FROM baseline WHERE policy = ?1")?
                .query_row([name(policy)], |row| row.get(0))
                .optional()?;
            let Some(taken_ns) = taken else { return Ok(None) };
            let images = c
                .prepare_cached("SELECT image FROM baseline_image WHERE policy = ?1 ORDER BY image")?
                .query_map([name(policy)], |row| path_at(row, 0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Some(Baseline { images, taken_ns }))
        })
    }

    /// Keeps the baseline of a policy, durably, instead of an earlier one.
    pub fn set_baseline(&self, policy: Policy, baseline: &Baseline) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            let name = name(policy);
            t.execute("DELETE FROM baseline_image WHERE policy = ?1", [name])?;
            t.execute(
                "INSERT OR REPLACE INTO baseline (policy, taken) VALUES (?1, ?2)",
                params![name, baseline.taken_ns],
            )?;
            let mut insert =
                t.prepare_cached("INSERT INTO baseline_image (policy, image) VALUES (?1, ?2)")?;
            for image in &baseline.images {
                insert.execute(params![name, image.as_bytes()])?;
            }
            Ok(())
        })
    }
}
