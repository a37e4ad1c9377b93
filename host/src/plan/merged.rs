//! Consolidation at the source: which images of the target one image of the source may hold now, and what says so.
//!
//! A time that moved is no merge. It takes a content that is not the recorded one, which only the transfer finds out, and a
//! sign: the header names the absorbed images' parent as its own; or, for a closed format, the size can hold what it
//! absorbed and the first bytes are still its format's. The transfer judges (`run::execute`), so that nothing is read twice.

use super::beside::missed_before;
use super::decide::DecidedSet;
use super::index::{At, Index};
use super::{Merge, Sign};
use crate::chain::{Evidence, Image, ImageSet, Parent, Span};
use crate::format::{Format, ImageKind, Link, signature};

/// What an image of the source may have absorbed.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    /// Images that only the target has. None where both sides consolidated.
    pub images: Vec<At>,
    /// The image that it builds on then; `None` for a base, which took in what lay right above it.
    pub onto: Option<Onto>,
    pub sign: Sign,
    /// The run of numbers that it holds then, where numbers apply.
    pub span: Option<Span>,
}

/// What a merged image builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onto {
    /// An image of the source's set.
    Source(usize),
    /// One that only the target has: it was removed, not merged.
    Target(At),
}

impl Onto {
    pub fn source(self) -> Option<usize> {
        match self {
            Self::Source(at) => Some(at),
            Self::Target(_) => None,
        }
    }
}

impl Merged {
    pub fn step(&self, index: &Index<'_>) -> Merge {
        let images = self.images.iter().map(|&at| index.at(at).id.clone()).collect();
        Merge { images, sign: self.sign }
    }
}

/// What a transfer found of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It holds what it is said to have absorbed.
    Proved,
    /// It is what was published before: a touch.
    SameContent,
    /// It changed, and nothing says that it holds them.
    Unproven,
}

/// Content as far as it is known: its digest, its first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub blake3: Option<[u8; 32]>,
    pub head: Option<[u8; signature::HEAD]>,
}

/// Judges a merge by what was published and what is sent now. `fits`: whether what is sent begins as its format does, where
/// that is known ([`signature::fits`]).
pub fn prove(sign: Sign, was: Content, now: Content, fits: Option<bool>) -> Proof {
    if was.blake3.is_some() && was.blake3 == now.blake3 {
        return Proof::SameContent;
    }
    let proved = match sign {
        Sign::Header | Sign::Name | Sign::Accepted => true,
        Sign::Head => fits.unwrap_or(was.head.is_some() && was.head == now.head),
        Sign::Missing => false,
    };
    if proved { Proof::Proved } else { Proof::Unproven }
}

/// What the source's image `i` may hold now: the target's images below it that the source no longer has. `None` when there
/// are none, or when one of them is still being written.
pub(crate) fn merged(
    index: &Index<'_>,
    set: &ImageSet,
    decided: &DecidedSet<'_>,
    i: usize,
) -> Option<Merged> {
    let image = &set.images[i];
    if image.kind == ImageKind::Base {
        return into_base(index, set, decided, i);
    }
    let Some((images, onto)) = below(index, decided, i) else {
        let (span, onto) = same_span(index, image, decided, i).filter(|_| missing(image))?;
        let sign = if recorded(index, decided, i) { Sign::Head } else { Sign::Missing };
        let onto = Some(Onto::Source(onto));
        return Some(Merged { images: Vec::new(), onto, sign, span: Some(span) });
    };
    let mut span = if missing(image) { span_with(index, image, &images) } else { None };
    let mut onto = onto;
    // The target merged more than the source did: what the source still has of it, its own image does not hold.
    if let Some(held) = &mut span
        && let Some((below, number)) = highest_below(index, set, decided, i, held.first)
    {
        if decided.images[below].held_by.is_some_and(|by| images.contains(&by)) {
            return None; // that stays, and this one goes on upon it
        }
        (held.first, onto) = (number + 1, Onto::Source(below));
    }
    let span = span.filter(|span| span.first < span.last);
    // Where the source's own chain leads elsewhere, it is no merge.
    if onto.source().is_some_and(|onto| image.parent != Parent::Image(onto)) && span.is_none() {
        return None;
    }
    let sign = sign(index, decided, image, i, &images);
    Some(Merged { images, onto: Some(onto), sign, span: span.filter(|_| sign != Sign::Missing) })
}

fn missing(image: &Image) -> bool {
    matches!(image.parent, Parent::Missing(_))
}

/// The target's images between `i` and its nearest ancestor that the source still has, and that ancestor; or down to the first
/// that was missing before.
fn below(index: &Index<'_>, decided: &DecidedSet<'_>, i: usize) -> Option<(Vec<At>, Onto)> {
    let mut at = decided.there[i]?;
    let most = index.input.target.chains().sets[at.0 as usize].images.len();
    let mut images = Vec::new();
    while let Parent::Image(p) = index.at(at).parent {
        at = (at.0, p as u32);
        if let Some(&onto) = decided.source_of.get(&at) {
            return (!images.is_empty()).then_some((images, Onto::Source(onto)));
        }
        if missed_before(index, decided, i, index.at(at)) {
            return (!images.is_empty()).then_some((images, Onto::Target(at)));
        }
        if images.len() >= most || unfinished(index, at) {
            return None;
        }
        images.push(at);
    }
    None
}

