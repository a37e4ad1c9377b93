//! Which set takes the place of one that is wholly gone at the source: a newer one of the same lineage, which is at the
//! source and, when this run is done, published, verified and restorable on the target. That makes rotation of a loss.
//!
//! Newer is what the names order so; where they order nothing, what was begun after the other ended. Sets that went on
//! side by side are two hosts', whatever they are called: time orders nothing there.

use std::collections::{HashMap, HashSet};

use offsite_plugin_api::TargetPath;

use super::decide::{DecidedSet, Fate};
use super::index::{At, Index, source_path};
use super::{Code, Sign};
use crate::chain::ImageSet;
use crate::format::{ImageKind, Lineage, lineage, recognise_name};

/// A set at the source, and how it stands once this run is done.
struct Here<'a> {
    set: &'a ImageSet,
    /// Published, verified and restorable, all of it.
    whole: bool,
    /// Its last steps in this run.
    tips: Vec<usize>,
}

/// From the first to the last time something of a set was written, nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
struct Lasted {
    from: i64,
    to: i64,
}

/// What could take a set's place.
#[derive(Default)]
pub(crate) struct Successors<'a> {
    /// A newer set that is whole when these steps are done.
    pub whole: Option<(&'a str, Vec<usize>)>,
    /// A newer set whose base is finished at the source.
    pub begun: Option<&'a str>,
    /// A newer set, or a file that may be the beginning of one: in words.
    pub newer: Option<String>,
}

#[derive(Default)]
pub(crate) struct Succession<'a> {
    here: Vec<Here<'a>>,
    known: Option<Known>,
}

/// Worked out when something is gone.
struct Known {
    lineages: Vec<Lineage>,
    /// By family: positions in `here`.
    families: HashMap<String, Vec<usize>>,
    /// Families of which any two sets, of both sides, went on at the same time.
    side_by_side: HashSet<String>,
    /// Unfinished files whose name a format knows, or will know.
    unfinished: Vec<(Lineage, TargetPath)>,
}

impl<'a> Succession<'a> {
    /// Learns how a source set will stand (`decided` has been located).
    pub fn learn(&mut self, index: &Index<'a>, set: &'a ImageSet, decided: &DecidedSet<'a>) {
        let whole = decided.images.iter().zip(&decided.there).all(|(own, there)| {
            own.incomplete.is_none()
                && match own.fate {
                    // What changed and proves nothing is not restorable once it is sent.
                    Fate::Act => own.merge.as_ref().is_none_or(|merge| merge.sign != Sign::Missing),
                    Fate::Keep => there.is_some_and(|at| sound(index, at)),
                    Fate::Covered | Fate::Consolidated => own.reason.code() != Code::Unproven,
                    Fate::Held | Fate::LeftOut => false,
                }
        });
        let anchors = set.images.iter().map(|i| &i.id);
        let whole = whole
            && index.unfinished_beside(set.format, decided.images.first().map(|d| d.anchor)).is_none()
            && index.hidden(set.format, anchors).is_none();
        self.here.push(Here { set, whole, tips: Vec::new() });
    }

    /// The last steps of the set that was learned last.
    pub fn tips(&mut self, tips: Vec<usize>) {
        if let Some(last) = self.here.last_mut() {
            last.tips = tips;
        }
    }

    /// `vanished`: the target's sets of which nothing is at the source.
    pub fn look(&mut self, index: &Index<'a>, vanished: &[u32]) {
        let mut known = Known {
            lineages: Vec::with_capacity(self.here.len()),
            families: HashMap::new(),
            side_by_side: HashSet::new(),
            unfinished: Vec::new(),
        };
        let mut lasted: HashMap<String, Vec<Lasted>> = HashMap::new();
        for (at, here) in self.here.iter().enumerate() {
            let of = of_source(here.set);
            known.families.entry(of.family.clone()).or_default().push(at);
            lasted.entry(of.family.clone()).or_default().extend(lasted_here(index, here.set));
            known.lineages.push(of);
        }
        for &set in vanished {
            let of = of_target(index, set);
            lasted.entry(of.family).or_default().extend(lasted_there(index, set));
        }
        known.side_by_side =
            lasted.into_iter().filter(|(_, all)| overlap(all)).map(|(family, _)| family).collect();
        known.unfinished =
            index.unsettled.keys().filter_map(|path| Some((becomes(path)?, (*path).clone()))).collect();
        self.known = Some(known);
    }

