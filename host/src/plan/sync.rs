//! What keeps a mirror from deleting at all. Every rule here answers one way a mirror has wiped what it should have
//! kept: a source that is empty, unmounted, another one.
//!
//! Images and other files are judged apart: what is left of the one says nothing of the other.

use std::collections::HashSet;

use offsite_plugin_api::TargetPath;

use super::explain::Reason;
use super::index::Index;
use crate::format::Role;
use crate::target::TargetFile;

/// What a file on the target is to these rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Image,
    /// A file that no format knows, replicated because the user wants such files.
    Other,
    /// A side-car, a part, a set's file: counted with its image, and vouches for nothing.
    Beside,
    /// One of those that goes alone, while its image stays as it is.
    Alone,
}

/// By what was recorded of it.
pub(crate) fn class(path: &TargetPath, file: &TargetFile) -> Class {
    match &file.recorded {
        Some(recorded) if recorded.set.is_empty() => Class::Other,
        Some(recorded) => {
            let known = file.recognised().is_none_or(|r| matches!(r.role, Role::Anchor | Role::Running(_)));
            let own = path.as_bytes().ends_with(recorded.image.as_bytes());
            if known && own { Class::Image } else { Class::Beside }
        }
        None => Class::Beside,
    }
}

/// Why nothing may be deleted in this run.
pub(crate) fn forbidden<'a>(index: &Index<'a>) -> Option<Reason<'a>> {
    let inventory = index.input.inventory;
    if !index.input.options.sync {
        return Some(Reason::KeptNoSync);
    }
    if inventory.files.is_empty() && inventory.unsettled.is_empty() {
        return Some(Reason::EmptySource);
    }
    None
}

/// What this job manages on the target, and whether anything of it is at the source still.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Managed {
    pub images: usize,
    pub others: usize,
    /// Files beside images.
    pub beside: usize,
    pub images_left: bool,
    pub others_left: bool,
}

/// `unmatched`: what the target lists and the source does not, sorted.
pub(crate) fn managed(index: &Index<'_>, unmatched: &[&TargetPath]) -> Managed {
    let gone: HashSet<_> = unmatched.iter().copied().collect();
    let mut managed = Managed::default();
    for (path, file) in index.input.target.files.iter() {
        let Some(recorded) = &file.recorded else { continue };
        let left = !gone.contains(path) || index.unsettled.contains_key(&recorded.image);
        match class(path, file) {
            Class::Image => {
                managed.images += 1;
                managed.images_left |= left;
            }
            Class::Other => {
                managed.others += 1;
                managed.others_left |= left;
            }
            Class::Beside | Class::Alone => managed.beside += 1,
        }
    }
    managed
}

/// Whether a path was found absent in two scans one settle time apart. With a settle time of zero there still were two.
pub(crate) fn twice_absent(index: &Index<'_>, path: &TargetPath) -> bool {
    let inventory = index.input.inventory;
    index.absent_since(path).is_some_and(|since| {
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

/// Whether deleting `counted` of `managed` is more than the user allows.
pub(crate) fn over_limit(index: &Index<'_>, counted: usize, managed: usize) -> bool {
    let options = index.input.options;
    !options.allow_deletes && counted as f64 > options.max_delete * managed as f64
}
