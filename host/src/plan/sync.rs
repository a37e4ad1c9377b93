//! Whether this run may delete at all. Every rule here answers one way a mirror has wiped what it should have kept: a
//! source that is empty, unmounted, another one, or partly unreadable.

use std::collections::HashSet;

use offsite_plugin_api::TargetPath;

use super::explain::Reason;
use super::index::Index;
use crate::format::Role;

/// Why nothing may be deleted in this run. `unmatched`: what the target lists and the source does not, sorted.
pub(crate) fn forbidden<'a>(index: &Index<'a>, unmatched: &[&TargetPath]) -> Option<Reason<'a>> {
    let inventory = index.input.inventory;
    if !index.input.options.sync {
        return Some(Reason::KeptNoSync);
    }
    if inventory.files.is_empty() && inventory.unsettled.is_empty() {
        return Some(Reason::EmptySource);
    }
    if let Some((dir, _)) = inventory.unreadable.first() {
        return Some(Reason::Unreadable(dir));
    }
    let gone: HashSet<_> = unmatched.iter().copied().collect();
    let recorded = index.input.target.files.iter().filter(|(_, file)| file.recorded.is_some());
    let mut still_there = recorded.filter(|(path, file)| {
        // A side-car or a part beside nothing is no image: it may lie on another file system than the images.
        if file.recognised().is_some_and(|r| !matches!(r.role, Role::Anchor | Role::Running(_))) {
            return false;
        }
        let unfinished = || file.recorded.as_ref().is_some_and(|r| index.unsettled.contains_key(&r.image));
        !gone.contains(path) || unfinished()
    });
    if still_there.next().is_none() {
        return Some(Reason::NothingLeft);
    }
    None
}

/// Whether a path was found absent in two scans one settle time apart. With a settle time of zero there still were two.
pub(crate) fn twice_absent(index: &Index<'_>, path: &TargetPath) -> bool {
    let inventory = index.input.inventory;
    inventory.absent_since.get(path).is_some_and(|&since| {
        since < inventory.scanned_ns && since <= inventory.scanned_ns.saturating_sub(inventory.settle_ns)
    })
}

/// Why a path that the source does not show is not known to be deleted there.
pub(crate) fn not_absent<'a>(index: &Index<'a>, path: &TargetPath) -> Option<Reason<'a>> {
    if twice_absent(index, path) {
        return None;
    }
    let doubt = index.input.inventory.doubt(path);
    Some(doubt.map_or(Reason::NotTwiceAbsent, |doubt| Reason::PlaceUnknown(&doubt.place)))
}

/// Whether deleting `counted` of `managed` images is more than the user allows.
pub(crate) fn over_limit(index: &Index<'_>, counted: usize, managed: usize) -> bool {
    let options = index.input.options;
    !options.allow_deletes && counted as f64 > options.max_delete * managed as f64
}
