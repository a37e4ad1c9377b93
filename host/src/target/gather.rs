//! Listing, catalog and manifests joined into the view that the planner sees.
//!
//! A file is known by its catalog record; without one by its manifest, which holds where size and time agree with the
//! listing; without both it is unrecorded, and only a read-back makes it known. Surveying changes nothing anywhere: what a run should remember comes
//! back as [`Learned`]. What it all proves is judged by `evidence`.

use std::collections::{BTreeMap, BTreeSet};

use offsite_plugin_api::{Entry, TargetPath};

use super::manifest::{self, FromManifests};
use super::site::{Site, of_target};
use super::{AbsorbedBy, Files, Gathered, Listing, Recorded, TargetView, evidence, intent, listing, small};
use crate::catalog::{Absorption, Accepted, Catalog, Published, Was};
use crate::chain::Span;
use crate::error::{Error, Kind, Result};
use crate::format::{self, Link, Recognised, signature};
use crate::plan::{Baseline, Policy};

/// What a run should remember of what was gathered; see [`remember`].
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Files that a manifest vouches for and the catalog did not know.
    pub files: Vec<Published>,
    seen: Vec<(String, u64, [u8; 32])>,
    spans: BTreeMap<TargetPath, Span>,
    baselines: Vec<(Policy, Baseline)>,
    /// Accepted by a version that did not note as what.
    accepted: Vec<(TargetPath, Accepted)>,
    /// Not what was accepted any more.
    not_accepted: Vec<TargetPath>,
    behind: Vec<String>,
}

/// A target, looked at.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub view: TargetView,
    /// What beside the images was listed; its `files` went into the view.
    pub listing: Listing,
    pub learned: Learned,
    /// For the user: ignored manifests, nested targets, strange entries.
    pub notices: Vec<String>,
}

