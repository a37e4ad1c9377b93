//! Run records: when a run began and ended, how, what it did, what was wrong. The same table in the catalog and in the job database.

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::database::{Database, Sync};
use super::wrong::Wrong;
use super::{Catalog, JobDb};
use crate::error::Result;
use crate::report::Outcome;

/// One target's part of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub run_id: String,
    pub target: String,
    /// Nanoseconds since the Unix epoch.
    pub started_ns: i64,
    /// `None` while it runs, or when it was killed.
    pub ended_ns: Option<i64>,
    pub outcome: Option<Outcome>,
    /// Published.
    pub images: u64,
    pub deleted: u64,
    pub failed: u64,
    /// Bytes.
    pub sent_bytes: u64,
    pub error: Option<String>,
    /// Whether it ended and nothing was wrong: nothing failed, nothing that was asked for was left undone. `None` while it
    /// runs, when it was killed, and where an older version did not say.
    #[serde(default)]
    pub clean: Option<bool>,
    #[serde(default)]
    pub wrong: Wrong,
}

impl RunRecord {
    /// The record of a run that begins now.
    pub fn begin(run_id: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            run_id: run_id.into(),
            target: target.into(),
            started_ns: now_ns(),
            ended_ns: None,
            outcome: None,
            images: 0,
            deleted: 0,
            failed: 0,
            sent_bytes: 0,
            error: None,
            clean: None,
            wrong: Wrong::default(),
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub(super) fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

const OUTCOMES: [(Outcome, &str); 3] =
    [(Outcome::Done, "done"), (Outcome::Failed, "failed"), (Outcome::Stopped, "stopped")];

/// Enough for `status`; older ones are dropped, but for each target's last success.
pub(super) const KEPT: i64 = 1000;

fn put(t: &Connection, run: &RunRecord) -> rusqlite::Result<()> {
    let outcome = run.outcome.and_then(|o| OUTCOMES.iter().find(|(k, _)| *k == o)).map(|(_, name)| *name);
    t.prepare_cached(
        "INSERT INTO run (run_id, target, started, ended, outcome, images, deleted, failed, sent, error, clean, wrong) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (run_id, target) DO UPDATE SET \
         ended = ?4, outcome = ?5, images = ?6, deleted = ?7, failed = ?8, sent = ?9, error = ?10, clean = ?11, \
         wrong = ?12",
    )?
    .execute(params![
        run.run_id,
        run.target,
        run.started_ns,
        run.ended_ns,
        outcome,
        run.images as i64,
        run.deleted as i64,
        run.failed as i64,
        run.sent_bytes as i64,
        run.error,
        run.clean,
        (run.wrong != Wrong::default())
            .then(|| serde_json::to_string(&run.wrong).expect("what was wrong always serialises")),
    ])?;
    t.prepare_cached(
        "DELETE FROM run WHERE id <= (SELECT max(id) FROM run) - ?1 \
         AND id NOT IN (SELECT max(id) FROM run WHERE clean = 1 GROUP BY target)",
    )?
    .execute([KEPT])?;
    Ok(())
}

const COLUMNS: &str =
    "run_id, target, started, ended, outcome, images, deleted, failed, sent, error, clean, wrong";

fn run_at(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    let outcome: Option<String> = row.get(4)?;
    Ok(RunRecord {
        run_id: row.get(0)?,
        target: row.get(1)?,
        started_ns: row.get(2)?,
        ended_ns: row.get(3)?,
        outcome: outcome.and_then(|o| OUTCOMES.iter().find(|(_, name)| *name == o)).map(|(k, _)| *k),
        images: row.get::<_, i64>(5)? as u64,
        deleted: row.get::<_, i64>(6)? as u64,
        failed: row.get::<_, i64>(7)? as u64,
        sent_bytes: row.get::<_, i64>(8)? as u64,
        error: row.get(9)?,
        clean: row.get(10)?,
        // What a newer version wrote otherwise is not worth a lost record: `clean` says what matters.
        wrong: row
            .get::<_, Option<String>>(11)?
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
    })
}

fn newest(db: &Database, target: Option<&str>, done: bool, most: usize) -> Result<Vec<RunRecord>> {
    db.read(|c| {
        let sql = format!(
            "SELECT {COLUMNS} FROM run WHERE (?1 IS NULL OR target = ?1) AND (NOT ?2 OR clean = 1) \
             ORDER BY started DESC, id DESC LIMIT ?3"
        );
        c.prepare_cached(&sql)?.query_map(params![target, done, most as i64], run_at)?.collect()
    })
}

macro_rules! runs {
    ($owner:ident) => {
        impl $owner {
            /// Keeps a run record, instead of an earlier one of the same run and target.
            pub fn put_run(&self, run: &RunRecord) -> Result<()> {
                self.db.write(Sync::Full, |t| put(t, run))
            }

            /// The newest runs (of one target, or of all), newest first.
            pub fn runs(&self, target: Option<&str>, most: usize) -> Result<Vec<RunRecord>> {
                newest(&self.db, target, false, most)
            }

            /// The newest run of a target that ended with everything done and nothing wrong.
            pub fn last_success(&self, target: &str) -> Result<Option<RunRecord>> {
                Ok(newest(&self.db, Some(target), true, 1)?.pop())
            }
        }
    };
}

runs!(Catalog);
runs!(JobDb);
