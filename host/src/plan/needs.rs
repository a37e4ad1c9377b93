//! What becomes of a source set's images, as far as it concerns images that only the target has: who stays and needs its
//! parent, which of them a consolidated image holds now, what must be done before any of them may go.

use std::collections::{BTreeMap, HashMap, HashSet};

use offsite_plugin_api::TargetPath;

use super::beside::beneath_span;
use super::decide::{DecidedSet, Fate};
use super::explain::Reason;
use super::index::Index;
use super::merged::Onto;
use super::{Action, Sign, attach, merged};
use crate::chain::{Evidence, Image, ImageSet, Parent};
use crate::format::{ImageKind, Link, Recognised};

/// An image of the source that holds another one now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    pub by: &'a TargetPath,
    /// What is deleted for it does not count against `max_delete`.
    pub verified: bool,
    /// Only what this run sends of it can prove that.
    pub conditional: bool,
}

/// One set of the target in which something is gone at the source.
pub(crate) struct Remains<'a> {
    /// By image: an image that stays needs it.
    pub needed: Vec<bool>,
    /// By image: one of the source's images that it holds, and that is therefore not sent.
    pub holds: HashMap<usize, &'a TargetPath>,
    /// By image: the source has it.
    pub matched: Vec<bool>,
    /// By image: the source's image that holds it now.
    pub absorbed: HashMap<usize, Holder<'a>>,
    /// By image: the source's image that changed and may hold it, which nothing proves.
    pub unproven: HashMap<usize, &'a TargetPath>,
    /// Bases of the source that took in what lay right above them.
    of_base: HashSet<&'a TargetPath>,
    /// By image: the source's image is held back, so nothing of it is deleted.
    pub held: Vec<bool>,
    /// By image: this run puts the source's in its place.
    pub replaced: Vec<bool>,
    /// Consolidated images of the target that stay, and their last number.
    pub spans: Vec<(&'a TargetPath, u64)>,
    /// An image of the set that the source has, the target has not, and this run cannot copy.
    pub waits: Option<&'a TargetPath>,
    /// Steps that must be complete before anything of the set is deleted.
    pub tips: Vec<usize>,
}

impl Remains<'_> {
    fn new(images: usize) -> Self {
        Self {
            needed: vec![false; images],
            holds: HashMap::new(),
            matched: vec![false; images],
            absorbed: HashMap::new(),
            unproven: HashMap::new(),
            of_base: HashSet::new(),
            held: vec![false; images],
            replaced: vec![false; images],
            spans: Vec::new(),
            waits: None,
            tips: Vec::new(),
        }
    }

    /// An image that stays keeps its parent.
    pub fn keep_parent(&mut self, image: &Image) {
        if let Parent::Image(p) = image.parent {
            self.needed[p] = true;
        }
    }
}

/// By set of the target.
#[derive(Default)]
pub(crate) struct Needs<'a> {
    sets: HashMap<u32, Remains<'a>>,
    /// The images of a set by number; worked out where a span is looked up in it.
    numbers: HashMap<u32, BTreeMap<u64, Vec<usize>>>,
}

