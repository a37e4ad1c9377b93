//! What is known of consolidations beyond names and manifests: what the user accepted, bound to the file as it was then,
//! and what an image took in at the source, bound to the content that was judged.

use std::collections::BTreeMap;

use offsite_plugin_api::{TargetPath, Timestamp};
use rusqlite::params;

use super::database::Sync;
use super::published::{damaged, hash_at, path_at};
use super::{Catalog, Was};
use crate::error::Result;

/// What the user accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The file on the target as it was; `None` where an earlier version did not note it.
    pub was: Option<Was>,
    /// The content that was recorded of it.
    pub blake3: Option<[u8; 32]>,
}

/// An image that another one took in at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absorption {
    /// The anchor on the target of the image that took it in.
    pub holder: TargetPath,
    /// BLAKE3 of the holder's content that was judged.
    pub blake3: [u8; 32],
    pub proved: bool,
}

impl Catalog {
    /// Images whose span the user accepted.
    pub fn accepted(&self) -> Result<BTreeMap<TargetPath, Accepted>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT image, size, mtime, mtime_precision, version, blake3 FROM accepted")?
                .query_map([], |row| {
                    let (mtime, precision): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
                    let mtime = mtime.map(|ns| Timestamp { ns, precision_ns: precision.unwrap_or(1) as u64 });
                    let version: Option<String> = row.get(4)?;
                    let size: Option<i64> = row.get(1)?;
                    let was = size.map(|size| Was { size: size as u64, mtime, version });
                    Ok((path_at(row, 0)?, Accepted { was, blake3: hash_at(row, 5)? }))
                })?
                .collect()
        })
    }

    /// Accepts these images' spans as the images are now; what was accepted of them before ends.
    pub fn accept(&self, images: &[(TargetPath, Accepted)]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for (image, accepted) in images {
                let was = accepted.was.as_ref();
                let mtime = was.and_then(|w| w.mtime);
                t.prepare_cached(
                    "INSERT OR REPLACE INTO accepted (image, size, mtime, mtime_precision, version, blake3) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    image.as_bytes(),
                    was.map(|w| w.size as i64),
                    mtime.map(|m| m.ns),
                    mtime.map(|m| m.precision_ns as i64),
                    was.and_then(|w| w.version.as_deref()),
                    accepted.blake3.as_ref().map(|h| h.as_slice()),
                ])?;
                // What it may have taken in at the source, it has.
                t.prepare_cached("UPDATE absorbed SET proved = 1 WHERE holder = ?1 AND blake3 IS ?2")?
                    .execute(params![image.as_bytes(), accepted.blake3.as_ref().map(|h| h.as_slice())])?;
            }
            Ok(())
        })
    }

    /// These images are not what was accepted any more.
    pub fn no_longer_accepted(&self, images: &[TargetPath]) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for image in images {
                t.prepare_cached("DELETE FROM accepted WHERE image = ?1")?.execute([image.as_bytes()])?;
            }
            Ok(())
        })
    }

    /// What images took in at the source, by the anchor of what was taken in.
    pub fn absorbed(&self) -> Result<BTreeMap<TargetPath, Absorption>> {
        self.db.read(|c| {
            c.prepare_cached("SELECT path, holder, blake3, proved FROM absorbed")?
                .query_map([], |row| {
                    let blake3 = hash_at(row, 2)?.ok_or_else(|| damaged(2, "no digest"))?;
                    let proved = row.get::<_, i64>(3)? != 0;
                    Ok((path_at(row, 0)?, Absorption { holder: path_at(row, 1)?, blake3, proved }))
                })?
                .collect()
        })
    }

    /// Notes what an image takes in, before it is published: it holds as soon as that content is recorded.
    pub fn absorbs(&self, images: &[TargetPath], by: &Absorption) -> Result<()> {
        self.db.write(Sync::Full, |t| {
            for image in images {
                t.prepare_cached(
                    "INSERT OR REPLACE INTO absorbed (path, holder, blake3, proved) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    image.as_bytes(),
                    by.holder.as_bytes(),
                    by.blake3.as_slice(),
                    i64::from(by.proved),
                ])?;
            }
            Ok(())
        })
    }
}
