//! The files of a target, by path: one sorted list. A million come at once, are walked in order beside the source's, and
//! none is added later; a tree would hold each name twice.

use std::sync::atomic::{AtomicUsize, Ordering};

use offsite_plugin_api::{EntryKind, TargetPath};

use super::{Recorded, TargetFile};

/// Sorted by path, no path twice, regular files only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(Vec<TargetFile>, Near);

/// Where the last one was found. Who asks for an image asks for it again, and then for one beside it: with a million of
/// them, every search saved counts. It changes no answer.
#[derive(Debug, Default)]
struct Near(AtomicUsize);

impl Clone for Near {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Near {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Near {}

impl Files {
    /// From a listing in any order. What is no regular file is left out; of several entries for one path the last counts.
    pub fn listed(mut files: Vec<TargetFile>) -> Self {
        files.retain(|f| f.entry.kind == EntryKind::File);
        // Stable, so that the last listed of a path is the last here; in order already, it costs one pass.
        files.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        files.dedup_by(|later, kept| {
            let same = later.entry.path == kept.entry.path;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        files.shrink_to_fit();
        Self(files, Near::default())
    }

    /// With files that the listing left out.
    pub fn and(mut self, more: Vec<TargetFile>) -> Self {
        if more.is_empty() {
            return self;
        }
        self.0.extend(more);
        Self::listed(self.0)
    }

    pub fn get(&self, path: &TargetPath) -> Option<&TargetFile> {
        let last = self.1.0.load(Ordering::Relaxed);
        let is_at = |at: usize| self.0.get(at).is_some_and(|f| f.entry.path == *path);
        let beside = [last, last.wrapping_add(1), last.wrapping_sub(1)];
        let at = match beside.into_iter().find(|&at| is_at(at)) {
            Some(at) => at,
            None => self.0.binary_search_by(|f| f.entry.path.cmp(path)).ok()?,
        };
        if at != last {
            self.1.0.store(at, Ordering::Relaxed);
        }
        Some(&self.0[at])
    }

    /// What is recorded of the file of that path, if it is here and recorded.
    pub fn recorded(&self, path: &TargetPath) -> Option<&Recorded> {
        self.get(path)?.recorded.as_deref()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&TargetPath, &TargetFile)> + ExactSizeIterator {
        self.0.iter().map(|f| (&f.entry.path, f))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &TargetPath> + ExactSizeIterator {
        self.0.iter().map(|f| &f.entry.path)
    }

    pub fn values(&self) -> std::slice::Iter<'_, TargetFile> {
        self.0.iter()
    }

    pub(super) fn into_files(self) -> Vec<TargetFile> {
        self.0
    }

    /// For what is learned of a file; its path stays.
    pub(super) fn values_mut(&mut self) -> std::slice::IterMut<'_, TargetFile> {
        self.0.iter_mut()
    }
}

impl std::ops::Index<&TargetPath> for Files {
    type Output = TargetFile;

    fn index(&self, path: &TargetPath) -> &TargetFile {
        self.get(path).expect("the file is on the target")
    }
}

#[cfg(test)]
mod tests {
    use offsite_plugin_api::Entry;

    use super::*;

    #[test]
    fn files_are_found_by_path_whatever_the_order_of_the_listing() {
        let path = |name: &str| TargetPath::new(name).unwrap();
        let entry = |name: &str, size| Entry::file(path(name), size);
        let dir = Entry { kind: EntryKind::Dir, ..entry("d", 0) };
        let listing = [entry("b", 1), dir, entry("a/x", 2), entry("b", 3), entry("a", 4)];
        let files = Files::listed(listing.into_iter().map(TargetFile::from).collect());
        assert_eq!(files.keys().map(TargetPath::display).collect::<Vec<_>>(), ["a", "a/x", "b"]);
        assert_eq!(files.values().map(|f| f.entry.size).collect::<Vec<_>>(), [4, 2, 3]);
        assert_eq!(files.get(&path("b")).map(|f| f.entry.size), Some(3), "the last listed counts");
        assert!(files.get(&path("d")).is_none() && files.recorded(&path("a")).is_none());
        // Whatever was asked for before.
        let known = [("a", Some(4)), ("a/x", Some(2)), ("b", Some(3)), ("c", None), ("", None)];
        for (first, _) in known {
            for (name, size) in known.into_iter().filter(|(name, _)| !name.is_empty()) {
                let _ = TargetPath::new(first).ok().and_then(|p| files.get(&p).map(|f| f.entry.size));
                assert_eq!(files.get(&path(name)).map(|f| f.entry.size), size, "{name} after {first}");
            }
        }
    }
}
