//! The record on the target itself, so that a target can be checked and restored with no catalog.
//!
//! One file per image set (of other files, per folder; in pieces where that is too much for one file) in immutable
//! generations, `offsite-manifest/<hash>.<sequence>`: a header line with the digest of the body and its signature, then the
//! body (JSON). The highest valid one wins. A server can put anything there: sizes, paths and
//! digests are checked, and what does not hold is ignored with a notice. What the catalog knows beats what a manifest says; of
//! what it does not know, only a manifest that this target's key signed is believed, any other makes it known and
//! unproven. A manifest alone never causes a deletion, and holds no secret and no absolute path.

mod body;
pub mod key;
pub mod pieces;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use offsite_plugin_api::{Entry, Expect, TargetPath};

pub use self::body::Word;
use self::body::{
    Body, baseline_name, baseline_of, content_digest, decode, encode, images_of, place, published,
};
pub use self::body::{parse_name, set_hash};
pub use self::key::Key;
use super::site::{Site, of_target};
use super::small::{self, Bytes};
use super::{Incomplete, names};
use crate::catalog::{Intent, IntentKind, IntentStep, Published};
use crate::error::{BackendKind, Error, Kind, Result};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Baseline, Policy};

/// Bytes of one manifest at most.
const LARGEST: usize = 64 << 20;
/// What is more than this is written in pieces. As much as JSON may add to it still fits.
pub const PIECE: usize = 16 << 20;
/// Manifests that are signed in one run without having changed, and how long that may take.
const SIGNED_IN_PASSING: usize = 64;
const SIGNING: Duration = Duration::from_secs(5);
/// Bytes of all manifests read in one run at most.
const LARGEST_TOTAL: u64 = 1 << 30;

/// What the manifests say that are newer than what the catalog holds.
#[derive(Clone, Debug, Default)]
pub struct FromManifests {
    /// By path; true only where the listing agrees ([`agrees`]).
    pub files: BTreeMap<TargetPath, Published>,
    /// Of these, what only a manifest says that this target's key did not sign.
    pub unproven: BTreeSet<TargetPath>,
    /// Hash of the unit, sequence, digest of the content.
    pub seen: Vec<(String, u64, [u8; 32])>,
    /// Hashes of those of them that this target's key signed.
    pub signed: BTreeSet<String>,
    pub baselines: Vec<(Policy, Baseline)>,
    /// In words, for the user.
    pub notices: Vec<Notice>,
    /// Hashes of sets with a generation that is not valid.
    pub damaged: Vec<String>,
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
                    Ok(bytes) => decode(&bytes, &hash, sequence, site.catalog.signer()),
                    Err(e) if of_target(&e) => return Err(e),
                    Err(e) => Err(e.to_string()),
                }
            };
            let taken = read
                .and_then(|(body, word)| take(&mut found, &mut disputed, &body, word).map(|()| (body, word)));
            match taken {
                Ok((body, word)) => {
                    // No content has this digest: where a higher one is damaged, the set is written anew. So it is where
                    // somebody else wrote a generation of a set that is known here.
                    if word == Word::Unproven && known.contains_key(&hash) {
                        found.damaged.push(hash.clone());
                    }
                    if word == Word::Signed {
                        found.signed.insert(hash.clone());
                    }
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
    disputed.sort_unstable();
    disputed.dedup();
    for path in disputed {
        let text = format!("two manifests claim {}: neither is believed", path.display());
        found.notices.push(Notice::new(NoticeCode::Target, text));
        found.files.remove(&path);
    }
    Ok(found)
}

fn take(
    found: &mut FromManifests,
    disputed: &mut Vec<TargetPath>,
    body: &Body,
    word: Word,
) -> Result<(), String> {
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
        let unproven = word == Word::Unproven;
        if let Some(other) = found.files.get(&path) {
            let other_unproven = found.unproven.contains(&path);
            // One that is signed beats one that is not. The same said twice is no dispute: a kill while a set was being
            // split leaves that.
            if *other == file || (unproven && !other_unproven) {
                continue;
            }
            if unproven == other_unproven {
                disputed.push(path);
                continue;
            }
        }
        if unproven {
            found.unproven.insert(path.clone());
        } else {
            found.unproven.remove(&path);
        }
        found.files.insert(path, file);
    }
    if let (Some(policy), Some(baseline)) = (baseline_of(&body.set), &body.baseline) {
        found.baselines.push((policy, baseline.clone()));
    }
    Ok(())
}

/// What [`write_behind`] did.
#[derive(Debug, Default)]
pub struct Written {
    /// Manifests that were written or removed.
    pub written: usize,
    /// Units whose manifest could not be written, in words, and why: the next run tries again.
    pub failed: Vec<(String, Error)>,
}

/// Writes the manifests of every set that changed since its manifest was written (or whose manifest was lost), and of
/// baselines that the target does not have yet; signs some of those that are not. One that fails keeps no other from
/// being written. Errors: what says something of the whole target.
pub fn write_behind(site: &Site<'_>) -> Result<Written> {
    let mut done = Written::default();
    let mut tried = BTreeSet::new();
    // Writing a folder's other files may leave the manifest behind that held them all.
    loop {
        let mut behind = site.catalog.unwritten_sets()?;
        behind.retain(|(unit, _)| tried.insert(unit.clone()));
        if behind.is_empty() {
            break;
        }
        for (unit, changes) in behind {
            done.take(&unit, write_at(site, &unit, changes, PIECE))?;
        }
    }
    let known = site.catalog.manifests()?;
    for policy in [Policy::NewImages, Policy::NewSets] {
        let name = baseline_name(policy);
        let lost = known.get(name).is_none_or(|(_, digest)| *digest == [0; 32]);
        if (lost || !signed(site, name)?)
            && let Some(baseline) = site.catalog.baseline(policy)?
        {
            done.take(name, write_baseline(site, policy, &baseline))?;
        }
    }
    sign_in_passing(site, &mut done)?;
    Ok(done)
}

