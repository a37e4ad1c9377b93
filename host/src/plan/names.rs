//! Whether the target can hold a file: its name, its length, its size, and names that would fall together there.
//!
//! Everything is judged before anything runs: a name that a server folds onto another would overwrite it.

use std::collections::HashMap;

use crate::target::names::{folded, is_own, is_own_name};
use offsite_plugin_api::{Capabilities, NameRules, Normalisation, TargetPath};
use unicode_normalization::UnicodeNormalization as _;

/// Why the target cannot hold this file; `None` when it can.
pub(crate) fn refused(path: &TargetPath, size: u64, capabilities: &Capabilities) -> Option<String> {
    if let Some(largest) = capabilities.largest_file.filter(|&l| size > l) {
        return Some(format!(
            "the target takes files up to {largest} bytes, '{}' has {size}",
            path.display()
        ));
    }
    if let Some(parts) = &capabilities.part_sizes {
        let most = parts.largest.saturating_mul(u64::from(parts.most_parts));
        if size > most {
            return Some(format!(
                "the target takes files up to {most} bytes in parts, '{}' has {size}",
                path.display()
            ));
        }
    }
    let rules = &capabilities.names;
    let bytes = path.as_bytes();
    if bytes.len() as u64 > u64::from(rules.longest_path) {
        return Some(format!("its path has {} bytes, the target takes {}", bytes.len(), rules.longest_path));
    }
    let simple = rules.refused.is_empty()
        && rules.refused_names.is_empty()
        && rules.refused_endings.is_empty()
        && !rules.utf8_only;
    if own(path, rules) {
        return Some(format!("'{}' is a name that offsite uses itself on a target", path.display()));
    }
    for name in bytes.split(|&b| b == b'/') {
        if name.len() as u64 > u64::from(rules.longest_name) {
            return Some(format!(
                "its name '{}' has {} bytes, the target takes {}",
                name.escape_ascii(),
                name.len(),
                rules.longest_name
            ));
        }
        if !simple && let Some(why) = component(name, rules) {
            return Some(why);
        }
    }
    None
}

/// One of the host's own names, or a spelling that the target takes for one.
fn own(path: &TargetPath, rules: &NameRules) -> bool {
    // Cheap first: nearly no path has it.
    if !path.as_bytes().windows(8).any(|w| w.eq_ignore_ascii_case(b"offsite-")) {
        return false;
    }
    let lower = || TargetPath::new(path.as_bytes().to_ascii_lowercase());
    // In a sub-folder, too: a marker's name there would make that folder another target's.
    let own = |path: &TargetPath| is_own(path) || is_own_name(path.name());
    own(path) || (!rules.case_sensitive && lower().is_ok_and(|p| own(&p)))
}

fn component(name: &[u8], rules: &NameRules) -> Option<String> {
    let Ok(text) = std::str::from_utf8(name) else {
        return (rules.utf8_only || !rules.refused.is_empty())
            .then(|| format!("the target takes UTF-8 names only, '{}' is none", name.escape_ascii()));
    };
    if let Some(c) = text.chars().find(|&c| rules.refused.contains(c)) {
        return Some(format!("the target refuses the character {c:?} in '{text}'"));
    }
    if let Some(c) = text.chars().next_back().filter(|&c| rules.refused_endings.contains(c)) {
        return Some(format!("the target cuts off the {c:?} at the end of '{text}'"));
    }
    let stem = text.split('.').next().unwrap_or(text);
    rules
        .refused_names
        .iter()
        .find(|r| r.eq_ignore_ascii_case(stem) || r.eq_ignore_ascii_case(text))
        .map(|r| format!("the target refuses the name '{r}'"))
}

/// A source path in the normalisation in which the target lists names; unchanged where it keeps bytes.
pub(crate) fn normalised(path: &TargetPath, rules: &NameRules) -> TargetPath {
    let Ok(text) = std::str::from_utf8(path.as_bytes()) else {
        return path.clone();
    };
    if text.is_ascii() {
        return path.clone();
    }
    let text: String = match rules.normalisation {
        Normalisation::Preserved => return path.clone(),
        Normalisation::Nfc => text.nfc().collect(),
        Normalisation::Nfd => text.nfd().collect(),
    };
    TargetPath::new(text).unwrap_or_else(|_| path.clone())
}

/// Whether two different names can be one on this target.
pub(crate) fn folds(rules: &NameRules) -> bool {
    !rules.case_sensitive || rules.normalisation != Normalisation::Preserved
}

/// Finds paths that are one on the target though they are two at the source (or one at each).
///
/// Directories count: where `A` and `a` are one, the files of both would be listed under a single spelling, and would
/// seem to be missing for ever.
pub(crate) struct Collisions {
    case_sensitive: bool,
    /// Folded path of every file and directory -> its first spelling.
    spelled: HashMap<String, TargetPath>,
    /// Folded path of every source file -> its path at the source.
    taken: HashMap<String, TargetPath>,
}

impl Collisions {
    pub fn new(rules: &NameRules) -> Self {
        Self { case_sensitive: rules.case_sensitive, spelled: HashMap::new(), taken: HashMap::new() }
    }

    fn fold(&self, bytes: &[u8]) -> String {
        folded(bytes, self.case_sensitive)
    }

    /// Adds a source file under the path the target would list; the source path or the target's spelling that it falls
    /// together with, if any, and then it is not added. First come, first served: add what the target has, then the
    /// source in path order.
    pub fn claim(&mut self, source: &TargetPath, path: &TargetPath) -> Option<TargetPath> {
        let folded = self.fold(path.as_bytes());
        if let Some(other) = self.taken.get(&folded).filter(|&o| o != source) {
            return Some(other.clone());
        }
        let other = self.add(path);
        if other.is_none() {
            self.taken.insert(folded, source.clone());
        }
        other
    }

    /// Adds what the target lists.
    pub fn add(&mut self, path: &TargetPath) -> Option<TargetPath> {
        let bytes = path.as_bytes();
        let ends =
            bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at).chain([bytes.len()]);
        let mut fresh = Vec::new();
        for end in ends {
            let folded = self.fold(&bytes[..end]);
            match self.spelled.get(&folded) {
                Some(other) if other.as_bytes() == &bytes[..end] => {}
                Some(other) => return Some(other.clone()),
                None => fresh.push((folded, end)),
            }
        }
        for (folded, end) in fresh {
            if let Ok(spelling) = TargetPath::new(&bytes[..end]) {
                self.spelled.insert(folded, spelling);
            }
        }
        None
    }
}
