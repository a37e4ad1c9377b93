//! The record on the target itself, so that a target can be checked and restored with no catalog.
//!
//! One file per image set in immutable generations, `offsite-manifest/<set hash>.<sequence>`: a header line with the
//! digest of the body, then the body (JSON). The highest valid one wins. A server can put anything there: sizes, paths and
//! digests are checked, and what does not hold is ignored with a notice. A manifest alone never causes a deletion, and
//! holds no secret and no absolute path.

mod body;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use offsite_plugin_api::{Entry, Expect, TargetPath};

use self::body::{
    Body, baseline_name, baseline_of, body_of, content_digest, decode, encode, place, published,
};
pub use self::body::{parse_name, set_hash};
use super::site::{Site, of_target};
use super::small::{self, Bytes};
use super::{Incomplete, names};
use crate::catalog::{Intent, IntentKind, IntentStep, Published};
use crate::chain::Span;
use crate::error::{BackendKind, Error, Kind, Result};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Baseline, Policy};

/// Bytes of one manifest at most.
const LARGEST: usize = 64 << 20;
/// Bytes of all manifests read in one run at most.
const LARGEST_TOTAL: u64 = 1 << 30;

/// What the manifests say that are newer than what the catalog holds.
#[derive(Clone, Debug, Default)]
pub struct FromManifests {
    /// By path; true only where the listing agrees ([`agrees`]).
    pub files: BTreeMap<TargetPath, Published>,
    /// Set hash, sequence, digest of the content.
    pub seen: Vec<(String, u64, [u8; 32])>,
    pub baselines: Vec<(Policy, Baseline)>,
    /// In words, for the user.
    pub notices: Vec<Notice>,
    /// Hashes of sets with a generation that is not valid.
    pub damaged: Vec<String>,
}

impl FromManifests {
    /// The spans they record, by the anchor's path on the target.
    pub fn spans(&self) -> BTreeMap<TargetPath, Span> {
        self.files.iter().filter_map(|(path, f)| Some((path.clone(), f.span?))).collect()
    }
}

/// Whether a manifest's file is the one that is listed: same size, and the same modification time where both are known, else
/// the same version. Not the version first: a target that was moved to another disk has new ones.
pub fn agrees(file: &Published, entry: &Entry) -> bool {
    let same = match (file.record.target_mtime, entry.mtime) {
        (Some(a), Some(b)) => a.ns.abs_diff(b.ns) < a.precision_ns.max(b.precision_ns).max(1),
        (then, now) => match (&file.record.target_version, &entry.version) {
            (Some(a), Some(b)) => a == b,
            _ => then.is_none() && now.is_none(),
        },
    };
    file.record.size == entry.size && same
}

/// Whether the directory of manifests is not listed wholly: what is not listed there may be there.
pub(super) fn left_out(incomplete: &Incomplete) -> bool {
    incomplete.keys().any(|dir| dir.is_root() || dir.as_bytes() == names::MANIFESTS.as_bytes())
}

/// Manifests that the catalog remembers and that are not listed any more.
pub(super) fn missing(entries: &[Entry], known: &BTreeMap<String, (u64, [u8; 32])>) -> Vec<String> {
    let listed: BTreeSet<(String, u64)> = entries.iter().filter_map(|e| parse_name(&e.path)).collect();
    let there = |hash: &String, sequence: u64| listed.contains(&(hash.clone(), sequence));
    known
        .iter()
        .filter(|(hash, (sequence, _))| !there(hash, *sequence))
        .map(|(hash, _)| hash.clone())
        .collect()
}

