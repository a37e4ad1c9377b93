//! Listing, catalog and manifests joined into the view that the planner sees.
//!
//! A file is known by its catalog record; without one by its manifest, which holds where size and time agree with the
//! listing; without both it is unrecorded, and only a read-back makes it known. Surveying changes nothing anywhere: what a run should remember comes
//! back as [`Learned`]. What it all proves is judged by `evidence`.

use std::collections::{BTreeMap, BTreeSet};

use offsite_plugin_api::TargetPath;

use super::manifest::{self, FromManifests};
use super::site::{Site, of_target};
use super::{
    Files, Gathered, Listing, TargetFile, TargetView, ask, consolidated, evidence, intent, listing, proof,
    small,
};
use crate::catalog::{Accepted, Catalog, Published};
use crate::chain::Span;
use crate::error::{Error, Kind, Result};
use crate::format::{self, Recognised};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Baseline, Policy};
use crate::words::{count, word};

/// What a run should remember of what was gathered; see [`remember`].
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Files that a manifest vouches for and the catalog did not know.
    pub files: Vec<Published>,
    /// Of these, what only an unsigned manifest says, sorted.
    unproven: Vec<TargetPath>,
    seen: Vec<(String, u64, [u8; 32])>,
    signed: BTreeSet<String>,
    spans: BTreeMap<TargetPath, Span>,
    baselines: Vec<(Policy, Baseline)>,
    /// Accepted by a version that did not note as what.
    pub(super) accepted: Vec<(TargetPath, Accepted)>,
    /// Not what was accepted any more.
    pub(super) not_accepted: Vec<TargetPath>,
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
    pub notices: Vec<Notice>,
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
        let unproven = from.unproven.contains(path);
        if let Some(known) = records.get(path) {
            // What the catalog knows beats what a manifest says. But a file that somebody changed on the target, and that
            // a manifest signed with this target's key speaks of as it lies there now, is what that says: another machine
            // consolidated there.
            let changed = entry.is_some_and(|entry| known.touched(entry));
            if unproven || !changed || agreed.is_none() {
                continue;
            }
        }
        if let Some(span) = file.span
            && agreed.is_some()
        {
            spans.insert(path.clone(), span);
            learned.spans.insert(path.clone(), span);
        }
        if unproven {
            learned.unproven.push(path.clone());
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
    let mut files = std::mem::take(&mut listing.files);
    let asked = ask::unlisted(site, &files, records.keys(), &site.catalog.gone()?, &mut listing.incomplete)?;
    files = files.and(asked.found.into_iter().map(TargetFile::from).collect());
    let unknown = ask::unknown_of(asked.unknown, &mut records);
    let to_read = evidence::to_read(&files, &records);
    let headers = headers(site, &files, &to_read.headers)?;
    let bad = consolidated::no_images(site, &files, &records, to_read.heads)?;
    let accepted = consolidated::still_accepted(site.catalog, &files, &records, &mut learned)?;
    let absorbed = consolidated::absorbed(site.catalog, &files, &records)?;
    let gathered = Gathered { files, records, headers, spans, accepted, open, bad, absorbed };
    let mut view = evidence::view(gathered);
    view.in_transition.extend(sets);
    view.begun = site.catalog.begun()?;
    view.folds = !site.capabilities.names.case_sensitive;
    view.deletes = site.catalog.pending_deletes()?;
    view.parents_known = site.catalog.parents_learned()?;
    view.vouched = site.catalog.vouched()?;
    view.vouched.extend(learned.unproven.iter().cloned());
    tell_vouched(&view, &mut notices);
    view.unknown = unknown;
    view.incomplete.clone_from(&listing.incomplete);
    if !manifest::left_out(&listing.incomplete) {
        from.damaged.extend(manifest::missing(&listing.manifests, &known));
    }
    learn(&mut learned, from, &known, site.catalog)?;
    Ok(Survey { view, listing, learned, notices })
}

