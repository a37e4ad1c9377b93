//! Since when each set's newest image is not restorable on the target, and since when what was published is gone from both
//! sides: what only many runs together can tell.

use std::collections::BTreeMap;

use offsite_plugin_api::TargetPath;
use rusqlite::params;

use super::Catalog;
use super::database::Sync;
use super::published::path_at;
use crate::error::Result;

/// How far one set of the source is behind on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLag {
    /// The newest settled image, relative to the source's root.
    pub image: TargetPath,
    /// Since when the set's newest image has not been restorable here, nanoseconds since the Unix epoch; 0 where it is.
    pub since_ns: i64,
    /// Why it is not, as a clause; `None` where it is.
    pub why: Option<String>,
}

impl Catalog {
    /// By the set's id at the source, as the last run that came to its end found it.
    pub fn lags(&self) -> Result<BTreeMap<String, SetLag>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT set_id, image, since, why FROM set_lag")?
                .query_map([], |row| {
                    let lag = SetLag { image: path_at(row, 1)?, since_ns: row.get(2)?, why: row.get(3)? };
                    Ok((row.get(0)?, lag))
                })?
                .collect()
        })
    }

    /// Keeps `now` instead of `before`.
    pub fn put_lags(&self, before: &BTreeMap<String, SetLag>, now: &BTreeMap<String, SetLag>) -> Result<()> {
        if before == now {
            return Ok(());
        }
        self.db.write(Sync::Lazy, |t| {
            for set in before.keys().filter(|set| !now.contains_key(*set)) {
                t.prepare_cached("DELETE FROM set_lag WHERE set_id = ?1")?.execute([set])?;
            }
            for (set, lag) in now.iter().filter(|(set, lag)| before.get(*set) != Some(*lag)) {
                t.prepare_cached(
                    "INSERT OR REPLACE INTO set_lag (set_id, image, since, why) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![set, lag.image.as_bytes(), lag.since_ns, lag.why])?;
            }
            Ok(())
        })
    }

    /// What is recorded, and was found neither on the target nor at the source: since when, nanoseconds since the Unix
    /// epoch.
    pub fn gone(&self) -> Result<BTreeMap<TargetPath, i64>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT path, since FROM gone")?
                .query_map([], |row| Ok((path_at(row, 0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Keeps `now` instead of `before`.
    pub fn put_gone(
        &self,
        before: &BTreeMap<TargetPath, i64>,
        now: &BTreeMap<TargetPath, i64>,
    ) -> Result<()> {
        if before == now {
            return Ok(());
        }
        self.db.write(Sync::Lazy, |t| {
            for path in before.keys().filter(|path| !now.contains_key(*path)) {
                t.prepare_cached("DELETE FROM gone WHERE path = ?1")?.execute([path.as_bytes()])?;
            }
            for (path, since) in now.iter().filter(|(path, since)| before.get(*path) != Some(*since)) {
                t.prepare_cached("INSERT OR REPLACE INTO gone (path, since) VALUES (?1, ?2)")?
                    .execute(params![path.as_bytes(), since])?;
            }
            Ok(())
        })
    }
}
