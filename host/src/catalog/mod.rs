//! The local databases: one [`Catalog`] per target, one [`JobDb`] per job. SQLite; no SQL outside this folder.
//!
//! A catalog remembers what was published, what is staged, what was about to change (intents), and what was learned of
//! the target. Losing it costs time, never data. Facts that must agree change in one transaction. Commits that a power
//! cut must not lose (checkpoints, intents, publishes) wait for the disk; the others do not.
//!
//! What is kept is bounded by what there is, however long it goes on (`run/tests/bounds.rs` drives 3,000 days):
//! - catalog: one row in `published` for each file on the target, and for each that went from there and from the source
//!   within the last 90 days, and longer while something visible rests on it (its parent; the images that a consolidation
//!   holds which only the catalog supports); some 1,500 bytes a file with everything that belongs to it (`span`, `accepted`,
//!   `vouched`, `gone`). `manifest`, `set_lag` and `transition`: one row a set. `staged` and its blocks, intents: what is under way, none after
//!   a run that came to its end. `baseline`: what there was when a policy took effect. `fact`: what a plugin keeps, at most
//!   1 MiB a key.
//! - job database: one row in `seen` for each file that is at the source, or on some target, or was at the source within the
//!   last 90 days. Run records: the newest 1,000 of all targets together and each target's last success, at most 20 KB each.
//! - A file gives back what deleted rows left once that is more than half of it and 16 MiB; of databases that were damaged and
//!   moved aside the newest three stay. Manifests: one or two generations a set. There is no log file.

mod baseline;
mod begun;
mod consolidated;
mod database;
mod deletes;
mod facts;
mod group;
mod intents;
mod job;
mod lag;
mod parents;
mod place;
mod published;
mod runs;
mod staged;
mod transition;
mod wrong;

pub use consolidated::{Absorption, Accepted};
pub use intents::{Intent, IntentKind, IntentStep, PublishStep, Was};
pub use job::JobDb;
pub use lag::SetLag;
pub use parents::Upon;
pub use place::{catalog_path, job_path};
pub use published::{Published, RecognisedBytes, SourceFacts};
pub use runs::RunRecord;
pub use staged::{Identity, StagedFile};
pub use wrong::{FailedImage, Told, Wrong};

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::target::manifest::Key;
use database::Database;

/// One target's catalog. Safe to share between threads; each call is one transaction.
pub struct Catalog {
    db: Database,
    /// What signs this target's manifests; `None` where there is no key (yet).
    signer: Option<Key>,
}

impl Catalog {
    /// Opens the catalog, made when it does not exist. A damaged one is moved aside (see [`Catalog::moved_aside`]) and
    /// counts as lost. Errors: `State` when it was made by a newer version or cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { db: Database::open(path, SCHEMA)?, signer: None })
    }

    /// For what must change nothing (`offsite plan`): the catalog if it exists and is sound, else an empty one in memory.
    pub fn peek(path: &Path) -> Result<Self> {
        Ok(Self { db: Database::peek(path, SCHEMA)?, signer: None })
    }

    /// An empty catalog that ends with this value.
    pub fn in_memory() -> Result<Self> {
        Ok(Self { db: Database::in_memory(SCHEMA)?, signer: None })
    }

    /// With the key that signs this target's manifests.
    #[must_use]
    pub fn with_signer(self, signer: Option<Key>) -> Self {
        Self { signer, ..self }
    }

    pub fn signer(&self) -> Option<&Key> {
        self.signer.as_ref()
    }

    /// For tests: see [`Database::powered_by`].
    #[cfg(test)]
    pub(crate) fn powered_by(&self, power: std::sync::Arc<crate::model::Power>) {
        self.db.powered_by(power);
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

    /// Whether this catalog was empty when opened: new, or lost.
    pub fn is_new(&self) -> bool {
        self.db.is_new()
    }

    /// Where a damaged predecessor was moved when this one was opened.
    pub fn moved_aside(&self) -> Option<&PathBuf> {
        self.db.moved_aside()
    }
}

