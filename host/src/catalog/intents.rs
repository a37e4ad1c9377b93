//! The journal of what is about to change on the target, written durably before it changes.
//!
//! An intent is a list of steps; a step leaves it in the same transaction that records its result, and the intent ends
//! with its last step. What is left after a kill is settled by `target::intent` from the names on the target.

use offsite_plugin_api::{Attributes, Digest, Entry, TargetPath, Timestamp, Token};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::database::Sync;
use super::published::{self, Published, damaged};
use super::{Catalog, Upon, staged};
use crate::chain::Span;
use crate::error::Result;
use crate::run::killpoint;
use crate::target::Recorded;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntentKind {
    /// One new file.
    Publish,
    /// One file replaced.
    Replace,
    /// Files of one image deleted, in this order.
    Delete,
    /// Files published or replaced together, in this order.
    Group,
    /// One manifest written.
    Manifest,
}

impl IntentKind {
    const ALL: [(Self, &str); 5] = [
        (Self::Publish, "publish"),
        (Self::Replace, "replace"),
        (Self::Delete, "delete"),
        (Self::Group, "group"),
        (Self::Manifest, "manifest"),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("publish", |(_, name)| name)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(kind, _)| *kind)
    }
}

/// What an entry was when something was decided about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Was {
    /// Bytes.
    pub size: u64,
    pub mtime: Option<Timestamp>,
    pub version: Option<String>,
}

impl Was {
    pub fn of(entry: &Entry) -> Self {
        Self { size: entry.size, mtime: entry.mtime, version: entry.version.clone() }
    }

    /// Whether the entry is still the same, by everything that both sides know.
    pub fn still(&self, entry: &Entry) -> bool {
        let same_time = match (self.mtime, entry.mtime) {
            (Some(a), Some(b)) => a.ns.abs_diff(b.ns) < a.precision_ns.max(b.precision_ns).max(1),
            _ => true,
        };
        let same_version = match (&self.version, &entry.version) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.size == entry.size && same_time && same_version
    }
}

