//! Parents by file: a header names its parent's file (qcow2), or by identity. Graphs may be anything: the names come
//! from headers. A file that no format knows and that a header names as its parent is a raw base; one that a header
//! names as holding its content is a part.

use std::collections::HashMap;

use offsite_plugin_api::TargetPath;

use super::draft::Draft;
use super::{Member, Parent};
use crate::format::{Format, ImageKind, Link, Role};

/// What is rare about an image: files that its header adds.
#[derive(Default)]
struct Extra<'a> {
    others: Vec<(Member<'a>, Role)>,
    lacks: Option<String>,
    remark: Option<String>,
}

/// Hands each set of the pool to `emit`: its id, its drafts with ancestors first. Indices of `members` that are taken
/// as raw bases or parts are set in `claimed`.
pub(super) fn link<'a>(
    members: &[Member<'a>],
    pool: &[u32],
    claimed: &mut [bool],
    emit: impl FnMut(String, Vec<Draft<'a>>),
) {
    if pool.is_empty() {
        return;
    }
    // Nodes are indices of members; the map back spares hashing a million paths.
    let mut nodes: Vec<u32> = pool.to_vec();
    let mut node_of = vec![u32::MAX; members.len()];
    for (node, &at) in (0..).zip(pool) {
        node_of[at as usize] = node;
    }
    let recognised = |at: u32| members[at as usize].recognised;
    let ids: HashMap<&str, usize> = (0..)
        .zip(pool)
        .filter_map(|(node, &at)| match &recognised(at)?.link {
            Link::Id { id, .. } => Some((id.as_str(), node)),
            _ => None,
        })
        .collect();
    let mut parents: Vec<Parent> = Vec::with_capacity(nodes.len());
    for &at in pool {
        let parent = match recognised(at).map(|r| &r.link) {
            Some(Link::File(path)) => match find(members, at as usize, path) {
                Some(found) if node_of[found] != u32::MAX => Parent::Image(node_of[found] as usize),
                Some(found) if members[found].recognised.is_none() => {
                    node_of[found] = nodes.len() as u32;
                    claimed[found] = true;
                    nodes.push(found as u32);
                    Parent::Image(nodes.len() - 1)
                }
                Some(_) => Parent::Missing(format!("a disk image named '{}'", path.display())),
                None => Parent::Missing(format!("the file '{}'", path.display())),
            },
            Some(Link::Outside(why)) => Parent::Missing(why.clone()),
            Some(Link::Id { parent: Some(parent), .. }) => match ids.get(parent.as_str()) {
                Some(&found) => Parent::Image(found),
                None => Parent::Missing(format!("the image with identity {parent}")),
            },
            _ => Parent::None,
        };
        parents.push(parent);
    }
    parents.resize(nodes.len(), Parent::None);
    let extras = claim_parts(members, &node_of, &nodes, claimed);
    sets(members, &nodes, parents, extras, emit);
}

/// Data files that headers name become parts of their image.
fn claim_parts<'a>(
    members: &[Member<'a>],
    node_of: &[u32],
    nodes: &[u32],
    claimed: &mut [bool],
) -> HashMap<usize, Extra<'a>> {
    let mut extras: HashMap<usize, Extra<'a>> = HashMap::new();
    for (node, &at) in nodes.iter().enumerate() {
        let Some(recognised) = members[at as usize].recognised else { continue };
        for (part, path) in (2..).zip(&recognised.parts) {
            let extra = extras.entry(node).or_default();
            match find(members, at as usize, path) {
                None => extra.lacks = Some(format!("its data file '{}' is missing", path.display())),
                Some(found)
                    if claimed[found]
                        || node_of[found] != u32::MAX
                        || members[found].recognised.is_some() =>
                {
                    extra.remark =
                        Some(format!("its data file '{}' belongs to another image too", path.display()));
                }
                Some(found) => {
                    claimed[found] = true;
                    extra.others.push((members[found], Role::Part(part)));
                }
            }
        }
    }
    extras
}

fn sets<'a>(
    members: &[Member<'a>],
    nodes: &[u32],
    mut parents: Vec<Parent>,
    mut extras: HashMap<usize, Extra<'a>>,
    mut emit: impl FnMut(String, Vec<Draft<'a>>),
) {
    let (roots, depths) = roots(&mut parents);
    // Orphans of one missing parent are one set, named by what is missing: it keeps its name when that comes back.
    let mut names: HashMap<&TargetPath, u32> = HashMap::new();
    let mut set_of_root = vec![u32::MAX; nodes.len()];
    let mut ids: Vec<&TargetPath> = Vec::new();
    for &root in &roots {
        if set_of_root[root] != u32::MAX {
            continue;
        }
        let member = &members[nodes[root] as usize];
        let path = match (&parents[root], member.recognised.map(|r| &r.link)) {
            (Parent::Missing(_), Some(Link::File(path))) => path,
            _ => member.path,
        };
        set_of_root[root] = *names.entry(path).or_insert(ids.len() as u32);
        if set_of_root[root] as usize == ids.len() {
            ids.push(path);
        }
    }
    let mut sequence: Vec<(u32, u32, u32)> =
        (0..nodes.len()).map(|node| (set_of_root[roots[node]], depths[node], node as u32)).collect();
    // Nodes are in path order, but for raw bases, which are roots.
    sequence.sort_unstable_by_key(|&(set, depth, node)| (set, depth, nodes[node as usize]));
    let mut positions = vec![0u32; nodes.len()];
    for run in sequence.chunk_by(|a, b| a.0 == b.0) {
        let mut set: Vec<Draft<'a>> = Vec::with_capacity(run.len());
        for &(_, _, node) in run {
            let node = node as usize;
            positions[node] = set.len() as u32;
            let parent = match std::mem::replace(&mut parents[node], Parent::None) {
                Parent::Image(parent) => Parent::Image(positions[parent] as usize),
                other => other,
            };
            let draft = draft(members[nodes[node] as usize], parent, extras.remove(&node), &set);
            set.push(draft);
        }
        emit(crate::format::show(ids[run[0].0 as usize]), set);
    }
}

fn draft<'a>(member: Member<'a>, parent: Parent, extra: Option<Extra<'a>>, set: &[Draft<'a>]) -> Draft<'a> {
    let mut draft = match member.recognised {
        Some(recognised) => Draft::new(member, recognised),
        // A raw file that a header names as its parent.
        None => {
            Draft::with(member, set.first().map_or(Format::Qcow2, |d| d.format), ImageKind::Base, &Link::None)
        }
    };
    if let Some(extra) = extra {
        (draft.others, draft.lacks, draft.remark) = (extra.others, extra.lacks, extra.remark);
    }
    draft.parent = parent;
    let parent = if let Parent::Image(parent) = draft.parent { set.get(parent) } else { None };
    draft.settle(parent);
    draft
}

/// Root and depth of every node. Whatever lies on a cycle becomes `Parent::Cycle`, a root of its own; of one cycle all
/// get the first node as their root, so that they stay one set.
fn roots(parents: &mut [Parent]) -> (Vec<usize>, Vec<u32>) {
    const UNSEEN: usize = usize::MAX;
    const OPEN: usize = usize::MAX - 1;
    let mut roots = vec![UNSEEN; parents.len()];
    let mut depths = vec![0u32; parents.len()];
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
fn find(members: &[Member<'_>], near: usize, path: &TargetPath) -> Option<usize> {
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