/// One batch per version: `SCHEMA[n]` takes a database from version n to n + 1. Never change one that was released.
const SCHEMA: &[&str] = &["
-- image, source: empty where they are the path itself
CREATE TABLE published (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, blake3 BLOB,
    source_mtime INTEGER NOT NULL, source_ctime INTEGER NOT NULL, source_inode INTEGER NOT NULL,
    version TEXT, mtime INTEGER, mtime_precision INTEGER, level INTEGER NOT NULL, recognised BLOB,
    set_id TEXT NOT NULL, image BLOB NOT NULL, source BLOB
) WITHOUT ROWID;
CREATE INDEX published_set ON published (set_id);
CREATE TABLE staged (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, source BLOB NOT NULL, token BLOB, staging BLOB NOT NULL,
    size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, inode INTEGER NOT NULL,
    attributes TEXT NOT NULL, ranges BLOB NOT NULL, durable INTEGER NOT NULL, block_size INTEGER NOT NULL,
    blake3 BLOB, complete INTEGER NOT NULL, level INTEGER
);
CREATE TABLE staged_block (
    staged INTEGER NOT NULL, block INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (staged, block)
) WITHOUT ROWID;
CREATE TABLE intent (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, set_id TEXT NOT NULL, total INTEGER NOT NULL,
    begun INTEGER NOT NULL
);
CREATE TABLE intent_step (
    intent INTEGER NOT NULL, step INTEGER NOT NULL, path BLOB NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (intent, step)
) WITHOUT ROWID;
CREATE INDEX intent_step_path ON intent_step (path);
CREATE TABLE manifest (hash TEXT PRIMARY KEY, sequence INTEGER NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE unwritten_set (set_id TEXT PRIMARY KEY, changes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE span (image BLOB PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE accepted (image BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE baseline (policy TEXT PRIMARY KEY, taken INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE baseline_image (
    policy TEXT NOT NULL, image BLOB NOT NULL, PRIMARY KEY (policy, image)
) WITHOUT ROWID;
CREATE TABLE fact (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, target TEXT NOT NULL, started INTEGER NOT NULL,
    ended INTEGER, outcome TEXT, images INTEGER NOT NULL, deleted INTEGER NOT NULL, failed INTEGER NOT NULL,
    sent INTEGER NOT NULL, error TEXT, UNIQUE (run_id, target)
);
", "
ALTER TABLE staged ADD COLUMN boundaries BLOB;
", "
ALTER TABLE published ADD COLUMN parent BLOB;
ALTER TABLE published ADD COLUMN parent_blake3 BLOB;
ALTER TABLE published ADD COLUMN head BLOB;
ALTER TABLE published ADD COLUMN mount TEXT;
", "
-- What was accepted: the file as it was then. Without a size: accepted by a version that did not bind it.
ALTER TABLE accepted ADD COLUMN size INTEGER;
ALTER TABLE accepted ADD COLUMN mtime INTEGER;
ALTER TABLE accepted ADD COLUMN mtime_precision INTEGER;
ALTER TABLE accepted ADD COLUMN version TEXT;
ALTER TABLE accepted ADD COLUMN blake3 BLOB;
-- Anchors that an image took in at the source; valid while the holder's recorded content is that.
CREATE TABLE absorbed (
    path BLOB PRIMARY KEY, holder BLOB NOT NULL, blake3 BLOB NOT NULL, proved INTEGER NOT NULL
) WITHOUT ROWID;
-- what only a manifest told of: nearly always nothing
CREATE INDEX published_learned ON published (path) WHERE source IS NULL OR (source_ctime = 0 AND source_inode = 0);
", "
-- only an unsigned manifest, or one signed with a key that is not here, says what these are
CREATE TABLE vouched (path BLOB PRIMARY KEY) WITHOUT ROWID;
-- the id of the key that the generation is signed with; NULL for none
ALTER TABLE manifest ADD COLUMN key TEXT;
", "
-- wrong: JSON. set_lag: since when a set's newest image is not restorable here, 0 where it is, and why. gone: neither here nor at the
-- source any more, since when.
ALTER TABLE run ADD COLUMN clean INTEGER;
ALTER TABLE run ADD COLUMN wrong TEXT;
CREATE TABLE set_lag (
    set_id TEXT PRIMARY KEY, image BLOB NOT NULL, since INTEGER NOT NULL, why TEXT
) WITHOUT ROWID;
CREATE TABLE gone (path BLOB PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
", "
CREATE TABLE delete_mark (path BLOB PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE delete_hold (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, blake3 BLOB, version TEXT, allowed INTEGER NOT NULL
) WITHOUT ROWID;
", "
-- sets that hold old and new images until the last one is replaced
CREATE TABLE transition (set_id TEXT PRIMARY KEY) WITHOUT ROWID;
", "
-- Files whose time moved while their content stayed: the time that it had first.
CREATE TABLE begun (path BLOB PRIMARY KEY, mtime INTEGER NOT NULL) WITHOUT ROWID;
"];

#[cfg(test)]
mod tests;