/// Reads the manifests that the catalog does not hold yet. `entries`: what is listed in the directory of manifests;
/// `known`: as [`crate::catalog::Catalog::manifests`] gives it.
///
/// Errors: only where the target cannot be read at all.
pub fn read_new(
    site: &Site<'_>,
    entries: &[Entry],
    known: &BTreeMap<String, (u64, [u8; 32])>,
) -> Result<FromManifests> {
    let mut generations: BTreeMap<String, Vec<(u64, &Entry)>> = BTreeMap::new();
    for entry in entries {
        if let Some((hash, sequence)) = parse_name(&entry.path)
            && known.get(&hash).is_none_or(|(seen, _)| sequence > *seen)
        {
            generations.entry(hash).or_default().push((sequence, entry));
        }
    }
    let mut found = FromManifests::default();
    let mut disputed = Vec::new();
    let mut total = 0u64;
    for (hash, mut sequences) in generations {
        sequences.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        // A hostile server could list thousands of generations of one set.
        for (sequence, entry) in sequences.into_iter().take(8) {
            total = total.saturating_add(entry.size);
            let read = if entry.size > LARGEST as u64 || total > LARGEST_TOTAL {
                Err("it is too large".to_owned())
            } else {
                match small::read(site.backend, site.call, &entry.path, LARGEST) {
                    Ok(bytes) => decode(&bytes, &hash, sequence),
                    Err(e) if of_target(&e) => return Err(e),
                    Err(e) => Err(e.to_string()),
                }
            };
            let taken = read.and_then(|body| take(&mut found, &mut disputed, &body).map(|()| body));
            match taken {
                Ok(body) => {
                    // No content has this digest: where a higher one is damaged, the set is written anew.
                    let damaged = found.damaged.contains(&hash);
                    let digest = if damaged { [0; 32] } else { content_digest(&body) };
                    found.seen.push((hash.clone(), sequence, digest));
                    break;
                }
                Err(why) => {
                    let text = format!("the manifest {} is ignored: {why}", entry.path.display());
                    found.notices.push(Notice::new(NoticeCode::Target, text));
                    found.damaged.push(hash.clone());
                }
            }
        }
    }
    for path in disputed {
        let text = format!("two manifests claim {}: neither is believed", path.display());
        found.notices.push(Notice::new(NoticeCode::Target, text));
        found.files.remove(&path);
    }
    Ok(found)
}

fn take(found: &mut FromManifests, disputed: &mut Vec<TargetPath>, body: &Body) -> Result<(), String> {
    let files: Vec<Published> = body
        .images
        .iter()
        .map(|image| published(&body.set, image))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect();
    for file in files {
        let path = file.path.clone();
        if found.files.insert(path.clone(), file).is_some() {
            disputed.push(path);
        }
    }
    if let (Some(policy), Some(baseline)) = (baseline_of(&body.set), &body.baseline) {
        found.baselines.push((policy, baseline.clone()));
    }
    Ok(())
}

/// Writes the manifests of every set that changed since its manifest was written (or whose manifest was lost), and of
/// baselines that the target does not have yet. Gives how many were written.
pub fn write_behind(site: &Site<'_>) -> Result<usize> {
    let mut written = 0;
    for (set, changes) in site.catalog.unwritten_sets()? {
        written += usize::from(write_at(site, &set, changes)?);
    }
    let known = site.catalog.manifests()?;
    for policy in [Policy::NewImages, Policy::NewSets] {
        let lost = known.get(baseline_name(policy)).is_none_or(|(_, digest)| *digest == [0; 32]);
        if lost && let Some(baseline) = site.catalog.baseline(policy)? {
            written += usize::from(write_baseline(site, policy, &baseline)?);
        }
    }
    Ok(written)
}

/// Brings one set's manifest up to what the catalog says: a new generation beside the old, or, when nothing is left of
/// the set, none at all. False when there was nothing to do.
pub fn write_set(site: &Site<'_>, set: &str) -> Result<bool> {
    write_at(site, set, site.catalog.unwritten_changes(set)?)
}

fn write_at(site: &Site<'_>, set: &str, changes: i64) -> Result<bool> {
    let files = site.catalog.published_of_set(set)?;
    let hash = set_hash(set);
    if files.is_empty() {
        let removed = remove_generations(site, &hash)?;
        site.catalog.manifest_removed(&hash)?;
        site.catalog.set_written(set, changes)?;
        return Ok(removed);
    }
    write(site, set, changes, &hash, body_of(set, files))
}

/// Keeps a policy's baseline on the target, so that it survives the catalog.
pub fn write_baseline(site: &Site<'_>, policy: Policy, baseline: &Baseline) -> Result<bool> {
    let name = baseline_name(policy);
    let body = Body { set: name.to_owned(), baseline: Some(baseline.clone()), ..Body::default() };
    write(site, name, 0, name, body)
}

