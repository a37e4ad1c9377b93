//! Consolidations as far as neither names nor manifests show them: whether a changed file can be an image at all, what the
//! user accepted, and what images took in at the source. All of it is bound to the files as they were: what changed since
//! is nobody's word any more.

use std::collections::{BTreeMap, BTreeSet};

use offsite_plugin_api::TargetPath;

use super::site::{Site, of_target};
use super::{AbsorbedBy, Files, Learned, Recorded, TargetView, small};
use crate::catalog::{Absorption, Accepted, Catalog, Was};
use crate::chain::{Evidence, Image, Span};
use crate::error::Result;
use crate::format::{self, Link, signature};

/// Why changed files cannot be what their names say: those of formats that are known by name have their first bytes read
/// back. What cannot be read says nothing.
pub(super) fn no_images(
    site: &Site<'_>,
    files: &Files,
    records: &BTreeMap<TargetPath, Box<Recorded>>,
    heads: Vec<TargetPath>,
) -> Result<BTreeMap<TargetPath, String>> {
    let mut bad = BTreeMap::new();
    for path in heads {
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
pub(super) fn still_accepted(
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
pub(super) fn absorbed(
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
    accept(site, view, &holders.into_iter().collect::<Vec<_>>())
}

/// Accepts these images as they are now. Whether there was any.
pub(super) fn accept(site: &Site<'_>, view: &TargetView, accepted: &[TargetPath]) -> Result<bool> {
    let (spans, sets) = spans_of_accepted(view, accepted);
    if !spans.is_empty() {
        site.catalog.manifests_seen(&[], &BTreeSet::new(), &spans)?;
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

/// Anchors of images that wait for the user's word themselves: consolidated on the target, known from an unsigned manifest
/// only, or changed at the source.
pub(super) fn unproven(view: &TargetView) -> BTreeSet<TargetPath> {
    let images = view.chains().sets.iter().flat_map(|set| &set.images);
    let itself = |image: &&Image| {
        image.unproven
            && (image.evidence == Some(Evidence::Catalog)
                || image.files.iter().any(|f| view.vouched.contains(&f.path)))
    };
    let consolidated = images.filter(itself).map(|image| image.id.clone());
    let changed = view.absorbed.values().filter(|by| !by.proved).map(|by| by.holder.clone());
    consolidated.chain(changed).collect()
}