    /// What could take the place of a set that the target has and the source has not.
    pub fn of(&self, index: &Index<'a>, gone: u32) -> Successors<'a> {
        let mut found = Successors::default();
        let Some(known) = &self.known else { return found };
        let own = of_target(index, gone);
        let ended = lasted_there(index, gone);
        let side_by_side = known.side_by_side.contains(&own.family);
        let newer = |here: &Here<'a>, of: &Lineage| match (of.place, own.place) {
            (Some(new), Some(old)) => new > old,
            _ => {
                let begun = lasted_here(index, here.set);
                !side_by_side
                    && begun.zip(ended).is_some_and(|(new, old)| new.from >= old.to && new.from > old.from)
            }
        };
        for &at in known.families.get(&own.family).into_iter().flatten() {
            let here = &self.here[at];
            if !newer(here, &known.lineages[at]) {
                continue;
            }
            found.newer.get_or_insert_with(|| here.set.id.clone());
            let base = here.set.images.first();
            if base.is_some_and(|b| b.kind == ImageKind::Base && b.restorable) {
                found.begun = Some(&here.set.id);
            }
            // One that is there already needs nothing of this run.
            if here.whole && found.whole.as_ref().is_none_or(|(_, tips)| !tips.is_empty()) {
                found.whole = Some((&here.set.id, here.tips.clone()));
            }
        }
        let later = |of: &Lineage| of.family == own.family && (of.place.is_none() || of.place > own.place);
        let unfinished = known.unfinished.iter().find(|(of, _)| later(of));
        found.newer = found.newer.or(unfinished.map(|(_, path)| path.display().into_owned()));
        found
    }

    /// By family: how many of the source's sets are published, verified and restorable once this run is done.
    pub fn whole_by_family(&self) -> HashMap<String, usize> {
        let mut whole = HashMap::new();
        let Some(known) = &self.known else { return whole };
        for (_, of) in self.here.iter().zip(&known.lineages).filter(|(here, _)| here.whole) {
            *whole.entry(of.family.clone()).or_default() += 1;
        }
        whole
    }

    /// By lineage: the last steps of a source set that this run makes whole. A lineage without any is not in it.
    pub fn arriving(&self) -> HashMap<&str, &[usize]> {
        let Some(known) = &self.known else { return HashMap::new() };
        let sets = self.here.iter().zip(&known.lineages).filter(|(here, _)| here.whole);
        sets.map(|(here, of)| (of.own.as_str(), here.tips.as_slice())).collect()
    }
}

/// Whether the target's image is whole, and proved to be.
pub(crate) fn sound(index: &Index<'_>, at: At) -> bool {
    let image = index.at(at);
    image.restorable
        && (!image.unproven
            || index.input.options.accept_unproven
            || index.input.target.accepted.contains(&image.id))
}

fn of_source(set: &ImageSet) -> Lineage {
    lineage(set.format, set.images.first().map_or(&TargetPath::root(), |i| &i.id))
}

/// The lineage of what an unfinished file is or will be: many products rename what they have written.
fn becomes(path: &TargetPath) -> Option<Lineage> {
    let of = |path: &TargetPath| recognise_name(path).map(|r| lineage(r.format, path));
    of(path).or_else(|| {
        let end = path.as_bytes().iter().rposition(|&b| b == b'.')?;
        of(&TargetPath::new(&path.as_bytes()[..end]).ok()?)
    })
}

/// The lineage of one of the target's sets, by where its images were at the source.
pub(crate) fn of_target(index: &Index<'_>, set: u32) -> Lineage {
    let set = &index.input.target.chains().sets[set as usize];
    let path = set.images.first().map_or_else(TargetPath::root, |i| source_path(index, i));
    lineage(set.format, &path)
}

fn lasted_here(index: &Index<'_>, set: &ImageSet) -> Option<Lasted> {
    let found = lasted(set.images.iter().map(|i| i.files.last().and_then(|f| f.mtime_ns)))?;
    // A time that moved since the publish says nothing before the content is compared.
    let (target, place) = (index.input.target, index.place(set));
    let before = set.images.iter().map(|i| index.target_path(&place, &i.id)).filter_map(|path| {
        let recorded = target.files.recorded(&path).map(|r| r.source_mtime_ns);
        target.begun.get(&path).copied().or(recorded)
    });
    Some(Lasted { from: before.fold(found.from, i64::min), ..found })
}

fn lasted_there(index: &Index<'_>, set: u32) -> Option<Lasted> {
    let files = &index.input.target.files;
    let images = &index.input.target.chains().sets[set as usize].images;
    lasted(images.iter().map(|i| Some(files.get(&i.id)?.recorded.as_ref()?.source_mtime_ns)))
}

/// `None` where a time is not known.
fn lasted(times: impl Iterator<Item = Option<i64>>) -> Option<Lasted> {
    let times: Vec<i64> = times.collect::<Option<_>>()?;
    // A base is older than what builds on it, whatever its own time says.
    Some(Lasted { from: *times.iter().min()?, to: *times.iter().max()? })
}

/// Whether any two went on at the same time.
fn overlap(all: &[Lasted]) -> bool {
    let mut sorted = all.to_vec();
    sorted.sort_by_key(|l| (l.from, l.to));
    sorted.windows(2).any(|pair| pair[1].from < pair[0].to)
}
