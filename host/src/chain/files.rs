//! Parents by file: a header names its parent's file (qcow2), or by identity. Graphs may be anything: the names come
//! from headers. A file that no format knows and that a header names as its parent is a raw base; one that a header
//! names as holding its content is a part.

use std::collections::HashMap;

use super::draft::Draft;
use super::{Member, Parent};
use crate::format::{Format, ImageKind, Link, Role};

/// The images of the pool, in sets: (set id, drafts with ancestors first). Indices of `members` that were claimed as
/// raw bases or parts are set in `claimed`.
pub(super) fn link<'a>(
    members: &[Member<'a>],
    pool: &[usize],
    claimed: &mut [bool],
) -> Vec<(String, Vec<Draft<'a>>)> {
    let mut nodes: Vec<(usize, Draft<'a>)> = Vec::with_capacity(pool.len());
    // Member -> node, so that no path is hashed.
    let mut node_of = vec![u32::MAX; members.len()];
    for &at in pool {
        if let Some(recognised) = members[at].recognised {
            node_of[at] = nodes.len() as u32;
            nodes.push((at, Draft::new(members[at], recognised)));
        }
    }
    let ids: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .filter_map(|(node, (_, draft))| match draft.link {
            Link::Id { id, .. } => Some((id.as_str(), node)),
            _ => None,
        })
        .collect();
    let mut parents: Vec<Parent> = Vec::with_capacity(nodes.len());
    for node in 0..pool.len().min(nodes.len()) {
        let (at, draft) = &nodes[node];
        let (at, format, link) = (*at, draft.format, draft.link);
        let parent = match link {
            Link::File(path) => match find(members, at, path) {
                Some(found) if node_of[found] != u32::MAX => Parent::Image(node_of[found] as usize),
                Some(found) if members[found].recognised.is_none() => {
                    node_of[found] = nodes.len() as u32;
                    claimed[found] = true;
                    nodes.push((found, Draft::with(members[found], format, ImageKind::Base, &Link::None)));
                    Parent::Image(nodes.len() - 1)
                }
                Some(_) => Parent::Missing(format!("a disk image named '{}'", path.display())),
                None => Parent::Missing(format!("the file '{}'", path.display())),
            },
            Link::Outside(why) => Parent::Missing(format!("its parent: {why}")),
            Link::Id { parent: Some(parent), .. } => match ids.get(parent.as_str()) {
                Some(&found) => Parent::Image(found),
                None => Parent::Missing(format!("the image with identity {parent}")),
            },
            _ => Parent::None,
        };
        parents.push(parent);
    }
    parents.resize(nodes.len(), Parent::None);
    claim_parts(members, &node_of, &mut nodes, claimed);
    sets(members, nodes, parents)
}

/// Data files that headers name become parts of their image.
fn claim_parts<'a>(
    members: &[Member<'a>],
    node_of: &[u32],
    nodes: &mut [(usize, Draft<'a>)],
    claimed: &mut [bool],
) {
    for (at, draft) in nodes.iter_mut() {
        let Some(recognised) = draft.anchor.recognised else { continue };
        for (part, path) in (2..).zip(&recognised.parts) {
            match find(members, *at, path) {
                None => draft.lacks = Some(format!("its data file '{}' is missing", path.display())),
                Some(found)
                    if claimed[found]
                        || node_of[found] != u32::MAX
                        || members[found].recognised.is_some() =>
                {
                    draft.remark =
                        Some(format!("its data file '{}' belongs to another image too", path.display()));
                }
                Some(found) => {
                    claimed[found] = true;
                    draft.others.push((members[found], Role::Part(part)));
                }
            }
        }
    }
}

fn sets<'a>(
    members: &[Member<'a>],
    nodes: Vec<(usize, Draft<'a>)>,
    mut parents: Vec<Parent>,
) -> Vec<(String, Vec<Draft<'a>>)> {
    let (roots, depths) = roots(&mut parents);
    // Orphans of one missing parent are one set, named by what is missing: it keeps its name when that comes back.
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut set_of_root = vec![usize::MAX; nodes.len()];
    let mut ids: Vec<String> = Vec::new();
    for node in 0..nodes.len() {
        let root = roots[node];
        if set_of_root[root] == usize::MAX {
            let draft = &nodes[root].1;
            let path = match (&parents[root], draft.link) {
                (Parent::Missing(_), Link::File(path)) => path,
                _ => members[nodes[root].0].path,
            };
            let name = crate::format::show(path);
            let next = ids.len();
            set_of_root[root] = *names.entry(name).or_insert_with_key(|name| {
                ids.push(name.clone());
                next
            });
        }
    }
    let mut sequence: Vec<usize> = (0..nodes.len()).collect();
    sequence.sort_by_key(|&node| (set_of_root[roots[node]], depths[node], nodes[node].0));
    let mut out: Vec<(String, Vec<Draft<'a>>)> = ids.into_iter().map(|id| (id, Vec::new())).collect();
    let mut positions = vec![0usize; nodes.len()];
    let mut slots: Vec<Option<Draft<'a>>> = nodes.into_iter().map(|(_, draft)| Some(draft)).collect();
    for node in sequence {
        let set = &mut out[set_of_root[roots[node]]].1;
        let Some(mut draft) = slots[node].take() else { continue };
        draft.parent = match std::mem::replace(&mut parents[node], Parent::None) {
            Parent::Image(parent) => Parent::Image(positions[parent]),
            other => other,
        };
        let parent = if let Parent::Image(parent) = draft.parent { set.get(parent) } else { None };
        draft.settle(parent);
        positions[node] = set.len();
        set.push(draft);
    }
    out
}

/// Root and depth of every node. Whatever lies on a cycle becomes `Parent::Cycle`, a root of its own; of one cycle all
/// get the first node as their root, so that they stay one set.
fn roots(parents: &mut [Parent]) -> (Vec<usize>, Vec<usize>) {
    const UNSEEN: usize = usize::MAX;
    const OPEN: usize = usize::MAX - 1;
    let mut roots = vec![UNSEEN; parents.len()];
    let mut depths = vec![0; parents.len()];
    let mut trail = Vec::new();
    for start in 0..parents.len() {
        let mut at = start;
        while roots[at] == UNSEEN {
            roots[at] = OPEN;
            trail.push(at);
            let Parent::Image(parent) = parents[at] else { break };
            at = parent;
        }
        if roots[at] == OPEN && matches!(parents[at], Parent::Image(_)) {
            // `at` was reached a second time: the trail from it on is a cycle.
            let entry = trail.iter().position(|&node| node == at).unwrap_or(0);
            let first = trail[entry..].iter().copied().min().unwrap_or(at);
            for node in trail.drain(entry..) {
                parents[node] = Parent::Cycle;
                roots[node] = first;
            }
        }
        while let Some(node) = trail.pop() {
            (roots[node], depths[node]) = match parents[node] {
                Parent::Image(parent) => (roots[parent], depths[parent] + 1),
                _ => (node, 0),
            };
        }
    }
    (roots, depths)
}

/// The member with that path, looked for around `near` first: chains lie side by side.
fn find(members: &[Member<'_>], near: usize, path: &offsite_plugin_api::TargetPath) -> Option<usize> {
    let (mut low, mut high) = (near, near + 1);
    let mut step = 1;
    while low > 0 && members[low].path > path {
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 1;
    while high < members.len() && members[high - 1].path < path {
        high = (high + step).min(members.len());
        step *= 2;
    }
    members[low..high].binary_search_by(|m| m.path.cmp(path)).ok().map(|at| low + at)
}

/// Whether a file's set shows only in headers.
pub(super) fn by_file(format: Format, link: &Link) -> bool {
    format == Format::Qcow2 || matches!(link, Link::File(_) | Link::Outside(_) | Link::Id { .. })
}
