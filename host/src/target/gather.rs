//! Listing, catalog and manifests joined into the view that the planner sees.
//!
//! A file is known by its catalog record; without one by its manifest, which holds where size and time agree with the
//! listing; without both it is unrecorded, and only a read-back makes it known. Surveying changes nothing anywhere: what a run should remember comes
//! back as [`Learned`]. What it all proves is judged by `evidence`.

use std::collections::{BTreeMap, BTreeSet};

use offsite_plugin_api::TargetPath;

use super::manifest::{self, FromManifests};
use super::site::{Site, of_target};
use super::{Files, Gathered, Listing, Recorded, TargetView, evidence, intent, listing, small};
use crate::catalog::{Catalog, Published};
use crate::chain::Span;
use crate::error::{Error, Kind, Result};
use crate::format::{self, Recognised};
use crate::plan::{Baseline, Policy};

/// What a run should remember of what was gathered; see [`remember`].
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Files that a manifest vouches for and the catalog did not know.
    pub files: Vec<Published>,
    seen: Vec<(String, u64, [u8; 32])>,
    spans: BTreeMap<TargetPath, Span>,
    baselines: Vec<(Policy, Baseline)>,
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
        // A manifest that another machine wrote (it consolidated on the target) knows spans that this catalog does not.
        if let Some(span) = file.span
            && agreed.is_some()
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
    let accepted = site.catalog.accepted()?;
    let mut view = evidence::view(Gathered { files, records, headers, spans, accepted, open });
    view.in_transition.extend(sets);
    view.deletes = site.catalog.pending_deletes()?;
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

/// Accepts the unproven spans of these images (of all that have one when `images` is empty). Gives those accepted.
///
/// Errors: `Usage` for an image that has no unproven span.
pub fn accept(site: &Site<'_>, images: &[TargetPath]) -> Result<Vec<TargetPath>> {
    let survey = survey(site)?;
    let unproven: BTreeSet<TargetPath> = survey
        .view
        .chains()
        .sets
        .iter()
        .flat_map(|set| &set.images)
        .filter(|image| image.unproven)
        .map(|image| image.id.clone())
        .collect();
    if let Some(other) = images.iter().find(|image| !unproven.contains(*image)) {
        return Err(Error::new(Kind::Usage, "this image has no unproven consolidation")
            .on(other.display())
            .hint("'offsite chains --target' shows the images that have one"));
    }
    let accepted: Vec<TargetPath> =
        if images.is_empty() { unproven.into_iter().collect() } else { images.to_vec() };
    remember(site.catalog, &survey.learned)?;
    site.catalog.accept(&accepted)?;
    Ok(accepted)
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