impl<'a> Needs<'a> {
    /// Learns what becomes of a source set's images (`decided` has been located).
    pub fn learn(&mut self, index: &Index<'a>, set: &'a ImageSet, decided: &DecidedSet<'a>) -> Vec<u32> {
        let mut touched = Vec::new();
        let mut sets: Vec<u32> = decided.there.iter().flatten().map(|at| at.0).collect();
        sets.sort_unstable();
        sets.dedup();
        // First all that is merged: who builds on a base that took its parent in needs that no more.
        let mut onto = vec![None; set.images.len()];
        for (i, onto) in onto.iter_mut().enumerate() {
            *onto = self.merges(index, set, decided, i);
        }
        for (i, onto) in onto.into_iter().enumerate() {
            let merged_there = decided.images[i].fate == Fate::Consolidated;
            self.holds_by_span(index, &set.images[i], decided, i, &sets, merged_there);
            self.needs(index, set, decided, i, onto);
            if let Some((set, _)) = decided.images[i].attached
                && !touched.contains(&set)
            {
                touched.push(set);
            }
            if let Some(by) = decided.images[i].held_by {
                self.of(index, by.0).holds.entry(by.1 as usize).or_insert(&set.images[i].id);
            }
            let Some(at) = decided.there[i] else { continue };
            let own = &decided.images[i];
            let remains = self.of(index, at.0);
            remains.matched[at.1 as usize] = true;
            remains.held[at.1 as usize] = own.fate == Fate::Held || own.fate == Fate::Consolidated;
            remains.replaced[at.1 as usize] = own.fate == Fate::Act && own.action != Action::Skip;
            let there = index.at(at);
            // What nothing proves may be a mere increment, which needs what it is said to hold.
            let doubted = there.unproven
                && !index.input.options.accept_unproven
                && !index.input.target.accepted.contains(&there.id);
            if doubted || own.fate == Fate::Consolidated {
                remains.spans.extend(there.span.map(|s| (&there.id, s.last)));
            }
            if !touched.contains(&at.0) {
                touched.push(at.0);
            }
        }
        // A new image that cannot be copied yet may hold what is gone: only its copy shows that.
        let waits = |i: &usize| decided.images[*i].fate == Fate::Held && decided.there[*i].is_none();
        if let Some(i) = (0..set.images.len()).find(waits) {
            for of in &touched {
                self.of(index, *of).waits = Some(&set.images[i].id);
            }
        }
        touched
    }

    /// Notes what image `i` took in at the source: by what this run will find out, or by what an earlier one found. Gives the
    /// source's image that it builds on then, where that is another one than before.
    fn merges(
        &mut self,
        index: &Index<'a>,
        set: &'a ImageSet,
        decided: &DecidedSet<'a>,
        i: usize,
    ) -> Option<usize> {
        let own = &decided.images[i];
        let by = &set.images[i].id;
        let base = set.images[i].kind == ImageKind::Base;
        let acts = own.fate == Fate::Act && own.action != Action::Skip;
        if let Some(merged) = own.merge.as_ref().filter(|_| acts) {
            for gone in &merged.images {
                let remains = self.of(index, gone.0);
                if merged.sign == Sign::Missing {
                    remains.unproven.insert(gone.1 as usize, by);
                } else {
                    let holder = Holder { by, verified: true, conditional: true };
                    remains.absorbed.insert(gone.1 as usize, holder);
                    remains.of_base.extend(base.then_some(by));
                }
            }
            return merged.onto.and_then(Onto::source).filter(|_| merged.sign != Sign::Missing);
        }
        let at = decided.there[i]?;
        if acts || index.input.target.absorbed.is_empty() {
            return None;
        }
        // What an earlier run found out holds as long as the holder is what it was then.
        for gone in index.absorbed(&index.at(at).id) {
            if gone.0 != at.0 || decided.source_of.contains_key(gone) {
                continue;
            }
            let proved = index.input.target.absorbed.get(&index.at(*gone).id).is_some_and(|a| a.proved);
            let remains = self.of(index, at.0);
            if proved || index.input.options.accept_unproven {
                let holder = Holder { by, verified: true, conditional: false };
                remains.absorbed.insert(gone.1 as usize, holder);
                remains.of_base.extend(base.then_some(by));
            } else {
                remains.unproven.insert(gone.1 as usize, by);
            }
        }
        let mut below = at;
        while let Parent::Image(p) = index.at(below).parent {
            below = (at.0, p as u32);
            if let Some(&onto) = decided.source_of.get(&below) {
                return Some(onto).filter(|_| index.at(at).parent != Parent::Image(p));
            }
            if self.of(index, at.0).absorbed.get(&p).is_none_or(|h| h.by != by) {
                return None;
            }
        }
        None
    }