/// Veeam's forever-forward increments: the full backup takes in the oldest of them, in place, and that file goes. What lay
/// right above the base, up to the first image that the source still has.
fn into_base(index: &Index<'_>, set: &ImageSet, decided: &DecidedSet<'_>, i: usize) -> Option<Merged> {
    if set.format != Format::Veeam {
        return None;
    }
    let base = decided.there[i]?;
    let there = &index.input.target.chains().sets[base.0 as usize];
    let mut images = Vec::new();
    let mut at = base.1 as usize;
    let mut removed = false;
    // The set is in order: the next image is the child of the one before it.
    while let Some((next, child)) = there
        .images
        .iter()
        .enumerate()
        .find(|(_, image)| image.parent == Parent::Image(at) && !reverse(index, image))
    {
        let above = (base.0, next as u32);
        if decided.source_of.contains_key(&above) {
            break;
        }
        if missed_before(index, decided, i, child) {
            removed = true;
            break;
        }
        if child.kind == ImageKind::Base || unfinished(index, above) || images.len() >= there.images.len() {
            return None;
        }
        images.push(above);
        at = next;
    }
    // What goes highest first is deleted highest first: as `below` lists them.
    images.reverse();
    // Nothing that the source still has above: it is not the oldest that went, but all of them.
    let stays = there.images.iter().enumerate().any(|(n, image)| {
        image.parent == Parent::Image(at) && decided.source_of.contains_key(&(base.0, n as u32))
    });
    if images.is_empty() || !(stays || removed) {
        return None;
    }
    let sign = sign(index, decided, &set.images[i], i, &images);
    Some(Merged { images, onto: None, sign, span: None })
}

fn reverse(index: &Index<'_>, image: &Image) -> bool {
    let file = index.input.target.files.get(&image.id);
    matches!(file.and_then(|f| f.recognised()).map(|r| &r.link), Some(Link::Moment { reverse: true, .. }))
}

fn unfinished(index: &Index<'_>, at: At) -> bool {
    index.at(at).files.iter().any(|f| index.unsettled.contains_key(&f.path))
}

/// What says that the source's image holds these.
fn sign(index: &Index<'_>, decided: &DecidedSet<'_>, image: &Image, i: usize, images: &[At]) -> Sign {
    let link = index.file(decided.images[i].anchor).recognised.as_ref().map(|r| &r.link);
    if matches!(link, Some(Link::File(_) | Link::Id { .. })) {
        return Sign::Header;
    }
    let fits = holds(image, images.iter().map(|&at| index.at(at)));
    match image.evidence {
        Some(Evidence::Name) if fits => Sign::Name,
        _ if !recorded(index, decided, i) => Sign::Missing,
        _ if index.input.options.accept_unproven => Sign::Accepted,
        _ if fits => Sign::Head,
        _ => Sign::Missing,
    }
}

/// Whether an image's size can hold what it is said to have absorbed: nine tenths of the largest at least.
pub(crate) fn holds<'a>(image: &Image, absorbed: impl Iterator<Item = &'a Image>) -> bool {
    let largest = absorbed.map(Image::bytes).max().unwrap_or(0);
    u128::from(image.bytes()) * 10 >= u128::from(largest) * 9
}

/// Whether the content that the source's image replaces is known.
fn recorded(index: &Index<'_>, decided: &DecidedSet<'_>, i: usize) -> bool {
    let there = index.target_file(decided.images[i].anchor, &decided.place);
    there.and_then(|f| f.recorded.as_ref()).is_some_and(|r| r.blake3.is_some())
}

/// The run of numbers that an image holds together with what it absorbed.
fn span_with(index: &Index<'_>, image: &Image, absorbed: &[At]) -> Option<Span> {
    let last = image.number?;
    let first = absorbed.iter().filter_map(|&at| {
        let there = index.at(at);
        there.span.map(|s| s.first).or(there.number)
    });
    first.min().filter(|&first| first < last).map(|first| Span { first, last })
}

/// The source's image below `i`, on its branch, with the highest number from `first` on.
fn highest_below(
    index: &Index<'_>,
    set: &ImageSet,
    decided: &DecidedSet<'_>,
    i: usize,
    first: u64,
) -> Option<(usize, u64)> {
    let place = |at: usize| match &index.file(decided.images[at].anchor).recognised.as_ref()?.link {
        Link::Number { branch, number, .. } => Some((branch, *number)),
        _ => None,
    };
    let (branch, last) = place(i)?;
    let below = (0..set.images.len()).filter_map(|at| Some((at, place(at)?)));
    below
        .filter(|(_, (of, number))| *of == branch && (first..last).contains(number))
        .map(|(at, (_, number))| (at, number))
        .max_by_key(|(_, number)| *number)
}

/// The run of numbers that an image holds if both sides consolidated: the target's image of the same name has a span down
/// to an ancestor that the source still has, and of what lies between the source has nothing more either.
fn same_span(index: &Index<'_>, image: &Image, decided: &DecidedSet<'_>, i: usize) -> Option<(Span, usize)> {
    let at = decided.there[i]?;
    let held = index.at(at);
    let Parent::Image(parent) = held.parent else { return None };
    let onto = *decided.source_of.get(&(at.0, parent as u32))?;
    let span = held.span.filter(|span| span.first < span.last && Some(span.last) == image.number)?;
    Some((span, onto))
}
