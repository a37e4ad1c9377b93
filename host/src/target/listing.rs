//! What is on a target, as one list: images and other files, and the host's own names apart from them.
//!
//! What a server lists is not trusted: kinds other than files are reported and left alone, and a directory that carries a
//! claim marker of its own is another target's, whatever is in it.

use std::collections::BTreeSet;

use offsite_plugin_api::{Backend, Call, Entry, EntryKind, ErrorKind, TargetPath};

use super::Incomplete;
use super::names::{self, Own};
use super::{Files, TargetFile};
use crate::error::{Error, Kind, Result};

/// Entries at most: a server that lists for ever is stopped here.
const MOST: usize = 50_000_000;

#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// None of the host's own.
    pub files: Files,
    /// Visible staging names.
    pub staging: Vec<Entry>,
    /// Side names of swaps.
    pub sides: Vec<Entry>,
    pub manifests: Vec<Entry>,
    pub marker: bool,
    /// Directories that are other targets: nothing below them is looked at.
    pub nested: Vec<TargetPath>,
    /// Neither files nor directories.
    pub strange: Vec<TargetPath>,
    /// Directories of which it leaves something out.
    pub incomplete: Incomplete,
}

impl Listing {
    /// Whether a path belongs to another target that lies inside this one.
    pub fn is_foreign(&self, path: &TargetPath) -> bool {
        self.nested.iter().any(|dir| path.starts_with(dir))
    }
}

/// Lists a target wholly. A root that does not exist is an empty target.
///
/// Errors: the backend's; `Backend(Corrupt)` for a server whose pages never end.
pub fn list(backend: &dyn Backend, call: &Call) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut files = Vec::new();
    let mut page: Option<Vec<u8>> = None;
    let mut pages = BTreeSet::new();
    let mut count = 0;
    loop {
        let answer = match backend.list(call, &TargetPath::root(), true, page.as_deref()) {
            Ok(answer) => answer,
            Err(e) if *e.kind() == ErrorKind::NotFound && page.is_none() => return Ok(listing),
            Err(e) => return Err(e.into()),
        };
        count += answer.entries.len() + answer.incomplete.len();
        for (dir, why) in answer.incomplete {
            listing.incomplete.entry(dir).or_insert(why);
        }
        for entry in answer.entries {
            files.extend(sort_in(&mut listing, entry).map(TargetFile::from));
        }
        match answer.next {
            None => break,
            Some(next) if count <= MOST && pages.insert(*blake3::hash(&next).as_bytes()) => page = Some(next),
            Some(_) => {
                return Err(Error::new(
                    Kind::Backend(ErrorKind::Corrupt),
                    "the target's listing does not end",
                )
                .because(format!(
                    "after {} a page came twice, or there are too many",
                    crate::words::count(count as u64, "entry")
                )));
            }
        }
    }
    if !listing.nested.is_empty() {
        let nested = std::mem::take(&mut listing.nested);
        let foreign = |path: &TargetPath| nested.iter().any(|dir| path.starts_with(dir));
        files.retain(|f: &TargetFile| !foreign(&f.entry.path));
        for list in [&mut listing.staging, &mut listing.sides, &mut listing.manifests] {
            list.retain(|e| !foreign(&e.path));
        }
        listing.strange.retain(|path| !foreign(path));
        listing.incomplete.retain(|dir, _| !foreign(dir));
        listing.nested = nested;
    }
    listing.files = Files::listed(files);
    Ok(listing)
}

/// Gives a file that is not the host's own back.
fn sort_in(listing: &mut Listing, entry: Entry) -> Option<Entry> {
    match entry.kind {
        EntryKind::Dir => return None,
        EntryKind::Other => {
            listing.strange.push(entry.path);
            return None;
        }
        EntryKind::File => {}
    }
    match names::parse(&entry.path) {
        Some(Own::Marker) => listing.marker = true,
        Some(Own::Manifest) => listing.manifests.push(entry),
        Some(Own::Staging { .. }) => listing.staging.push(entry),
        Some(Own::Side { .. }) => listing.sides.push(entry),
        None if entry.path.name() == names::MARKER.as_bytes() => {
            listing.nested.push(entry.path.parent().unwrap_or_default());
        }
        None => return Some(entry),
    }
    None
}
