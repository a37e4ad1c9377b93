//! Files -> sets of linked images. Groups the files by set, lets each kind of link find its parents, and tells what
//! is left over and what is wrong.

use std::borrow::Cow;
use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::draft::{Draft, Gathered, file, gather, left, problems};
use super::{Chains, ImageFile, ImageSet, Knowledge, Member, Other, files, number, time};
use crate::format::{Format, Link, Role};

/// The chains that these files make. Pure; any order of `files` gives the same chains, and no graph of parents,
/// however hostile, keeps it from ending. Linear in the number of files but for sorting what is not sorted.
pub fn assemble(files: &[Member<'_>], known: &Knowledge) -> Chains {
    let members: Cow<'_, [Member<'_>]> = if files.is_sorted_by(|a, b| a.path < b.path) {
        Cow::Borrowed(files)
    } else {
        let mut sorted = files.to_vec();
        sorted.sort_by(|a, b| a.path.cmp(b.path));
        sorted.dedup_by(|a, b| a.path == b.path);
        Cow::Owned(sorted)
    };
    let mut chains = Chains::default();
    let mut claimed = vec![false; members.len()];
    let sorted_out = sort_out(&members, &mut chains.others);

    files::link(&members, &sorted_out.pool, &mut claimed, |id, drafts| {
        finish(id, drafts, Vec::new(), &mut chains);
    });
    let mut homeless = Vec::new();
    let mut group = Vec::new();
    for ((format, id), indices) in sorted_out.groups {
        // One set at a time: a million images are never held twice.
        group.clear();
        group.extend(indices.iter().filter_map(|&at| {
            let member = members[at as usize];
            member.recognised.map(|recognised| (member, recognised))
        }));
        group_of(format, id, gather(&mut group), known, &mut chains, &mut homeless);
    }
    for &at in &sorted_out.loose {
        if !claimed[at] {
            let reason = "no format knows it".to_owned();
            chains.others.push(Other { file: file(&members[at], Role::Anchor), reason });
        }
    }
    chains.sets.sort_by(|a, b| a.id.cmp(&b.id).then(a.format.cmp(&b.format)));
    set_apart(&mut chains.sets);
    house(homeless, &mut chains);
    chains.others.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    chains.problems.sort_by(|a, b| (&a.set, &a.image, &a.what).cmp(&(&b.set, &b.image, &b.what)));
    chains
}

/// A set's name, and the indices of its files.
type Group<'a> = ((Format, &'a str), Vec<u32>);

#[derive(Default)]
struct SortedOut<'a> {
    groups: Vec<Group<'a>>,
    /// Indices of images whose links are by file.
    pool: Vec<u32>,
    /// Indices of files that no format knows.
    loose: Vec<usize>,
}

fn sort_out<'a>(members: &[Member<'a>], others: &mut Vec<Other>) -> SortedOut<'a> {
    let mut out = SortedOut::default();
    let mut index: HashMap<(Format, &'a str), usize> = HashMap::new();
    let mut last: Option<usize> = None;
    for (at, member) in members.iter().enumerate() {
        let Some(recognised) = member.recognised else {
            out.loose.push(at);
            continue;
        };
        if files::by_file(recognised.format, &recognised.link) {
            match recognised.role {
                Role::InProgress => others.push(left(member, recognised, "still being written")),
                _ => out.pool.push(at as u32),
            }
            continue;
        }
        let key = (recognised.format, recognised.set.as_str());
        // Files of one set mostly lie side by side.
        let group = match last {
            Some(group) if out.groups[group].0 == key => group,
            _ => *index.entry(key).or_insert_with(|| {
                out.groups.push((key, Vec::new()));
                out.groups.len() - 1
            }),
        };
        out.groups[group].1.push(at as u32);
        last = Some(group);
    }
    out
}

struct Homeless {
    format: Format,
    files: Vec<ImageFile>,
}

fn group_of<'a>(
    format: Format,
    id: &str,
    gathered: Gathered<'a>,
    known: &Knowledge,
    chains: &mut Chains,
    homeless: &mut Vec<Homeless>,
) {
    let Gathered { mut drafts, set_files, left } = gathered;
    chains.others.extend(left);
    let mut set_files: Vec<ImageFile> = set_files.iter().map(|m| file(m, Role::SetFile)).collect();
    set_files.sort_by(|a, b| a.path.cmp(&b.path));
    if drafts.is_empty() {
        if !set_files.is_empty() {
            homeless.push(Homeless { format, files: set_files });
        }
        return;
    }
    if drafts.iter().any(|d| matches!(d.link, Link::Time | Link::Moment { .. })) {
        let mut sets = time::link(drafts);
        // What belongs to the set as a whole describes its newest generation.
        let newest = sets.iter().rposition(|s| s[0].missing.is_none()).unwrap_or(sets.len() - 1);
        for (at, drafts) in sets.drain(..).enumerate() {
            let own = if at == newest { std::mem::take(&mut set_files) } else { Vec::new() };
            let first = &drafts[0];
            let name = match first.parent {
                super::Parent::None => crate::format::show(first.anchor.path),
                _ => id.to_owned(),
            };
            finish(name, drafts, own, chains);
        }
        return;
    }
    number::link(&mut drafts, known);
    finish(id.to_owned(), drafts, set_files, chains);
}

fn finish(id: String, drafts: Vec<Draft<'_>>, set_files: Vec<ImageFile>, chains: &mut Chains) {
    let Some(first) = drafts.first() else { return };
    let format = first.format;
    problems(&id, &drafts, &mut chains.problems);
    // Not `collect`: that would keep the drafts' allocation, which is nearly twice as large.
    let mut images = Vec::with_capacity(drafts.len());
    images.extend(drafts.into_iter().map(Draft::finish));
    chains.sets.push(ImageSet { id, format, images, set_files });
}

/// Two formats could name their sets alike: the later one says its format then.
fn set_apart(sets: &mut [ImageSet]) {
    for at in 1..sets.len() {
        if sets[at].id == sets[at - 1].id {
            let format = format!("{:?}", sets[at].format).to_lowercase();
            sets[at].id.push_str(&format!(" ({format})"));
        }
    }
}

/// A set's file whose name matches no set goes to the last set of its format in its directory.
fn house(homeless: Vec<Homeless>, chains: &mut Chains) {
    for Homeless { format, files } in homeless {
        for file in files {
            let directory = file.path.parent();
            let here = |set: &&mut ImageSet| {
                set.format == format
                    && set.images.first().and_then(|i| TargetPath::parent(&i.id)) == directory
            };
            match chains.sets.iter_mut().rev().find(here) {
                Some(set) => set.set_files.push(file),
                None => chains
                    .others
                    .push(Other { file, reason: "belongs to a set of which no image is here".to_owned() }),
            }
        }
    }
    for set in &mut chains.sets {
        set.set_files.sort_by(|a, b| a.path.cmp(&b.path));
    }
}