/// One file that is about to become visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishStep {
    pub path: TargetPath,
    /// Relative to the source's root.
    pub source: Option<TargetPath>,
    pub token: Token,
    pub staging: TargetPath,
    pub attributes: Attributes,
    pub digests: Vec<Digest>,
    /// What had the name; `None` for nothing.
    pub before: Option<Was>,
    /// The side name, where replacing needs a swap.
    pub side: Option<TargetPath>,
    /// What will be recorded; the target's version and time are filled in from the published entry.
    pub record: Recorded,
    pub span: Option<Span>,
    /// With the anchor: what it builds on.
    #[serde(default, skip_serializing_if = "Upon::is_nothing")]
    pub upon: Upon,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntentStep {
    Publish(Box<PublishStep>),
    Delete {
        path: TargetPath,
        was: Was,
    },
    Manifest {
        path: TargetPath,
        hash: String,
        sequence: u64,
        digest: [u8; 32],
        size: u64,
        /// The id of the key that signed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

impl IntentStep {
    pub fn path(&self) -> &TargetPath {
        match self {
            Self::Publish(step) => &step.path,
            Self::Delete { path, .. } | Self::Manifest { path, .. } => path,
        }
    }
}

/// An open intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub id: i64,
    pub kind: IntentKind,
    pub set: String,
    /// How many steps it began with.
    pub total: usize,
    /// Nanoseconds since the Unix epoch.
    pub begun_ns: i64,
    /// What is left of it, in order: (number of the step, step).
    pub steps: Vec<(i64, IntentStep)>,
}

impl Intent {
    /// Whether nothing of its set is as it was until it is settled; a publish concerns its own names alone.
    pub fn concerns_its_set(&self) -> bool {
        matches!(self.kind, IntentKind::Replace | IntentKind::Group | IntentKind::Delete)
    }

    /// Whether some of its steps were done.
    pub fn partly_done(&self) -> bool {
        self.steps.len() < self.total
    }
}

fn finish_step(t: &Connection, intent: i64, step: i64) -> rusqlite::Result<()> {
    t.prepare_cached("DELETE FROM intent_step WHERE intent = ?1 AND step = ?2")?.execute([intent, step])?;
    close_empty(t)
}

/// Whatever was about to happen to a path has happened by another way.
pub(super) fn finish_path(t: &Connection, path: &TargetPath) -> rusqlite::Result<()> {
    let gone = t.prepare_cached("DELETE FROM intent_step WHERE path = ?1")?.execute([path.as_bytes()])?;
    if gone > 0 { close_empty(t) } else { Ok(()) }
}

fn close_empty(t: &Connection) -> rusqlite::Result<()> {
    t.prepare_cached("DELETE FROM intent WHERE id NOT IN (SELECT intent FROM intent_step)")?.execute([])?;
    Ok(())
}

impl Catalog {
    /// Durably writes down what is about to happen and gives the intent's id; step numbers count from 0. `steps` is not
    /// empty.
    pub fn begin_intent(&self, kind: IntentKind, set: &str, steps: &[IntentStep]) -> Result<i64> {
        let mut ids = self.begin_intents(kind, &[(set, steps)])?;
        Ok(ids.pop().expect("one intent has one id"))
    }

    /// The same for several intents, which are independent of each other, with one wait for the disk. Gives their ids in
    /// order.
    pub fn begin_intents(&self, kind: IntentKind, intents: &[(&str, &[IntentStep])]) -> Result<Vec<i64>> {
        killpoint::reach("intent.before");
        let body = |s: &IntentStep| serde_json::to_string(s).expect("a step always serialises");
        let bodies: Vec<Vec<String>> =
            intents.iter().map(|(_, steps)| steps.iter().map(body).collect()).collect();
        let ids = self.db.write(Sync::Full, |t| {
            let mut begin =
                t.prepare_cached("INSERT INTO intent (kind, set_id, total, begun) VALUES (?1, ?2, ?3, ?4)")?;
            let mut insert = t.prepare_cached(
                "INSERT INTO intent_step (intent, step, path, body) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let mut ids = Vec::with_capacity(intents.len());
            for ((set, steps), bodies) in intents.iter().zip(&bodies) {
                begin.execute(params![kind.as_str(), set, steps.len() as i64, super::runs::now_ns()])?;
                let id = t.last_insert_rowid();
                for (number, (step, body)) in steps.iter().zip(bodies).enumerate() {
                    insert.execute(params![id, number as i64, step.path().as_bytes(), body])?;
                }
                ids.push(id);
            }
            Ok(ids)
        })?;
        killpoint::reach("intent.after");
        Ok(ids)
    }

    /// Every open intent, oldest first.
    pub fn intents(&self) -> Result<Vec<Intent>> {
        self.intents_where("1", &[])
    }

    /// The open intents with a step on this path.
    pub fn intents_at(&self, path: &TargetPath) -> Result<Vec<Intent>> {
        self.intents_where("id IN (SELECT intent FROM intent_step WHERE path = ?1)", path.as_bytes())
    }

    fn intents_where(&self, condition: &str, path: &[u8]) -> Result<Vec<Intent>> {
        self.db.read(|c| {
            let sql =
                format!("SELECT id, kind, set_id, total, begun FROM intent WHERE {condition} ORDER BY id");
            let mut statement = c.prepare_cached(&sql)?;
            if statement.parameter_count() > 0 {
                statement.raw_bind_parameter(1, path)?;
            }
            let mut rows = statement.raw_query();
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let kind: String = row.get(1)?;
                found.push(Intent {
                    id: row.get(0)?,
                    kind: IntentKind::from_name(&kind).ok_or_else(|| damaged(1, "unknown kind of intent"))?,
                    set: row.get(2)?,
                    total: row.get::<_, i64>(3)? as usize,
                    begun_ns: row.get(4)?,
                    steps: Vec::new(),
                });
            }
            drop(rows);
            let mut steps =
                c.prepare_cached("SELECT step, body FROM intent_step WHERE intent = ?1 ORDER BY step")?;
            for intent in &mut found {
                intent.steps = steps
                    .query_map([intent.id], |row| {
                        let body: String = row.get(1)?;
                        Ok((row.get(0)?, serde_json::from_str(&body).map_err(|e| damaged(1, e))?))
                    })?
                    .collect::<rusqlite::Result<_>>()?;
            }
            Ok(found)
        })
    }

    /// A step's file is visible: records it, drops its staging and the step, in one transaction. Not
    /// waited for: until it is on the disk the open intent, which is, says the same to whoever settles it.
    pub fn publish_done(&self, intent: i64, step: i64, file: &Published, upon: &Upon) -> Result<()> {
        killpoint::reach("publish.before-record");
        self.db.write(Sync::Lazy, |t| {
            published::put(t, file, upon)?;
            staged::remove(t, &file.path)?;
            finish_step(t, intent, step)?;
            finish_path(t, &file.path)
        })?;
        killpoint::reach("publish.after-record");
        Ok(())
    }

    /// A step's file is gone (deleted, or found deleted): forgets it and drops the step.
    pub fn delete_done(&self, intent: i64, step: i64, path: &TargetPath) -> Result<()> {
        killpoint::reach("delete.before-record");
        self.db.write(Sync::Lazy, |t| {
            published::remove(t, path)?;
            finish_step(t, intent, step)?;
            finish_path(t, path)
        })?;
        killpoint::reach("delete.after-record");
        Ok(())
    }

    /// A step's manifest is written: remembers its generation, and the key that signed it.
    pub fn manifest_done(
        &self,
        intent: i64,
        step: i64,
        hash: &str,
        sequence: u64,
        digest: [u8; 32],
        key: Option<&str>,
    ) -> Result<()> {
        killpoint::reach("manifest.before-record");
        self.db.write(Sync::Lazy, |t| {
            super::facts::put_manifest(t, hash, sequence, digest, key)?;
            finish_step(t, intent, step)
        })?;
        killpoint::reach("manifest.after-record");
        Ok(())
    }

    /// A step did not and will not happen. `forget_staging`: what was staged for it is gone too.
    pub fn drop_step(&self, intent: i64, step: i64, forget_staging: Option<&TargetPath>) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            if let Some(path) = forget_staging {
                staged::remove(t, path)?;
            }
            finish_step(t, intent, step)
        })
    }

    /// What a step left behind is not known to be the old or the new file: the name counts as unrecorded until it is read
    /// back, and the step ends.
    pub fn unrecord(&self, intent: i64, step: i64, path: &TargetPath) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            published::remove(t, path)?;
            staged::remove(t, path)?;
            finish_step(t, intent, step)
        })
    }

    /// Ends an intent of which nothing happened.
    pub fn close_intent(&self, intent: i64) -> Result<()> {
        self.close_intents(&[intent])
    }

    /// The same for several.
    pub fn close_intents(&self, intents: &[i64]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for intent in intents {
                t.prepare_cached("DELETE FROM intent_step WHERE intent = ?1")?.execute([intent])?;
                t.prepare_cached("DELETE FROM intent WHERE id = ?1")?.execute([intent])?;
            }
            Ok(())
        })
    }
}
