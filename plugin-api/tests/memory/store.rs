//! What the backend in memory keeps: files, directories, uploads; and the arithmetic of ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use offsite_plugin_api::*;

#[derive(Clone)]
pub struct File {
    pub bytes: Arc<Vec<u8>>,
    pub version: u64,
    pub mtime: Option<Timestamp>,
}

pub struct Upload {
    pub path: TargetPath,
    pub owner: String,
    pub bytes: Vec<u8>,
    pub ranges: Vec<Range>,
    pub mtime: Option<Timestamp>,
}

#[derive(Default)]
pub struct Store {
    pub files: BTreeMap<TargetPath, File>,
    pub dirs: BTreeSet<TargetPath>,
    pub uploads: BTreeMap<Token, Upload>,
    pub published: BTreeMap<Token, (TargetPath, u64)>,
    pub counter: u64,
}

pub type Shared = Arc<Mutex<Store>>;

pub fn add_dirs(store: &mut Store, mut dir: Option<TargetPath>) {
    while let Some(path) = dir.filter(|d| !d.is_root()) {
        dir = path.parent();
        store.dirs.insert(path);
    }
}

/// What of `0 .. size` is not in `ranges` (sorted, disjoint).
pub fn gaps(ranges: &[Range], size: u64) -> Vec<Range> {
    let mut at = 0;
    let mut gaps = Vec::new();
    for range in ranges.iter().chain([&Range { offset: size, length: 0 }]) {
        if range.offset > at {
            gaps.push(Range { offset: at, length: range.offset - at });
        }
        at = at.max(range.end());
    }
    gaps
}

pub fn merge(ranges: &mut Vec<Range>, new: Range) {
    ranges.push(new);
    ranges.sort();
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if last.end() >= range.offset => {
                last.length = last.end().max(range.end()) - last.offset
            }
            _ => merged.push(range),
        }
    }
    *ranges = merged;
}

pub fn info(token: &Token, upload: &Upload) -> StagedInfo {
    let bytes = upload.ranges.iter().map(|r| r.length).sum();
    StagedInfo {
        token: token.clone(),
        path: Some(upload.path.clone()),
        owner: upload.owner.clone(),
        bytes,
        age: Some(0),
    }
}
