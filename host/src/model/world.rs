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

#[derive(Clone, Debug)]
pub struct Removal {
    pub why: Why,
    /// What held it before that was merged on: whoever saw that holder may rely on it.
    pub held: Vec<Id>,
    /// When.
    pub at: i64,
    /// Looks of scans since then that could see it.
    pub looks: u32,
    /// What it held.
    pub content: Id,
    /// A scan that is remembered did not find it.
    pub missed: bool,
    /// Merged images of which it cannot be told, on that target, whether they took it in (see `unclear`).
    pub unclear: Vec<(usize, Id)>,
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
    /// Files that look like images and that no format knows.
    pub strange: Vec<TargetPath>,
    pub judges: Vec<Judge>,
    pub log: Vec<String>,
    pub broken: Vec<Broken>,
    /// Merged images of closed formats, with their set.
    pub merges: Vec<(u32, Id)>,
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
            strange: Vec::new(),
            judges: Vec::new(),
            log: Vec::new(),
            broken: Vec::new(),
            merges: Vec::new(),
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
        self.growing.remove(at);
        self.removed.remove(at);
    }

    pub fn remove(&mut self, at: &TargetPath, why: Why) {
        let done = self.growing.remove(at);
        if let Some(file) = self.source.remove(at) {
            self.note_removal(at, why, done.unwrap_or(file.content));
        }
    }

    pub fn note_removal(&mut self, at: &TargetPath, why: Why, content: Id) {
        let unclear = if why == Why::User { self.unclear_since_merged(content) } else { Vec::new() };
        let removal =
            Removal { why, held: Vec::new(), at: self.now, looks: 0, content, missed: false, unclear };
        self.removed.insert(at.clone(), removal);
    }

    /// Writers go on: what is growing has more bytes at each look.
    pub fn grow(&mut self) {
        let paths: Vec<TargetPath> = self.growing.keys().cloned().collect();
        for at in paths {
            self.source.serial += 1;
            let size = 20 + self.source.serial as usize % 4000;
            let partial = self.library.write(b"half", size, None);
            let (now, mtime) = (self.now, self.retimed(&at));
            if let Some(file) = self.source.true_file_mut(&at) {
                (file.content, file.mtime, file.ctime) = (partial, mtime, now);
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
            let (now, mtime) = (self.now, self.retimed(&at));
            if let Some(file) = self.source.true_file_mut(&at) {
                (file.content, file.mtime, file.ctime, file.growing) = (content, mtime, now, false);
            }
        }
    }

    /// A scan looks: what is gone where it can look was seen to be gone.
    pub fn looked(&mut self) {
        let source = &self.source;
        for (at, removal) in &mut self.removed {
            if source.can_see(at) {
                removal.looks += 1;
            }
        }
    }

    /// What a scan saw is remembered.
    pub fn remembered(&mut self) {
        self.source.remembered();
        for (at, removal) in &mut self.removed {
            removal.missed |= self.source.can_see(at);
        }
    }

    /// A product works while a run is under way.
    pub fn meanwhile(&mut self, chance: usize) {
        let machine = chance % self.machines.len();
        if !self.can_write(machine) {
            return;
        }
        self.pass(30);
        self.say("  meanwhile:");
        match chance % 5 {
            0 | 1 => self.backup(machine),
            2 | 3 => {
                self.merge(machine, 0, 2);
            }
            _ => {
                self.expire(machine);
            }
        }
    }

    /// The name of the next image of a machine.
    pub fn next_name(&self, machine: usize) -> TargetPath {
        let machine = &self.machines[machine % self.machines.len()];
        let (set, made) = machine.sets.last().map_or((1, 0), |s| (s.number, s.made));
        machine.name(set, made, false, 0).0
    }

    /// When a file that is changed now says that it was: where time orders a set, nothing may change the order.
    pub fn retimed(&self, at: &TargetPath) -> i64 {
        let before = self.source.true_file(at).map_or(self.now, |f| f.mtime);
        let ordered = at.name().starts_with(super::products::TIMED);
        if ordered { before + 4 * SECOND } else { self.now }
    }

    /// The content that the source truly has there.
    pub fn at_source(&self, at: &TargetPath) -> Option<Id> {
        self.source.true_file(at).map(|f| f.content)
    }
}