    /// Marks what image `i` needs once the run is done. `onto`: what it builds on after a merge.
    fn needs(
        &mut self,
        index: &Index<'a>,
        set: &'a ImageSet,
        decided: &DecidedSet<'a>,
        i: usize,
        onto: Option<usize>,
    ) {
        let own = &decided.images[i];
        let image = &set.images[i];
        if let Some(below) = own.attached {
            self.of(index, below.0).needed[below.1 as usize] = true;
        }
        let Some(at) = decided.there[i] else { return self.arriving_orphan(index, set, decided, i) };
        let link = index.file(own.anchor).recognised.as_ref().map(|r| &r.link);
        let replaced = own.fate == Fate::Act && own.action != Action::Skip;
        let unproven = own.merge.as_ref().is_some_and(|m| m.sign == Sign::Missing);
        let parent = onto.or(match image.parent {
            Parent::Image(p) => Some(p),
            _ => None,
        });
        let known = parent.is_some() || image.parent == Parent::None;
        // The source's word for the parent holds where the image is (or becomes) the source's, its parent will be
        // there, and a missing image between the two would show: not where only time orders a set, unless it was merged.
        let there = parent.is_none_or(|p| {
            decided.there[p].is_some() || matches!(decided.images[p].fate, Fate::Act | Fate::Keep)
        });
        let own_word = !matches!(link, Some(Link::Time | Link::Moment { .. }));
        let replaced = replaced && !unproven && (own_word || onto.is_some());
        // What stays because the source's is no image is an older one, upon what it was published upon.
        let same = own.fate == Fate::Keep
            && !matches!(own.reason, Reason::NotAnImage { .. })
            && (own_word || onto.is_some());
        if known && there && (replaced || same) {
            return;
        }
        // A new header names what only the target has: that is its parent then.
        if replaced
            && !known
            && let Some(upon) = attach::named(index, decided, i)
        {
            self.of(index, upon.0).needed[upon.1 as usize] = true;
            return;
        }
        // What a base took in at the source is no parent any more, nor what the image took in itself.
        let mut below = &index.at(at).parent;
        let remains = self.of(index, at.0);
        while let Parent::Image(p) = *below {
            let gone = remains.absorbed.get(&p);
            if !gone.is_some_and(|holder| remains.of_base.contains(holder.by) || *holder.by == image.id) {
                remains.needed[p] = true;
                return;
            }
            below = &index.at((at.0, p as u32)).parent;
        }
    }

    /// An image that is copied though the source lacks what it builds on: where only the target has that, it stays.
    fn arriving_orphan(&mut self, index: &Index<'a>, set: &ImageSet, decided: &DecidedSet<'a>, i: usize) {
        let (image, own) = (&set.images[i], &decided.images[i]);
        if own.fate != Fate::Act || !matches!(image.parent, Parent::Missing(_)) || own.merge.is_some() {
            return;
        }
        let chains = index.input.target.chains();
        let upon = match index.file(own.anchor).recognised.as_ref().map(|r| &r.link) {
            Some(Link::File(parent)) => index.target_image(&index.target_path(&decided.place, parent)),
            Some(Link::Number { branch, number, .. }) => {
                let sets = chains.sets.iter().enumerate().filter(|(_, s)| s.id == set.id);
                let images =
                    sets.flat_map(|(s, of)| of.images.iter().enumerate().map(move |(i, g)| (s, i, g)));
                let branch_there = |image: &Image| {
                    let file = index.input.target.files.get(&image.id);
                    file.and_then(|f| f.recognised()).and_then(branch_of).map(<[u64]>::to_vec)
                };
                let below = images.filter(|(_, _, gone)| {
                    gone.number.is_some_and(|n| n < *number)
                        && branch_there(gone).is_none_or(|there| branch.starts_with(&there))
                });
                below.max_by_key(|(_, i, gone)| (gone.number, *i)).map(|(s, i, _)| (s as u32, i as u32))
            }
            _ => None,
        };
        if let Some(at) = upon.filter(|at| !decided.source_of.contains_key(at)) {
            self.of(index, at.0).needed[at.1 as usize] = true;
        }
    }

