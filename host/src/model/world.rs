//! The simulated world: clock, source, machines, what became of every file, and one judge for each target.

use std::collections::BTreeMap;

use offsite_plugin_api::TargetPath;

use super::content::{Id, Library};
use super::oracle::Judge;
use super::products::Machine;
use super::source::{SECOND, Source};

/// How a file came to be gone at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody removed it.
    User,
    /// Its product's retention removed its whole set.
    Rotated,
    /// A merge took its content into that one.
    Absorbed(Id),
}

#[derive(Clone, Copy, Debug)]
pub struct Removal {
    pub content: Id,
    pub why: Why,
    /// Scans since then that could see it.
    pub scans: u32,
}

/// A law that was broken: its name for comparison, and what happened in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub law: &'static str,
    pub what: String,
}

pub struct World {
    /// Nanoseconds since the Unix epoch.
    pub now: i64,
    pub library: Library,
    pub source: Source,
    pub machines: Vec<Machine>,
    /// Every content that the source ever had under a path.
    pub history: BTreeMap<TargetPath, Vec<Id>>,
    pub removed: BTreeMap<TargetPath, Removal>,
    /// What growing files will hold when they are done.
    pub growing: BTreeMap<TargetPath, Id>,
    pub judges: Vec<Judge>,
    pub log: Vec<String>,
    pub broken: Vec<Broken>,
    /// Sets ever begun.
    pub sets: u32,
}

pub fn path(text: &str) -> TargetPath {
    TargetPath::new(text).expect("the model's own names are good")
}

impl World {
    pub fn new() -> Self {
        let mut source = Source::default();
        source.add_system(TargetPath::root(), false, false);
        Self {
            now: 1_700_000_000 * SECOND,
            library: Library::default(),
            source,
            machines: Vec::new(),
            history: BTreeMap::new(),
            removed: BTreeMap::new(),
            growing: BTreeMap::new(),
            judges: Vec::new(),
            log: Vec::new(),
            broken: Vec::new(),
            sets: 0,
        }
    }

    pub fn say(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    pub fn breaks(&mut self, law: &'static str, what: String) {
        self.log.push(format!("  !! {law}: {what}"));
        self.broken.push(Broken { law, what });
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += seconds * SECOND;
    }

    /// A file is written at the source (or rewritten).
    pub fn put(&mut self, at: &TargetPath, content: Id) {
        self.source.put(at, content, self.now);
        self.history.entry(at.clone()).or_default().push(content);
        self.removed.remove(at);
    }

    pub fn remove(&mut self, at: &TargetPath, why: Why) {
        self.growing.remove(at);
        if let Some(file) = self.source.remove(at) {
            self.removed.insert(at.clone(), Removal { content: file.content, why, scans: 0 });
        }
    }

    /// Writers go on: what is growing has more bytes at each look.
    pub fn grow(&mut self) {
        let paths: Vec<TargetPath> = self.growing.keys().cloned().collect();
        for at in paths {
            self.source.serial += 1;
            let size = 20 + self.source.serial as usize % 4000;
            let partial = self.library.write(b"half", size, None);
            let now = self.now;
            if let Some(file) = self.source.true_file_mut(&at) {
                (file.content, file.mtime, file.ctime) = (partial, now, now);
            }
        }
    }

    pub fn begin_writing(&mut self, at: &TargetPath) {
        if let Some(file) = self.source.true_file_mut(at)
            && !file.growing
        {
            file.growing = true;
            let done = file.content;
            self.growing.insert(at.clone(), done);
        }
    }

    pub fn end_writing(&mut self) {
        for (at, content) in std::mem::take(&mut self.growing) {
            let now = self.now;
            if let Some(file) = self.source.true_file_mut(&at) {
                (file.content, file.mtime, file.ctime, file.growing) = (content, now, now, false);
            }
        }
    }

    /// A scan succeeded: what is gone where it looked was seen to be gone.
    pub fn scanned(&mut self) {
        let source = &self.source;
        for (at, removal) in &mut self.removed {
            if source.is_mounted(source.home(at).0) {
                removal.scans += 1;
            }
        }
    }

    /// The content that the source truly has there.
    pub fn at_source(&self, at: &TargetPath) -> Option<Id> {
        self.source.true_file(at).map(|f| f.content)
    }
}
