//! Parents by number: the image before, in the same branch; what a span covers is stepped over.
//!
//! A differential hangs on its base. A name that says "consolidated" (ShadowProtect) hangs on the highest smaller
//! number that still exists, and what follows it attaches to its number.

use super::draft::Draft;
use super::{Evidence, Knowledge, Parent, Span};
use crate::format::{Format, ImageKind, Link};

/// A draft's place.
fn place<'a>(draft: &Draft<'a>) -> (&'a [u64], u64, bool) {
    match draft.link {
        Link::Number { branch, number, consolidated } => (branch, *number, *consolidated),
        // A set of numbered names holds nothing else, unless records of several versions meet: last, alone.
        _ => (&[], u64::MAX, false),
    }
}

/// Orders the drafts, ancestors first, and links them.
pub(super) fn link(drafts: &mut [Draft<'_>], known: &Knowledge) {
    drafts.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.anchor.path.cmp(b.anchor.path)));
    let mut bases: Vec<usize> = Vec::new();
    let mut start = 0;
    for at in 0..drafts.len() {
        let (branch, number, consolidated) = place(&drafts[at]);
        if at > 0 {
            let before = place(&drafts[at - 1]);
            if before.0 != branch {
                start = at;
            } else if (before.1, before.2) == (number, consolidated) && !consolidated {
                let other = drafts[at - 1].anchor.path.display();
                drafts[at].remark = Some(format!("claims the same place as '{other}'"));
            }
        }
        if matches!(drafts[at].link, Link::Number { .. }) {
            drafts[at].apply(known, number);
        }
        let parent = match drafts[at].kind {
            ImageKind::Base => {
                bases.push(at);
                Parent::None
            }
            ImageKind::Differential => differential(drafts, &bases, at),
            ImageKind::Incremental => incremental(drafts, start, at, consolidated),
        };
        if let (Parent::Image(parent), true, None) = (&parent, consolidated, drafts[at].evidence) {
            let below = drafts[*parent].number.unwrap_or(0);
            drafts[at].span = Some(Span { first: (below + 1).min(number), last: number });
            drafts[at].evidence = Some(Evidence::Name);
        }
        drafts[at].parent = parent;
    }
    files_between(drafts);
    for at in 0..drafts.len() {
        let (done, rest) = drafts.split_at_mut(at);
        let parent = if let Parent::Image(parent) = rest[0].parent { done.get(parent) } else { None };
        rest[0].settle(parent);
    }
    prefer_whole(drafts);
}

/// The base of the same branch, or of the branch this one grows from.
fn differential(drafts: &[Draft<'_>], bases: &[usize], at: usize) -> Parent {
    let draft = &drafts[at];
    let (branch, ..) = place(draft);
    let fits = |&&base: &&usize| branch.starts_with(place(&drafts[base]).0);
    let base =
        bases.iter().filter(fits).max_by_key(|&&base| (place(&drafts[base]).0.len(), usize::MAX - base));
    let Some(&base) = base else { return Parent::Missing("the base".to_owned()) };
    if draft.format != Format::Virtnbdbackup {
        return Parent::Image(base);
    }
    // virtnbdbackup's holds what changed since the last full or incremental backup, and its name does not say which:
    // the highest that is no younger.
    let trunk = place(&drafts[base]).0;
    let older = |&other: &usize| {
        let other = &drafts[other];
        place(other).0 == trunk
            && other.kind != ImageKind::Differential
            && other.anchor.mtime_ns <= draft.anchor.mtime_ns
    };
    Parent::Image((base..at).rev().find(older).unwrap_or(base))
}

fn incremental(drafts: &[Draft<'_>], start: usize, at: usize, consolidated: bool) -> Parent {
    let (branch, number, _) = place(&drafts[at]);
    let first = drafts[at].span.map_or(number, |s| s.first);
    let earlier = &drafts[start..at];
    // Everything with a smaller number than this image holds.
    let below = earlier.partition_point(|d| place(d).1 < first);
    if below == 0 {
        let what = match (branch.last(), first.saturating_sub(1)) {
            (Some(differential), 0) => format!("differential {differential}"),
            (Some(differential), _) => format!("differential {differential} and the increments after it"),
            (None, 0) => "the base".to_owned(),
            (None, 1) => "the base or increment 1".to_owned(),
            (None, last) => format!("the base and the increments up to {last}"),
        };
        return Parent::Missing(what);
    }
    let highest = place(&earlier[below - 1]).1;
    if highest + 1 == first || consolidated {
        // Of several with one number the consolidated one sorts last: it outlives those that it holds.
        return Parent::Image(start + below - 1);
    }
    Parent::Missing(match (highest + 1, first - 1) {
        (a, b) if a == b => format!("increment {a}"),
        (a, b) => format!("increments {a} to {b}"),
    })
}

/// Where several images hold one number, a child hangs on one that is restorable.
fn prefer_whole(drafts: &mut [Draft<'_>]) {
    let mut changed = false;
    for at in 0..drafts.len() {
        let Parent::Image(parent) = drafts[at].parent else { continue };
        if drafts[parent].restorable {
            if changed {
                let (done, rest) = drafts.split_at_mut(at);
                rest[0].settle(done.get(parent));
            }
            continue;
        }
        let (branch, number, _) = place(&drafts[parent]);
        let twin = (0..parent)
            .rev()
            .take_while(|&i| place(&drafts[i]).0 == branch && place(&drafts[i]).1 == number)
            .find(|&i| drafts[i].restorable);
        if let Some(twin) = twin {
            drafts[at].parent = Parent::Image(twin);
            changed = true;
            let (done, rest) = drafts.split_at_mut(at);
            rest[0].settle(done.get(twin));
        }
    }
}

/// File numbers that run on through a set show a part that is missing between two neighbours, not whose it was.
fn files_between(drafts: &mut [Draft<'_>]) {
    for at in 0..drafts.len() {
        let Some((first, _)) = drafts[at].running else { continue };
        if drafts[at].kind == ImageKind::Base && first > 0 && drafts[at].lacks.is_none() {
            drafts[at].lacks = Some("file 00 of the split image is missing".to_owned());
        }
        let Parent::Image(parent) = drafts[at].parent else { continue };
        let Some((_, last)) = drafts[parent].running else { continue };
        if first > last.saturating_add(1) && drafts[parent].number.map(|n| n + 1) == drafts[at].number {
            let what = format!("file {:02} of the set is missing, a part of one of two images", last + 1);
            for image in [parent, at] {
                drafts[image].lacks.get_or_insert_with(|| what.clone());
            }
        }
    }
}