    /// Notes the images whose numbers a span holds, where name, header or manifest vouch for it. `sets`: where the target has
    /// images of the set.
    fn holds_by_span(
        &mut self,
        index: &Index<'a>,
        image: &'a Image,
        decided: &DecidedSet<'a>,
        i: usize,
        sets: &[u32],
        merged_there: bool,
    ) {
        let (anchor, own) = (decided.images[i].anchor, decided.there[i]);
        let proven = own.map(|at| index.at(at)).filter(|there| {
            !there.unproven
                && matches!(there.evidence, Some(Evidence::Manifest | Evidence::Name | Evidence::Header))
        });
        let named = image.span.filter(|s| s.first < s.last);
        // A manifest repeats what a plan concluded when it replaced a closed format's image: that is no more verified
        // than it was then.
        let verified = named.is_some() || merged_there;
        let span = named.or(proven.and_then(|t| t.span));
        let Some(span) = span.filter(|s| s.first < s.last) else { return };
        let by = &image.id;
        // What it builds on, and what lies below that, it does not hold.
        let beneath = named.and_then(|span| beneath_span(index, decided, i, span));
        if let Some(at) = beneath {
            self.of(index, at.0).needed[at.1 as usize] = true;
        }
        let first = beneath.and_then(|at| index.at(at).number).map_or(span.first, |n| n + 1);
        let branch = index.file(anchor).recognised.as_ref().and_then(branch_of);
        for &s in sets {
            let there = &index.input.target.chains().sets[s as usize].images;
            let numbers = self.numbers.entry(s).or_insert_with(|| by_number(there));
            let held = |g: &usize| {
                let gone = &there[*g];
                let file = index.input.target.files.get(&gone.id);
                Some((s, *g as u32)) != own
                    && gone.kind == image.kind
                    && file.and_then(|f| f.recognised()).and_then(branch_of) == branch
            };
            let within = numbers.range(first.min(span.last)..=span.last).flat_map(|(_, images)| images);
            let mut held: Vec<(usize, &Image)> =
                within.copied().filter(held).map(|g| (g, &there[g])).collect();
            held.sort_unstable_by_key(|(g, _)| *g);
            // A name says that it holds them; its size must be able to, as with any other merge.
            let fits = merged_there
                || named.is_none()
                || index.input.options.accept_unproven
                || merged::holds(image, held.iter().map(|(_, gone)| *gone));
            for (g, _) in held {
                let remains = self.of(index, s);
                if fits {
                    remains.absorbed.entry(g).or_insert(Holder { by, verified, conditional: false });
                } else if !remains.absorbed.contains_key(&g) {
                    remains.unproven.insert(g, by);
                }
            }
        }
    }

    /// These steps come before anything of those sets is deleted.
    pub fn tips(&mut self, sets: &[u32], tips: &[usize]) {
        for set in sets {
            if let Some(remains) = self.sets.get_mut(set) {
                remains.tips.extend_from_slice(tips);
            }
        }
    }

    pub fn of(&mut self, index: &Index<'_>, set: u32) -> &mut Remains<'a> {
        let images = || index.input.target.chains().sets[set as usize].images.len();
        self.sets.entry(set).or_insert_with(|| Remains::new(images()))
    }

    pub fn get(&self, set: u32) -> Option<&Remains<'a>> {
        self.sets.get(&set)
    }

    pub fn take(&mut self, index: &Index<'_>, set: u32) -> Remains<'a> {
        let images = || index.input.target.chains().sets[set as usize].images.len();
        self.sets.remove(&set).unwrap_or_else(|| Remains::new(images()))
    }

    pub fn put(&mut self, set: u32, remains: Remains<'a>) {
        self.sets.insert(set, remains);
    }
}

fn by_number(images: &[Image]) -> BTreeMap<u64, Vec<usize>> {
    let mut numbers: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, image) in images.iter().enumerate() {
        if let Some(number) = image.number {
            numbers.entry(number).or_default().push(at);
        }
    }
    numbers
}

fn branch_of(recognised: &Recognised) -> Option<&[u64]> {
    match &recognised.link {
        Link::Number { branch, .. } => Some(branch),
        _ => None,
    }
}