impl Written {
    fn take(&mut self, unit: &str, result: Result<bool>) -> Result<()> {
        match result {
            Ok(written) => self.written += usize::from(written),
            Err(error) if general(&error) => return Err(error),
            Err(error) => self.failed.push((pieces::show(unit), error)),
        }
        Ok(())
    }
}

/// Whether no other manifest could be written either.
fn general(error: &Error) -> bool {
    use BackendKind::{NoSpace, Quota, ReadOnly};
    match &error.kind {
        Kind::Verify => false,
        Kind::Backend(NoSpace | Quota | ReadOnly) => true,
        _ => of_target(error),
    }
}

/// Whether the generation that is written is signed with this target's key, or nobody here has one.
fn signed(site: &Site<'_>, hash: &str) -> Result<bool> {
    let Some(key) = site.catalog.signer() else { return Ok(true) };
    Ok(site.catalog.manifest_key(hash)?.as_deref() == Some(key.id()))
}

/// Manifests of versions that did not sign, or with a key that was lost, and that agree with the catalog: a bounded number in
/// each run.
fn sign_in_passing(site: &Site<'_>, done: &mut Written) -> Result<()> {
    let Some(key) = site.catalog.signer() else { return Ok(()) };
    let unsigned = site.catalog.manifests_not_signed_with(key.id())?;
    if unsigned.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let units = site.catalog.published_units()?;
    for unit in units.iter().filter(|unit| unsigned.contains(&set_hash(unit))).take(SIGNED_IN_PASSING) {
        if begun.elapsed() > SIGNING {
            break;
        }
        done.take(unit, write_set(site, unit))?;
    }
    Ok(())
}

/// Brings one unit's manifest up to what the catalog says: a new generation beside the old, or, when nothing is left of
/// it, none at all. False when there was nothing to do.
pub fn write_set(site: &Site<'_>, unit: &str) -> Result<bool> {
    write_at(site, unit, site.catalog.unwritten_changes(unit)?, PIECE)
}

/// `limit`: bytes of one piece.
pub fn write_at(site: &Site<'_>, unit: &str, changes: i64, limit: usize) -> Result<bool> {
    let files = site.catalog.published_of_unit(unit)?;
    let mut written = false;
    let mut number = 0;
    if !files.is_empty() {
        let images = images_of(files);
        for body in pieces::split(unit, images, limit) {
            let hash = set_hash(&body.set);
            let first = number == 0
                && pieces::folder_of(unit).is_some()
                && site.catalog.manifest_of(&hash)?.is_none();
            written |= write(site, &hash, body)?;
            if first && site.catalog.manifest_of(&set_hash(""))?.is_some() {
                // Versions before this one had all other files in one.
                site.catalog.manifests_behind(&[String::new()])?;
            }
            number += 1;
        }
    }
    // Pieces that are not needed any more.
    loop {
        let hash = set_hash(&pieces::piece(unit, number));
        if site.catalog.manifest_of(&hash)?.is_none() {
            break;
        }
        written |= remove_generations(site, &hash)?;
        site.catalog.manifest_removed(&hash)?;
        number += 1;
    }
    site.catalog.set_written(unit, changes)?;
    Ok(written)
}

/// Keeps a policy's baseline on the target, so that it survives the catalog.
pub fn write_baseline(site: &Site<'_>, policy: Policy, baseline: &Baseline) -> Result<bool> {
    let name = baseline_name(policy);
    let body = Body { set: name.to_owned(), baseline: Some(baseline.clone()), ..Body::default() };
    write(site, name, body)
}

fn write(site: &Site<'_>, hash: &str, mut body: Body) -> Result<bool> {
    let digest = content_digest(&body);
    let known = site.catalog.manifest_of(hash)?;
    if known.is_some_and(|(_, written)| written == digest) && signed(site, hash)? {
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
    let key = site.catalog.signer();
    let bytes = Arc::new(Bytes(encode(&body, key)));
    if bytes.0.len() > LARGEST {
        return Err(Error::new(Kind::Verify, "the manifest of a single image is too large")
            .on(pieces::show(&body.set))
            .because(format!("{} bytes, at most {LARGEST}", bytes.0.len()))
            .hint("the image is replicated; what this target says of it is lost with the local state"));
    }
    let staged = small::stage(site.backend, site.call, &path, &bytes, site.installation)?;
    let size = bytes.0.len() as u64;
    let key = key.map(|k| k.id().to_owned());
    let step = IntentStep::Manifest {
        path: path.clone(),
        hash: hash.to_owned(),
        sequence,
        digest,
        size,
        key: key.clone(),
    };
    let intent = site.catalog.begin_intent(IntentKind::Manifest, &body.set, &[step])?;
    match small::publish(site.backend, site.call, &path, &bytes, staged.token.clone(), Expect::Absent) {
        Ok(entry) if entry.size == size => {
            site.catalog.manifest_done(intent, 0, hash, sequence, digest, key.as_deref())?;
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
        let IntentStep::Manifest { path, hash, sequence, digest, size, key } = step else { continue };
        match site.file(path)? {
            Some(entry) if entry.size == *size => {
                // The set stays marked as behind: the next comparison finds that it is not.
                site.catalog.manifest_done(intent.id, *number, hash, *sequence, *digest, key.as_deref())?;
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
