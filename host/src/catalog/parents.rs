//! What each image was published upon: the parent's anchor and the digest that its record had then.
//!
//! It is set in the transaction that records the image, from the parent's record, which is there by then: an image becomes
//! visible after its parent. An image whose content stays keeps what it was first published upon, however often it is compared
//! or sent again; otherwise a parent that was put in place of the right one would become the right one by a `chmod`.

use offsite_plugin_api::TargetPath;
use rusqlite::{Connection, OptionalExtension, params};

use super::Catalog;
use super::database::Sync;
use super::published::{Published, hash_at};
use crate::error::Result;
use crate::target::ParentRecord;

/// The key of the fact that old records got their parents.
const LEARNED: &str = "host.parents";

/// What a publish says of the images around it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Upon {
    /// The parent's anchor on the target; `None` for a base, and for a file that is no anchor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TargetPath>,
    /// It replaces an image that holds the same restore point: the source merged others into it. What builds on the old
    /// content builds on the new one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merged: bool,
    /// With `merged`, of a base that took in the images right above it: the last of them, on the target. The base holds that
    /// one's restore point then: what builds on that one builds on the base, and what built on the base's old content
    /// builds on nothing that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_in: Option<TargetPath>,
}

impl Upon {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The record's parent, and the links of what builds on it: before the record itself is written.
pub(super) fn resolve(
    t: &Connection,
    file: &Published,
    upon: &Upon,
) -> rusqlite::Result<Option<Box<ParentRecord>>> {
    let old = t
        .prepare_cached("SELECT blake3, parent, parent_blake3 FROM published WHERE path = ?1")?
        .query_row([file.path.as_bytes()], |row| Ok((hash_at(row, 0)?, super::published::parent_at(row, 1)?)))
        .optional()?;
    let content = file.record.blake3;
    if let Some((then, parent)) = old {
        if then.is_some() && then == content && parent.is_some() {
            return Ok(parent);
        }
        if let (true, Some(then), Some(now)) = (upon.merged, then, content) {
            let (now, path, set) = (now.as_slice(), file.path.as_bytes(), &file.record.set);
            match &upon.took_in {
                None => t
                    .prepare_cached(
                        "UPDATE published SET parent_blake3 = ?1 WHERE set_id = ?2 AND parent = ?3 AND parent_blake3 = ?4",
                    )?
                    .execute(params![now, set, path, then.as_slice()])?,
                Some(last) => t
                    .prepare_cached(
                        "UPDATE published SET parent = ?3, parent_blake3 = ?1 WHERE set_id = ?2 AND parent = ?4 \
                         AND parent_blake3 = (SELECT blake3 FROM published WHERE path = ?4)",
                    )?
                    .execute(params![now, set, path, last.as_bytes()])?,
            };
        }
    }
    let Some(path) = &upon.parent else { return Ok(file.record.parent.clone()) };
    let digest = t
        .prepare_cached("SELECT blake3 FROM published WHERE path = ?1")?
        .query_row([path.as_bytes()], |row| hash_at(row, 0))
        .optional()?
        .flatten();
    Ok(digest.map(|blake3| Box::new(ParentRecord { path: path.clone(), blake3 })))
}

/// Where the image has no parent yet and the parent's record has a digest. Its set's manifest says so with the set's next
/// change: 100,000 are not written anew for this.
fn link(t: &Connection, image: &TargetPath, parent: &TargetPath) -> rusqlite::Result<()> {
    t.prepare_cached(
        "UPDATE published SET parent = ?2, parent_blake3 = p.blake3 FROM (SELECT blake3 FROM published WHERE path = ?2) AS p \
         WHERE path = ?1 AND parent IS NULL AND p.blake3 IS NOT NULL",
    )?
    .execute([image.as_bytes(), parent.as_bytes()])?;
    Ok(())
}

impl Catalog {
    /// Gives images that have no parent yet the one named, with the digest that its record has: (image, parent).
    pub fn link(&self, links: &[(TargetPath, TargetPath)]) -> Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        self.db.write(Sync::Full, |t| links.iter().try_for_each(|(image, parent)| link(t, image, parent)))
    }

    /// The user accepts what lies there: these images build on these parents as they are recorded now, whatever they were
    /// published upon.
    pub fn relink(&self, links: &[(TargetPath, TargetPath)]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for (image, parent) in links {
                t.prepare_cached("UPDATE published SET parent = NULL, parent_blake3 = NULL WHERE path = ?1")?
                    .execute([image.as_bytes()])?;
                link(t, image, parent)?;
            }
            Ok(())
        })
    }

    /// Whether the records of older versions got their parents ([`Catalog::learn_parents`]).
    pub fn parents_learned(&self) -> Result<bool> {
        Ok(self.fact(LEARNED)?.is_some())
    }

    /// Once, after the upgrade from a version that recorded none: all links and that it was done, in one transaction.
    pub fn learn_parents(&self, links: &[(TargetPath, TargetPath)]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for (image, parent) in links {
                link(t, image, parent)?;
            }
            t.prepare_cached("INSERT OR REPLACE INTO fact (key, value) VALUES (?1, ?2)")?
                .execute(params![LEARNED, b"1"])?;
            Ok(())
        })
    }
}