/// Lists the target and joins the listing with what is known of it. Open intents should be settled before (a run), or are
/// told in `view.open` (a plan).
///
/// Errors: what kept it from listing, or from reading what it must read.
pub fn survey(site: &Site<'_>) -> Result<Survey> {
    // What is recorded is read while the target lists.
    let catalog = site.catalog;
    let (listing, records) = std::thread::scope(|scope| {
        let records = scope.spawn(|| catalog.published());
        let listing = listing::list(site.backend, site.call);
        (listing, records.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (mut listing, mut records) = (listing?, records?);
    let known = site.catalog.manifests()?;
    let mut from = manifest::read_new(site, &listing.manifests, &known)?;
    let mut notices = std::mem::take(&mut from.notices);
    tell(&listing, &mut notices);

    let mut learned = Learned::default();
    let mut spans = site.catalog.spans()?;
    for (path, file) in &from.files {
        let entry = listing.files.get(path).map(|listed| &listed.entry);
        let agreed = entry.filter(|entry| manifest::agrees(file, entry));
        // A manifest that another machine wrote (it consolidated on the target) knows spans that this catalog does not. Of
        // a file that is as this catalog recorded it, it knows nothing better: that one was sent from here.
        let known =
            |entry: &Entry| records.get(path).is_some_and(|r| r.source_inode != 0 && !r.touched(entry));
        if let Some(span) = file.span
            && agreed.is_some_and(|entry| !known(entry))
        {
            spans.insert(path.clone(), span);
            learned.spans.insert(path.clone(), span);
        }
        if records.contains_key(path) {
            continue;
        }
        // What is gone or changed since is a record too: it shows what happened to the target meanwhile.
        let mut file = file.clone();
        if let Some(entry) = agreed {
            file.record.target_version.clone_from(&entry.version);
            file.record.target_mtime = entry.mtime;
        }
        records.insert(path.clone(), Box::new(file.record.clone()));
        learned.files.push(file);
    }
    let (open, sets) = intent::open_intents(site.catalog)?;
    let files = std::mem::take(&mut listing.files);
    let headers = headers(site, &files, &records)?;
    let bad = no_images(site, &files, &records)?;
    let accepted = still_accepted(site.catalog, &files, &records, &mut learned)?;
    let absorbed = absorbed(site.catalog, &files, &records)?;
    let gathered = Gathered { files, records, headers, spans, accepted, open, bad, absorbed };
    let mut view = evidence::view(gathered);
    view.in_transition.extend(sets);
    from.damaged.extend(manifest::missing(&listing.manifests, &known));
    learn(&mut learned, from, &known, site.catalog)?;
    Ok(Survey { view, listing, learned, notices })
}

/// Reads back the headers that say what names and records do not.
fn headers(
    site: &Site<'_>,
    files: &Files,
    records: &BTreeMap<TargetPath, Box<Recorded>>,
) -> Result<BTreeMap<TargetPath, Recognised>> {
    let mut found = BTreeMap::new();
    for path in evidence::headers_to_read(files, records) {
        let entry = &files[&path].entry;
        let recognised = format::recognise(&entry.path, entry.size, |most| {
            match small::read_head(site.backend, site.call, entry, most as u64) {
                // Gone since the listing, locked, damaged, not to be read: nothing is known of it.
                Err(e) if !of_target(&e) => Ok(Vec::new()),
                other => other,
            }
        })?;
        if let Some(recognised) = recognised {
            found.insert(entry.path.clone(), recognised);
        }
    }
    Ok(found)
}

/// Why changed files cannot be what their names say: those of formats that are known by name have their first bytes read
/// back. What cannot be read says nothing.
fn no_images(
    site: &Site<'_>,
    files: &Files,
    records: &BTreeMap<TargetPath, Box<Recorded>>,
) -> Result<BTreeMap<TargetPath, String>> {
    let mut bad = BTreeMap::new();
    for path in evidence::heads_to_read(files, records) {
        let (entry, recorded) = (&files[&path].entry, &records[&path]);
        let Some(recognised) = format::recognise_name(&path).or_else(|| recorded.recognised.clone()) else {
            continue;
        };
        let head = match small::read_head(site.backend, site.call, entry, signature::HEAD as u64) {
            Err(e) if !of_target(&e) => continue,
            other => other?,
        };
        let why =
            signature::why_no_image(&path, &recognised, entry.size, Some(&head), recorded.head.as_ref());
        if let Some(why) = why {
            bad.insert(path, why.to_owned());
        }
    }
    Ok(bad)
}

/// What the user accepted, as far as it is still what he accepted.
fn still_accepted(
    catalog: &Catalog,
    files: &Files,
    records: &BTreeMap<TargetPath, Box<Recorded>>,
    learned: &mut Learned,
) -> Result<Vec<TargetPath>> {
    let mut still = Vec::new();
    for (image, accepted) in catalog.accepted()? {
        let Some(entry) = files.get(&image).map(|f| &f.entry) else { continue };
        let recorded = records.get(&image).and_then(|r| r.blake3);
        match &accepted.was {
            Some(was) if was.still(entry) && accepted.blake3 == recorded => still.push(image),
            Some(_) => learned.not_accepted.push(image),
            None => {
                let now = Accepted { was: Some(Was::of(entry)), blake3: recorded };
                learned.accepted.push((image.clone(), now));
                still.push(image);
            }
        }
    }
    Ok(still)
}

/// What images took in at the source, as far as they are still what was judged then.
fn absorbed(
    catalog: &Catalog,
    files: &Files,
    records: &BTreeMap<TargetPath, Box<Recorded>>,
) -> Result<BTreeMap<TargetPath, AbsorbedBy>> {
    let as_judged = |by: &Absorption| {
        let there = files.get(&by.holder).zip(records.get(&by.holder));
        there.is_some_and(|(file, record)| record.blake3 == Some(by.blake3) && !record.touched(&file.entry))
    };
    let all = catalog.absorbed()?.into_iter().filter(|(_, by)| as_judged(by));
    Ok(all.map(|(path, by)| (path, AbsorbedBy { holder: by.holder, proved: by.proved })).collect())
}

/// Accepts what images changed at the source may have taken in, because the user's options say so. Whether there was any.
pub fn accept_changed(site: &Site<'_>, view: &TargetView) -> Result<bool> {
    let holders: BTreeSet<TargetPath> =
        view.absorbed.values().filter(|by| !by.proved).map(|by| by.holder.clone()).collect();
    accept_all(site, view, &holders.into_iter().collect::<Vec<_>>())
}

/// Accepts the unproven spans of these images (of all that have one when `images` is empty). Gives those accepted.
///
/// Errors: `Usage` for an image that has no unproven span.
pub fn accept(site: &Site<'_>, images: &[TargetPath]) -> Result<Vec<TargetPath>> {
    let survey = survey(site)?;
    let unproven = unproven(&survey.view);
    if let Some(other) = images.iter().find(|image| !unproven.contains(*image)) {
        return Err(Error::new(Kind::Usage, "this image has no unproven consolidation")
            .on(other.display())
            .hint("'offsite chains --target' and 'offsite plan' show the images that have one"));
    }
    let accepted: Vec<TargetPath> =
        if images.is_empty() { unproven.into_iter().collect() } else { images.to_vec() };
    remember(site.catalog, &survey.learned)?;
    accept_all(site, &survey.view, &accepted)?;
    Ok(accepted)
}

fn accept_all(site: &Site<'_>, view: &TargetView, accepted: &[TargetPath]) -> Result<bool> {
    let (spans, sets) = spans_of_accepted(view, accepted);
    if !spans.is_empty() {
        site.catalog.manifests_seen(&[], &spans)?;
        site.catalog.manifests_behind(&sets)?;
    }
    let as_they_are = accepted.iter().map(|image| {
        let was = view.files.get(image).map(|f| Was::of(&f.entry));
        (image.clone(), Accepted { was, blake3: view.files.recorded(image).and_then(|r| r.blake3) })
    });
    site.catalog.accept(&as_they_are.collect::<Vec<_>>())?;
    Ok(!accepted.is_empty())
}

/// The runs of numbers that images hold if they took in at the source what they are said to, and the sets of those: without
/// them nothing would say so once the others are gone.
fn spans_of_accepted(
    view: &TargetView,
    accepted: &[TargetPath],
) -> (BTreeMap<TargetPath, Span>, Vec<String>) {
    let number = |path: &TargetPath| match view.files.get(path)?.recognised()?.link {
        Link::Number { number, .. } => Some(number),
        _ => None,
    };
    let (mut spans, mut sets) = (BTreeMap::new(), Vec::new());
    for holder in accepted {
        let held = view.absorbed.iter().filter(|(_, by)| by.holder == *holder).map(|(path, _)| path);
        let first = held.filter_map(|p| view.spans.get(p).map(|s| s.first).or_else(|| number(p))).min();
        if let (Some(first), Some(last)) = (first, number(holder))
            && first < last
        {
            spans.insert(holder.clone(), Span { first, last });
            sets.extend(view.files.recorded(holder).map(|r| r.set.clone()));
        }
    }
    (spans, sets)
}

/// Anchors of images that wait for the user's word: consolidated on the target, or changed at the source.
fn unproven(view: &TargetView) -> BTreeSet<TargetPath> {
    let images = view.chains().sets.iter().flat_map(|set| &set.images);
    let consolidated = images.filter(|image| image.unproven_itself()).map(|image| image.id.clone());
    let changed = view.absorbed.values().filter(|by| !by.proved).map(|by| by.holder.clone());
    consolidated.chain(changed).collect()
}

fn tell(listing: &Listing, notices: &mut Vec<String>) {
    for dir in &listing.nested {
        notices.push(format!("{} is another target: nothing in it is looked at", dir.display()));
    }
    for path in listing.strange.iter().take(20) {
        notices.push(format!("{} is neither file nor directory: it is left alone", path.display()));
    }
}

/// A damaged or lost manifest of a set that the catalog knows is written anew.
fn learn(
    learned: &mut Learned,
    from: FromManifests,
    known: &BTreeMap<String, (u64, [u8; 32])>,
    catalog: &Catalog,
) -> Result<()> {
    if !from.damaged.is_empty() {
        let sets = catalog.published_sets()?;
        learned.behind.extend(sets.into_iter().filter(|s| from.damaged.contains(&manifest::set_hash(s))));
    }
    learned.seen = from.seen;
    for hash in from.damaged {
        if let Some((sequence, _)) = known.get(&hash)
            && !learned.seen.iter().any(|(h, ..)| *h == hash)
        {
            learned.seen.push((hash, *sequence, [0; 32]));
        }
    }
    for (policy, baseline) in from.baselines {
        if catalog.baseline(policy)?.is_none() {
            learned.baselines.push((policy, baseline));
        }
    }
    Ok(())
}

/// Keeps what was learned. For runs; a plan keeps nothing.
pub fn remember(catalog: &Catalog, learned: &Learned) -> Result<()> {
    if !learned.files.is_empty() {
        catalog.record(&learned.files)?;
    }
    for (policy, baseline) in &learned.baselines {
        catalog.set_baseline(*policy, baseline)?;
    }
    if !learned.seen.is_empty() || !learned.spans.is_empty() {
        catalog.manifests_seen(&learned.seen, &learned.spans)?;
    }
    if !learned.accepted.is_empty() {
        catalog.accept(&learned.accepted)?;
    }
    if !learned.not_accepted.is_empty() {
        catalog.no_longer_accepted(&learned.not_accepted)?;
    }
    if !learned.behind.is_empty() {
        catalog.manifests_behind(&learned.behind)?;
    }
    Ok(())
}

/// The baseline that is in force: the catalog's, else the one a manifest just gave.
pub fn baseline(catalog: &Catalog, learned: &Learned, policy: Policy) -> Result<Option<Baseline>> {
    if let Some(baseline) = catalog.baseline(policy)? {
        return Ok(Some(baseline));
    }
    Ok(learned.baselines.iter().find(|(p, _)| *p == policy).map(|(_, b)| b.clone()))
}