/// Reads back the headers that say what names and records do not.
fn headers(site: &Site<'_>, files: &Files, paths: &[TargetPath]) -> Result<BTreeMap<TargetPath, Recognised>> {
    let mut found = BTreeMap::new();
    for path in paths {
        let entry = &files[path].entry;
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

/// What an interrupted act is about is between old and new: nobody can say what would be accepted. Only a run, which has
/// the source, settles it.
fn refuse_unsettled(site: &Site<'_>, view: &TargetView, accepted: &[TargetPath]) -> Result<()> {
    for intent in site.catalog.intents()? {
        let whole = intent.concerns_its_set();
        let of_intent = |path: &TargetPath| {
            intent.steps.iter().any(|(_, step)| step.path() == path)
                || (whole && view.files.recorded(path).is_some_and(|recorded| recorded.set == intent.set))
        };
        if let Some(image) = accepted.iter().find(|image| of_intent(image)) {
            return Err(Error::new(Kind::Usage, "this image cannot be accepted yet: its set is not settled")
                .on(image.display())
                .because(intent::describe(&intent))
                .hint("'offsite run' settles this first; then accept it. --image names others"));
        }
    }
    Ok(())
}

/// Accepts the unproven spans of these images (of all that have one when `images` is empty), what an unsigned manifest says
/// of them, and that each builds on what lies below it now. Gives those accepted.
///
/// Errors: `Usage` for an image that has no unproven span, and where an interrupted act on its set is still to be settled.
pub fn accept(site: &Site<'_>, images: &[TargetPath]) -> Result<Vec<TargetPath>> {
    let survey = survey(site)?;
    let doubted = proof::doubted(&survey.view);
    let mut unproven = consolidated::unproven(&survey.view);
    unproven.extend(doubted.iter().map(|(image, _)| image.clone()));
    if !images.is_empty() {
        // Never all of them at once: a whole seeded target would be taken for verified.
        unproven.extend(proof::unrecorded(&survey.view));
    }
    if let Some(other) = images.iter().find(|image| !unproven.contains(*image)) {
        return Err(Error::new(Kind::Usage, "this image has nothing that could be accepted")
            .on(other.display())
            .hint("'offsite chains --target' and 'offsite plan' show the images that have one"));
    }
    let mut accepted: Vec<TargetPath> =
        if images.is_empty() { unproven.into_iter().collect() } else { images.to_vec() };
    refuse_unsettled(site, &survey.view, &accepted)?;
    remember(site.catalog, &survey.learned)?;
    accepted.sort_unstable();
    let among = |image: &TargetPath| accepted.binary_search(image).is_ok();
    site.catalog.relink(&doubted.into_iter().filter(|(image, _)| among(image)).collect::<Vec<_>>())?;
    // All of them: also files that belong to no image.
    let all = images.is_empty().then(|| survey.view.vouched.iter().cloned());
    let of = survey.view.chains().sets.iter().flat_map(|set| &set.images).filter(|image| among(&image.id));
    let files = of.flat_map(|image| &image.files).map(|file| file.path.clone());
    site.catalog.believe(&files.chain(all.into_iter().flatten()).collect::<Vec<_>>())?;
    consolidated::accept(site, &survey.view, &accepted)?;
    Ok(accepted)
}

/// Once, whatever the number of manifests.
fn tell_vouched(view: &TargetView, notices: &mut Vec<Notice>) {
    let Some(example) = view.vouched.first() else { return };
    let number = view.vouched.len() as u64;
    let text = format!(
        "{} on the target {} known only by manifests that are not signed with this target's key, '{}' for one: kept, not \
         sent again, and called unproven until compared or accepted (the key was lost? put it back with 'offsite target \
         key --import FILE'; else 'offsite target accept')",
        count(number, "file"),
        word(number, "is", "are"),
        example.display()
    );
    notices.push(Notice::new(NoticeCode::ManifestUnproven, text));
}

fn tell(listing: &Listing, notices: &mut Vec<Notice>) {
    for dir in &listing.nested {
        let text = format!("{} is another target: nothing in it is looked at", dir.display());
        notices.push(Notice::new(NoticeCode::Target, text));
    }
    for path in listing.strange.iter().take(20) {
        let text = format!("{} is neither file nor directory: it is left alone", path.display());
        notices.push(Notice::new(NoticeCode::Target, text));
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
        let damaged: BTreeSet<&String> = from.damaged.iter().collect();
        let units = catalog.published_units()?.into_iter();
        learned.behind.extend(units.filter(|unit| of_unit(unit, known).any(|hash| damaged.contains(&hash))));
    }
    learned.seen = from.seen;
    learned.signed = from.signed;
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

/// Hashes of the manifests that a unit is written in, as far as is known.
fn of_unit<'a>(
    unit: &'a str,
    known: &'a BTreeMap<String, (u64, [u8; 32])>,
) -> impl Iterator<Item = String> + 'a {
    let hash = |n| manifest::set_hash(&manifest::pieces::piece(unit, n));
    std::iter::once(hash(0)).chain((1..).map(hash).take_while(|hash| known.contains_key(hash)))
}

/// Keeps what was learned. For runs; a plan keeps nothing.
pub fn remember(catalog: &Catalog, learned: &Learned) -> Result<()> {
    let (unproven, known): (Vec<_>, Vec<_>) =
        learned.files.iter().cloned().partition(|f| learned.unproven.binary_search(&f.path).is_ok());
    if !known.is_empty() {
        catalog.record(&known)?;
    }
    if !unproven.is_empty() {
        catalog.record_vouched(&unproven)?;
    }
    for (policy, baseline) in &learned.baselines {
        catalog.set_baseline(*policy, baseline)?;
    }
    if !learned.seen.is_empty() || !learned.spans.is_empty() {
        catalog.manifests_seen(&learned.seen, &learned.signed, &learned.spans)?;
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
