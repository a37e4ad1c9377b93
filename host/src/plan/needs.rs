//! What becomes of a source set's images, as far as it concerns images that only the target has: who stays and needs its
//! parent, which of them a consolidated image holds now, what must be done before any of them may go.

use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::Action;
use super::consolidated;
use super::decide::{DecidedSet, Fate};
use super::index::{At, Index};
use crate::chain::{Evidence, Image, ImageSet, Parent};
use crate::format::{Link, Recognised};

/// One set of the target in which something is gone at the source.
pub(crate) struct Remains<'a> {
    /// By image: an image that stays needs it.
    pub needed: Vec<bool>,
    /// By image: the source has it.
    pub matched: Vec<bool>,
    /// By image: the source's image that holds it now, and whether that is verified.
    pub absorbed: HashMap<usize, (&'a TargetPath, bool)>,
    /// By image: the source's image is held back, so nothing of it is deleted.
    pub held: Vec<bool>,
    /// By image: this run puts the source's in its place.
    pub replaced: Vec<bool>,
    /// Consolidated images of the target that stay, and their last number.
    pub spans: Vec<(&'a TargetPath, u64)>,
    /// Steps that must be complete before anything of the set is deleted.
    pub tips: Vec<usize>,
}

impl Remains<'_> {
    fn new(images: usize) -> Self {
        Self {
            needed: vec![false; images],
            matched: vec![false; images],
            absorbed: HashMap::new(),
            held: vec![false; images],
            replaced: vec![false; images],
            spans: Vec::new(),
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
}

impl<'a> Needs<'a> {
    /// Learns what becomes of a source set's images (`decided` has been located).
    pub fn learn(&mut self, index: &Index<'a>, set: &'a ImageSet, decided: &DecidedSet<'a>) -> Vec<u32> {
        let mut touched = Vec::new();
        for i in 0..set.images.len() {
            self.needs(index, set, decided, i);
            let Some(at) = decided.there[i] else { continue };
            let own = &decided.images[i];
            let remains = self.of(index, at.0);
            remains.matched[at.1 as usize] = true;
            remains.held[at.1 as usize] = own.fate == Fate::Held || own.fate == Fate::Consolidated;
            remains.replaced[at.1 as usize] = own.fate == Fate::Act && own.action != Action::Skip;
            let there = index.at(at);
            if own.fate == Fate::Consolidated {
                remains.spans.extend(there.span.map(|s| (&there.id, s.last)));
            }
            if !touched.contains(&at.0) {
                touched.push(at.0);
            }
        }
        touched
    }

    /// Marks what image `i` needs once the run is done, and what it holds of images that only the target has.
    fn needs(&mut self, index: &Index<'a>, set: &'a ImageSet, decided: &DecidedSet<'a>, i: usize) {
        let own = &decided.images[i];
        let image = &set.images[i];
        let merged_there = own.fate == Fate::Consolidated;
        self.holds_by_span(index, image, own.anchor, &decided.there, decided.there[i], merged_there);
        let Some(at) = decided.there[i] else { return };
        let link = index.file(own.anchor).recognised.as_ref().map(|r| &r.link);
        let header = matches!(link, Some(Link::File(_) | Link::Id { .. }));
        let named = image.evidence == Some(Evidence::Name);
        let replaced = own.fate == Fate::Act && own.action != Action::Skip;
        let mut parent = match image.parent {
            Parent::Image(p) => Some(p),
            _ => None,
        };
        let mut known = parent.is_some() || image.parent == Parent::None;
        if replaced
            && let Some(absorbed) = consolidated::absorbed(index, &decided.there, &decided.source_of, i)
            && (parent == Some(absorbed.onto) || (!known && own.span.is_some()))
        {
            (parent, known) = (Some(absorbed.onto), true);
            for gone in absorbed.images {
                let verified = header || named;
                self.of(index, gone.0).absorbed.insert(gone.1 as usize, (&image.id, verified));
            }
        }
        if let Some(parent) = parent.and_then(|p| decided.there[p]) {
            self.of(index, parent.0).needed[parent.1 as usize] = true;
        }
        // The source's word for the parent holds where the image is (or becomes) the source's, its parent will be
        // there, and a missing image between the two would show: not where only time orders a set.
        let there = parent.is_none_or(|p| {
            decided.there[p].is_some() || matches!(decided.images[p].fate, Fate::Act | Fate::Keep)
        });
        let own_word = !matches!(link, Some(Link::Time | Link::Moment { .. }));
        let same = own.fate == Fate::Keep && own_word;
        if !(known && there && (replaced || same))
            && let Parent::Image(p) = index.at(at).parent
        {
            self.of(index, at.0).needed[p] = true;
        }
    }

    /// Notes the images whose numbers a span holds, where name, header or manifest vouch for it.
    fn holds_by_span(
        &mut self,
        index: &Index<'a>,
        image: &'a Image,
        anchor: usize,
        there: &[Option<At>],
        own: Option<At>,
        merged_there: bool,
    ) {
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
        let branch = index.file(anchor).recognised.as_ref().and_then(branch_of);
        let mut sets: Vec<u32> = there.iter().flatten().map(|at| at.0).collect();
        sets.sort_unstable();
        sets.dedup();
        for s in sets {
            for (g, gone) in index.input.target.chains().sets[s as usize].images.iter().enumerate() {
                let file = index.input.target.files.get(&gone.id);
                if Some((s, g as u32)) != own
                    && gone.kind == image.kind
                    && gone.number.is_some_and(|n| (span.first..=span.last).contains(&n))
                    && file.and_then(|f| f.recognised()).and_then(branch_of) == branch
                {
                    self.of(index, s).absorbed.entry(g).or_insert((&image.id, verified));
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

fn branch_of(recognised: &Recognised) -> Option<&[u64]> {
    match &recognised.link {
        Link::Number { branch, .. } => Some(branch),
        _ => None,
    }
}
