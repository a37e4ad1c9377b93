//! Small facts: manifest generations, sets whose manifest is behind, and key/value state.

use std::collections::{BTreeMap, BTreeSet};

use offsite_plugin_api::TargetPath;
use rusqlite::{Connection, OptionalExtension, params};

use super::Catalog;
use super::database::Sync;
use super::published::{damaged, hash_at, path_at};
use crate::chain::Span;
use crate::error::{Error, Kind, Result};
use crate::target::manifest::{Key, pieces};

/// Largest value a plugin may keep.
const LARGEST_STATE: usize = 1024 * 1024;

pub(super) fn put_manifest(
    t: &Connection,
    hash: &str,
    sequence: u64,
    digest: [u8; 32],
    key: Option<&str>,
) -> rusqlite::Result<()> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO manifest (hash, sequence, digest, key) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![hash, sequence as i64, digest.as_slice(), key])?;
    Ok(())
}

impl Catalog {
    /// The manifest generations whose facts this catalog holds: set hash -> (sequence, digest of the body).
    pub fn manifests(&self) -> Result<BTreeMap<String, (u64, [u8; 32])>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT hash, sequence, digest FROM manifest")?
                .query_map([], |row| {
                    let digest = hash_at(row, 2)?.ok_or_else(|| damaged(2, "no digest"))?;
                    Ok((row.get(0)?, (row.get::<_, i64>(1)? as u64, digest)))
                })?
                .collect()
        })
    }

    /// The same for one set: thousands of them are written in one run.
    pub fn manifest_of(&self, hash: &str) -> Result<Option<(u64, [u8; 32])>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT sequence, digest FROM manifest WHERE hash = ?1")?
                .query_row([hash], |row| {
                    let digest = hash_at(row, 1)?.ok_or_else(|| damaged(1, "no digest"))?;
                    Ok((row.get::<_, i64>(0)? as u64, digest))
                })
                .optional()
        })
    }

    /// The id of the key that signed the generation that is written; `None` where nobody did.
    pub fn manifest_key(&self, hash: &str) -> Result<Option<String>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT key FROM manifest WHERE hash = ?1")?
                .query_row([hash], |row| row.get(0))
                .optional()
                .map(Option::flatten)
        })
    }

    /// Hashes of the manifests that another key signed, or none.
    pub fn manifests_not_signed_with(&self, key: &str) -> Result<BTreeSet<String>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT hash FROM manifest WHERE key IS NOT ?1")?
                .query_map([key], |row| row.get(0))?
                .collect()
        })
    }

    /// Remembers that these manifests' facts are in the catalog, which of them this target's key signed, and the spans they
    /// record.
    pub fn manifests_seen(
        &self,
        seen: &[(String, u64, [u8; 32])],
        signed: &BTreeSet<String>,
        spans: &BTreeMap<TargetPath, Span>,
    ) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for (hash, sequence, digest) in seen {
                let key = self.signer().map(Key::id).filter(|_| signed.contains(hash));
                put_manifest(t, hash, *sequence, *digest, key)?;
            }
            for (image, span) in spans {
                t.prepare_cached("INSERT OR REPLACE INTO span (image, first, last) VALUES (?1, ?2, ?3)")?
                    .execute(params![image.as_bytes(), span.first as i64, span.last as i64])?;
            }
            Ok(())
        })
    }

    /// Sets whose manifest must be written anew although nothing of them changed: the one on the target is damaged.
    pub fn manifests_behind(&self, sets: &[String]) -> Result<()> {
        self.db.write(Sync::Lazy, |t| sets.iter().try_for_each(|set| super::published::behind(t, set)))
    }

    /// Every set that something is published of.
    pub fn published_sets(&self) -> Result<Vec<String>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT DISTINCT set_id FROM published ORDER BY set_id")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// What something is published of, as manifests divide it ([`pieces::unit_of`]).
    pub fn published_units(&self) -> Result<BTreeSet<String>> {
        let mut units: BTreeSet<String> = self.published_sets()?.into_iter().collect();
        if units.contains("") {
            units.extend(self.db.read(|c| {
                c.prepare_cached("SELECT path FROM published WHERE set_id = ''")?
                    .query_map([], |row| Ok(pieces::unit_of("", &path_at(row, 0)?)))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })?);
        }
        Ok(units)
    }

    /// Sets (and folders of other files) that changed since their manifest was written, each with a number that grows with every change.
    pub fn unwritten_sets(&self) -> Result<Vec<(String, i64)>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT set_id, changes FROM unwritten_set ORDER BY set_id")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// That number for one set; 0 where its manifest is written.
    pub fn unwritten_changes(&self, set: &str) -> Result<i64> {
        self.db.read(|c| {
            c.prepare_cached("SELECT changes FROM unwritten_set WHERE set_id = ?1")?
                .query_row([set], |row| row.get(0))
                .optional()
                .map(Option::unwrap_or_default)
        })
    }

    /// The set's manifest on the target says what the catalog said at that number of changes.
    pub fn set_written(&self, set: &str, changes: i64) -> Result<()> {
        self.db.write(Sync::Lazy, |t| {
            t.prepare_cached("DELETE FROM unwritten_set WHERE set_id = ?1 AND changes = ?2")?
                .execute(params![set, changes])?;
            Ok(())
        })
    }

    /// No generation of this manifest is on the target any more.
    pub fn manifest_removed(&self, hash: &str) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            t.prepare_cached("DELETE FROM manifest WHERE hash = ?1")?.execute([hash])?;
            Ok(())
        })
    }

    /// What a plugin stored under `key` for this target.
    pub fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.fact(&format!("plugin.{key}"))
    }

    /// Stores a plugin's fact; never a secret. Errors: `State` above 1 MiB.
    pub fn state_put(&self, key: &str, value: &[u8]) -> Result<()> {
        if value.len() > LARGEST_STATE || key.len() > 1024 {
            return Err(Error::new(Kind::State, "a plugin's state is too large")
                .on(key.chars().take(64).collect::<String>())
                .because(format!("{} bytes, at most {LARGEST_STATE}", value.len())));
        }
        self.put_fact(&format!("plugin.{key}"), value)
    }

    pub(crate) fn fact(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT value FROM fact WHERE key = ?1")?
                .query_row([key], |row| row.get(0))
                .optional()
        })
    }

    pub(crate) fn put_fact(&self, key: &str, value: &[u8]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            t.prepare_cached("INSERT OR REPLACE INTO fact (key, value) VALUES (?1, ?2)")?
                .execute(params![key, value])?;
            Ok(())
        })
    }
}
