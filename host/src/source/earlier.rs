//! What a file was before it looked as it does now, and until when.
//!
//! A merged image of a closed format does not say which images it took in. Time can say which it did not: what a scan missed
//! while the holder was still as before was not merged, but removed. So the memory keeps, of a file that changed, how it
//! looked before, where something beside it was missing already.

use std::collections::{BTreeMap, HashMap};

use offsite_plugin_api::TargetPath;
use serde::{Deserialize, Serialize};

use super::Seen;

/// How a file looked for a settle time or longer, before it began to change into what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Size in bytes and modification time; `None`: there was no such file.
    pub form: Option<(u64, i64)>,
    /// When a scan first found it otherwise, nanoseconds since the Unix epoch.
    pub until_ns: i64,
}

/// What is known of a file that looks otherwise now than `before`. `fresh`: this is the first scan that is remembered.
pub(super) fn of(before: Option<&Seen>, fresh: bool, now_ns: i64, settle_ns: i64) -> Option<Earlier> {
    let Some(before) = before else {
        return (!fresh).then_some(Earlier { form: None, until_ns: now_ns });
    };
    // Known from a target's record alone, or away meanwhile: nobody saw what it was.
    if before.mtime_ns == i64::MIN || before.absent_ns.is_some() {
        return None;
    }
    if now_ns.saturating_sub(before.since_ns) < settle_ns {
        return before.earlier; // it was changing already
    }
    Some(Earlier { form: Some((before.size, before.mtime_ns)), until_ns: now_ns })
}

/// Since when something is missing in each directory, at the longest.
pub(super) struct Missing<'a>(HashMap<&'a [u8], i64>);

impl<'a> Missing<'a> {
    pub fn in_directories(absent: &'a BTreeMap<TargetPath, i64>) -> Self {
        let mut missing = HashMap::new();
        for (path, since) in absent {
            let earliest = missing.entry(directory(path)).or_insert(*since);
            *earliest = (*earliest).min(*since);
        }
        Self(missing)
    }

    /// Whether something beside this file was missing while it was what it was.
    pub fn before(&self, path: &TargetPath, earlier: &Earlier) -> bool {
        self.0.get(directory(path)).is_some_and(|since| *since < earlier.until_ns)
    }
}

fn directory(path: &TargetPath) -> &[u8] {
    let bytes = path.as_bytes();
    bytes.iter().rposition(|b| *b == b'/').map_or(b"", |at| &bytes[..at])
}