fn write(site: &Site<'_>, set: &str, changes: i64, hash: &str, mut body: Body) -> Result<bool> {
    let digest = content_digest(&body);
    let known = site.catalog.manifest_of(hash)?;
    if known.is_some_and(|(_, written)| written == digest) {
        site.catalog.set_written(set, changes)?;
        return Ok(false);
    }
    let mut sequence = known.map_or(1, |(sequence, _)| sequence + 1);
    // Names above the one we know are what a kill left, or are damaged: generations are never overwritten.
    for _ in 0..64 {
        if site.file(&place(hash, sequence)?)?.is_none() {
            break;
        }
        sequence += 1;
    }
    body.sequence = sequence;
    let path = place(hash, sequence)?;
    let bytes = Arc::new(Bytes(encode(&body)));
    if bytes.0.len() > LARGEST {
        return Err(Error::new(Kind::State, "the manifest of a set is too large").on(set));
    }
    let staged = small::stage(site.backend, site.call, &path, &bytes, site.installation)?;
    let size = bytes.0.len() as u64;
    let step = IntentStep::Manifest { path: path.clone(), hash: hash.to_owned(), sequence, digest, size };
    let intent = site.catalog.begin_intent(IntentKind::Manifest, set, &[step])?;
    match small::publish(site.backend, site.call, &path, &bytes, staged.token.clone(), Expect::Absent) {
        Ok(entry) if entry.size == size => {
            site.catalog.manifest_done(intent, 0, Some((set, changes)), hash, sequence, digest)?;
        }
        Ok(entry) => {
            site.catalog.close_intent(intent)?;
            return Err(Error::new(Kind::Verify, "a manifest was written with the wrong size")
                .on(path.display())
                .because(format!("{} bytes instead of {size}", entry.size)));
        }
        Err(error) => {
            // Best effort: whatever stays is settled and swept by the next run.
            if let Some(open) = site.catalog.intents()?.into_iter().find(|i| i.id == intent) {
                let _ = settle(site, &open);
            }
            let _ = site.backend.discard(site.call, &staged.token);
            return Err(error);
        }
    }
    // One older generation stays, should the new one turn out to be unreadable.
    if let Some(old) = sequence.checked_sub(2).filter(|s| *s > 0) {
        delete(site, &place(hash, old)?)?;
    }
    Ok(true)
}

fn delete(site: &Site<'_>, path: &TargetPath) -> Result<bool> {
    match site.backend.delete(site.call, path, &Expect::Any) {
        Ok(()) => Ok(true),
        Err(e) if *e.kind() == BackendKind::NotFound => Ok(false),
        // A server that locks everything keeps old generations: they harm nobody.
        Err(e) if *e.kind() == BackendKind::Retained => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The highest goes last: what a kill leaves is a record of files that are gone, which nothing acts upon.
fn remove_generations(site: &Site<'_>, hash: &str) -> Result<bool> {
    let Some((highest, _)) = site.catalog.manifest_of(hash)? else { return Ok(false) };
    let mut removed = false;
    for sequence in [highest.saturating_sub(1), highest].into_iter().filter(|s| *s > 0) {
        removed |= delete(site, &place(hash, sequence)?)?;
    }
    Ok(removed)
}

/// Generations that a higher valid one made superfluous, beyond the one that is kept: deletes them. `entries`: what is
/// listed in the directory of manifests.
pub fn prune(site: &Site<'_>, entries: &[Entry]) -> Result<usize> {
    let known = site.catalog.manifests()?;
    let mut pruned = 0;
    for entry in entries {
        if let Some((hash, sequence)) = parse_name(&entry.path)
            && known.get(&hash).is_some_and(|(highest, _)| sequence + 1 < *highest)
        {
            pruned += usize::from(delete(site, &entry.path)?);
        }
    }
    Ok(pruned)
}

/// An interrupted manifest: there or not.
pub(super) fn settle(site: &Site<'_>, intent: &Intent) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (number, step) in &intent.steps {
        let IntentStep::Manifest { path, hash, sequence, digest, size } = step else { continue };
        match site.file(path)? {
            Some(entry) if entry.size == *size => {
                // The set stays marked as behind: the next comparison finds that it is not.
                site.catalog.manifest_done(intent.id, *number, None, hash, *sequence, *digest)?;
                said.push(format!("the manifest {} is written", path.display()));
            }
            _ => {
                site.catalog.drop_step(intent.id, *number, None)?;
                said.push(format!("the manifest {} was not written; it is written again", path.display()));
            }
        }
    }
    Ok(said)
}
