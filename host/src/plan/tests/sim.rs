//! A source and a target in memory: the target keeps contents, entries, records and spans as a worker would, so that a
//! plan can be executed step by step and looked at after every one.

use std::collections::{BTreeMap, BTreeSet};

use offsite_plugin_api::{Capabilities, Entry, TargetPath, Timestamp};

use crate::chain::{Chains, Knowledge, Span, assemble};
use crate::format::{Format, ImageKind, Link, Recognised, Role, recognise_name};
use crate::plan::{
    Action, Baseline, Content, FileAction, FileStep, Input, Names, Options, Plan, Proof, Sign, Step, plan,
    prove,
};
use crate::source::{Cause, Inventory, SourceFile, Unsettled};
use crate::target::{
    AbsorbedBy, Bound, Files, Gathered, PendingDeletes, Recorded, TargetFile, TargetView, VerifyLevel, view,
};

pub fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

/// Nanoseconds of one settle time in the simulation.
pub const SETTLE: i64 = 30;

/// A file on the simulated target.
#[derive(Clone, Debug)]
pub struct Held {
    /// Stands for the bytes: equal contents are equal bytes.
    pub content: String,
    pub size: u64,
    /// The source's, as targets keep it.
    pub mtime_ns: i64,
    pub version: u64,
    pub retention: Option<i64>,
    /// What its header says, for formats that have one.
    pub header: Option<Recognised>,
}

#[derive(Clone)]
pub struct World {
    pub inventory: Inventory,
    pub held: BTreeMap<TargetPath, Held>,
    pub records: BTreeMap<TargetPath, Box<Recorded>>,
    pub spans: BTreeMap<TargetPath, Span>,
    pub accepted: Vec<TargetPath>,
    pub deletes: PendingDeletes,
    pub bad: BTreeMap<TargetPath, String>,
    /// Contents of source files that are not what size and time make them, and first bytes that are not the usual ones.
    pub contents: BTreeMap<TargetPath, String>,
    pub heads: BTreeMap<TargetPath, [u8; 16]>,
    pub absorbed: BTreeMap<TargetPath, AbsorbedBy>,
    /// Sets of which a replacement is under way.
    pub in_transition: BTreeSet<String>,
    pub options: Options,
    pub baseline: Option<Baseline>,
    pub capabilities: Capabilities,
    pub names: Names,
    pub now_ns: i64,
    pub next_version: u64,
}

impl Default for World {
    fn default() -> Self {
        let inventory =
            Inventory { device: 1, inode: 1, scanned_ns: 1_000, settle_ns: SETTLE, ..Inventory::default() };
        Self {
            inventory,
            held: BTreeMap::new(),
            records: BTreeMap::new(),
            spans: BTreeMap::new(),
            accepted: Vec::new(),
            deletes: PendingDeletes::default(),
            bad: BTreeMap::new(),
            contents: BTreeMap::new(),
            heads: BTreeMap::new(),
            absorbed: BTreeMap::new(),
            in_transition: BTreeSet::new(),
            options: Options::default(),
            baseline: None,
            capabilities: Capabilities::default(),
            names: Names { job: "nightly".into(), host: "srv".into() },
            now_ns: 1_000,
            next_version: 1,
        }
    }
}

/// `aip(2)` is the second increment of the set `a`, `aip(0)` its base.
pub fn aip(number: u64) -> String {
    match number {
        0 => "srv@a_20240101_d01_00001.aiv".into(),
        n => format!("srv@a_20240101_d01_00001_i{n:05}.aii"),
    }
}

/// What a qcow2 header naming that parent says.
pub fn qcow2(name: &str, parent: Option<&str>) -> Recognised {
    Recognised {
        format: Format::Qcow2,
        set: name.into(),
        image: name.into(),
        kind: if parent.is_some() { ImageKind::Incremental } else { ImageKind::Base },
        role: Role::Anchor,
        link: parent.map_or(Link::None, |p| Link::File(path(p))),
        parts: Vec::new(),
        note: None,
    }
}

impl World {
    /// A source file that is recognised by its name; replaces one of that name.
    pub fn file(&mut self, name: &str, size: u64, mtime_ns: i64) {
        self.put(name, size, mtime_ns, recognise_name(&path(name)));
    }

    pub fn put(&mut self, name: &str, size: u64, mtime_ns: i64, recognised: Option<Recognised>) {
        let file = SourceFile {
            path: path(name),
            size,
            mtime_ns,
            ctime_ns: mtime_ns,
            device: 1,
            inode: 1,
            recognised,
        };
        self.inventory.absent_since.remove(&file.path);
        self.contents.remove(&file.path);
        self.inventory.files.retain(|f| f.path != file.path);
        self.inventory.files.push(file);
        self.inventory.files.sort_by(|a, b| a.path.cmp(&b.path));
    }

    pub fn at_source(&mut self, name: &str) -> &mut SourceFile {
        self.inventory.files.iter_mut().find(|f| f.path == path(name)).expect("the file is at the source")
    }

    /// Gone at the source, and seen to be gone by two scans.
    pub fn remove(&mut self, name: &str) {
        self.inventory.files.retain(|f| f.path != path(name));
        self.inventory.absent_since.insert(path(name), 1_000 - SETTLE);
    }

    pub fn unsettle(&mut self, name: &str) {
        self.inventory.files.retain(|f| f.path != path(name));
        self.inventory.unsettled.push(Unsettled {
            path: path(name),
            reason: "still being written".into(),
            cause: Cause::Unsettled,
        });
    }

    /// The set `a` with increments up to `last`, at the source.
    pub fn with_aip(last: u64) -> Self {
        let mut world = Self::default();
        for n in 0..=last {
            world.file(&aip(n), 100 + n, n as i64 + 1);
        }
        world
    }

    /// A chain of qcow2 files: base.qcow2, 1.qcow2, …
    pub fn with_qcow2(last: u64) -> Self {
        let mut world = Self::default();
        for n in 0..=last {
            let parent = (n > 0).then(|| qcow2_name(n - 1));
            world.put(&qcow2_name(n), 100 + n, n as i64 + 1, Some(qcow2(&qcow2_name(n), parent.as_deref())));
        }
        world
    }

    /// Somebody else writes a file on the target.
    pub fn write(&mut self, name: &str, content: &str, size: u64) {
        let old = self.held.remove(&path(name));
        self.next_version += 1;
        // Where time orders a set, what was merged or damaged stays where it was.
        let mtime_ns = old.as_ref().map_or(self.next_version as i64, |o| o.mtime_ns);
        let header = old.and_then(|o| o.header);
        let (content, version) = (content.into(), self.next_version);
        let held = Held { content, size, mtime_ns, version, retention: None, header };
        self.held.insert(path(name), held);
    }

    pub fn erase(&mut self, name: &str) {
        self.held.remove(&path(name)).expect("the file is on the target");
    }

    pub fn lose_records(&mut self) {
        self.records.clear();
        self.spans.clear();
    }

    pub fn chains(&self) -> Chains {
        assemble(&self.inventory.members(), &Knowledge::default())
    }

    pub fn view(&self) -> TargetView {
        let files = self.held.iter().map(|(path, held)| Entry {
            mtime: Some(Timestamp { ns: held.mtime_ns, precision_ns: 1 }),
            version: Some(held.version.to_string()),
            retention: held
                .retention
                .map(|until| offsite_plugin_api::Retention { mode: "COMPLIANCE".into(), until }),
            ..Entry::file(path.clone(), held.size)
        });
        // As the catalog gives them: as long as the holder is what was judged.
        let as_judged = |by: &AbsorbedBy| {
            let there = self.held.get(&by.holder).zip(self.records.get(&by.holder));
            there.is_some_and(|(held, r)| r.target_version == Some(held.version.to_string()))
        };
        let absorbed = self.absorbed.iter().filter(|(_, by)| as_judged(by));
        let absorbed = absorbed.map(|(path, by)| (path.clone(), by.clone())).collect();
        let headers = self.held.iter().filter_map(|(path, held)| Some((path.clone(), held.header.clone()?)));
        let mut view = view(Gathered {
            files: Files::listed(files.map(TargetFile::from).collect()),
            records: self.records.clone(),
            headers: headers.collect(),
            spans: self.spans.clone(),
            accepted: self.accepted.clone(),
            bad: self.bad.clone(),
            absorbed,
            ..Gathered::default()
        });
        view.deletes = self.deletes.clone();
        view.in_transition.clone_from(&self.in_transition);
        view
    }

    pub fn plan(&self) -> Plan {
        plan(&Input {
            inventory: &self.inventory,
            source: &self.chains(),
            target: &self.view(),
            options: &self.options,
            baseline: self.baseline.as_ref(),
            capabilities: &self.capabilities,
            names: &self.names,
            now_ns: self.now_ns,
        })
    }

    /// Plans, executes everything, answers the plan.
    pub fn run(&mut self) -> Plan {
        if self.options.accept_unproven {
            self.accept_changed();
        }
        let plan = self.plan();
        self.remember(&plan);
        self.carry_out(&plan, 0..plan.steps.len());
        plan
    }

    /// As the catalog does it before a run changes anything.
    pub fn remember(&mut self, plan: &Plan) {
        for path in &plan.remember.dropped {
            self.deletes.found.remove(path);
            self.deletes.allowed.remove(path);
        }
        self.deletes.found.extend(plan.remember.found.iter().map(|path| (path.clone(), self.now_ns)));
        let bound = |path: &TargetPath| (path.clone(), Bound::of(&self.records[path]));
        self.deletes.held = plan.remember.held.iter().map(bound).collect();
    }

    /// The user allows what is held.
    pub fn allow_held(&mut self) {
        self.deletes.allowed.append(&mut self.deletes.held);
    }

    /// What `offsite target accept` does with what changed at the source.
    pub fn accept_changed(&mut self) {
        let number = |path: &TargetPath| match recognise_name(path)?.link {
            Link::Number { number, .. } => Some(number),
            _ => None,
        };
        for (path, by) in self.absorbed.iter_mut().filter(|(_, by)| !by.proved) {
            by.proved = true;
            if let (Some(first), Some(last)) = (number(path), number(&by.holder)) {
                let first = self.spans.get(path).map_or(first, |s| s.first);
                let span = self.spans.entry(by.holder.clone()).or_insert(Span { first: last, last });
                span.first = span.first.min(first);
            }
        }
    }

    /// Executes these steps in that order, without the deletions that no transfer proved. Gives the steps that were left out.
    pub fn carry_out(&mut self, plan: &Plan, order: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut spared = Vec::new();
        for at in order {
            self.step(plan, at, &mut spared);
        }
        spared
    }

    /// One step, unless what it waits for was left out, or did not prove it. Whether it was executed.
    pub fn step(&mut self, plan: &Plan, at: usize, spared: &mut Vec<usize>) -> bool {
        let step = &plan.steps[at];
        if spared.contains(&at) || step.after.iter().any(|a| spared.contains(a)) {
            spared.push(at);
            return false;
        }
        let mut step = step.clone();
        if let Some(merge) = step.merge.clone() {
            let proof = self.prove(&step);
            let anchor = step.files.iter().find(|f| f.path == step.image).expect("a merge sends its anchor");
            let holder = anchor.target.clone();
            for image in &merge.images {
                self.absorbed.remove(image);
                if proof != Proof::SameContent {
                    let by = AbsorbedBy { holder: holder.clone(), proved: proof == Proof::Proved };
                    self.absorbed.insert(image.clone(), by);
                }
            }
            if proof != Proof::Proved {
                step.span = self.spans.get(&holder).copied();
                let justified = plan.steps.iter().enumerate().filter(|(_, s)| s.proof == Some(at));
                spared.extend(justified.map(|(at, _)| at));
            }
        }
        self.execute(&step);
        true
    }

    /// What the transfer finds of a step that may be a merge.
    pub fn prove(&self, step: &Step) -> Proof {
        let sign = step.merge.as_ref().map_or(Sign::Missing, |merge| merge.sign);
        let source = self.inventory.files.iter().find(|f| f.path == step.image).expect("it is at the source");
        let anchor = step.files.iter().find(|f| f.path == step.image).expect("a merge sends its anchor");
        let recorded = self.records.get(&anchor.target);
        let was = Content { blake3: recorded.and_then(|r| r.blake3), head: recorded.and_then(|r| r.head) };
        let now =
            Content { blake3: Some(digest(&self.content(source))), head: Some(self.head(&source.path)) };
        prove(sign, was, now, None)
    }

    /// What the simulated source file's bytes are.
    pub fn content(&self, file: &SourceFile) -> String {
        self.contents.get(&file.path).cloned().unwrap_or_else(|| content(file))
    }

    fn head(&self, path: &TargetPath) -> [u8; 16] {
        self.heads.get(path).copied().unwrap_or([7; 16])
    }

    /// A new time, the same content.
    pub fn touch(&mut self, name: &str, mtime_ns: i64) {
        let file = self.at_source(name).clone();
        let content = self.content(&file);
        self.contents.insert(path(name), content);
        self.at_source(name).mtime_ns = mtime_ns;
    }

    pub fn execute(&mut self, step: &Step) {
        for file in &step.files {
            match file.action {
                FileAction::Copy | FileAction::Replace | FileAction::Adopt => self.publish(step, file),
                FileAction::Delete => {
                    self.held.remove(&file.target).expect("a plan deletes only what is there");
                    self.records.remove(&file.target);
                    self.spans.remove(&file.target);
                    self.absorbed.retain(|path, by| *path != file.target && by.holder != file.target);
                }
                FileAction::Keep => {}
            }
        }
        if let (Some(span), Some(anchor)) = (step.span, step.files.last())
            && step.action != Action::Delete
        {
            self.spans.insert(anchor.target.clone(), span);
        }
    }

    fn publish(&mut self, step: &Step, file: &FileStep) {
        let source =
            self.inventory.files.iter().find(|f| f.path == file.path).expect("it is at the source").clone();
        let content = self.content(&source);
        let there = self.held.get(&file.target);
        if file.action == FileAction::Copy {
            assert!(there.is_none(), "a copy would overwrite {:?}", file.target);
        }
        let same = there.is_some_and(|h| h.content == content);
        if file.action != FileAction::Adopt || !same {
            self.next_version += 1;
            let header = source.recognised.as_ref().filter(|r| r.format == Format::Qcow2).map(|r| {
                // The names in a header are relative: they lead to wherever the chain was put.
                let place = file.target.as_bytes().strip_suffix(file.path.as_bytes());
                let place = String::from_utf8(place.unwrap_or_default().to_vec()).unwrap();
                let parent = match &r.link {
                    Link::File(parent) => Some(format!("{place}{}", parent.display())),
                    _ => None,
                };
                qcow2(&file.target.display(), parent.as_deref())
            });
            let (size, mtime_ns, version) = (source.size, source.mtime_ns, self.next_version);
            let held = Held { content, size, mtime_ns, version, retention: None, header };
            self.held.insert(file.target.clone(), held);
            self.spans.remove(&file.target);
        }
        let held = &self.held[&file.target];
        let recorded = Recorded {
            size: source.size,
            blake3: Some(digest(&held.content)),
            source_mtime_ns: source.mtime_ns,
            source_ctime_ns: source.ctime_ns,
            source_inode: source.inode,
            target_version: Some(held.version.to_string()),
            target_mtime: None,
            level: VerifyLevel::ReadBack,
            recognised: source.recognised.clone(),
            set: step.set.to_string(),
            image: step.image.clone(),
            parent: None,
            head: Some(self.head(&source.path)),
            mount: None,
        };
        self.records.insert(file.target.clone(), Box::new(recorded));
    }
}

fn digest(content: &str) -> [u8; 32] {
    *blake3::hash(content.as_bytes()).as_bytes()
}

/// What the simulated source file's bytes are, unless something else is said of them.
pub fn content(file: &SourceFile) -> String {
    format!("{}:{}:{}", file.path.display(), file.size, file.mtime_ns)
}

pub fn qcow2_name(number: u64) -> String {
    if number == 0 { "base.qcow2".into() } else { format!("{number}.qcow2") }
}

/// The one step for this image.
#[track_caller]
pub fn step<'a>(plan: &'a Plan, image: &str) -> &'a Step {
    let mut steps = plan.steps.iter().filter(|s| s.image == path(image));
    let step = steps.next().unwrap_or_else(|| panic!("no step for {image}: {:#?}", plan.steps));
    assert!(steps.next().is_none(), "two steps for {image}");
    step
}

/// `copy a`, `replace b`, … in order, without skips.
pub fn work(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter().filter(|s| s.action != Action::Skip);
    steps.map(|s| format!("{:?} {}", s.action, s.image.display()).to_lowercase()).collect()
}

#[track_caller]
pub fn assert_restorable(world: &World, image: &str, expected: bool) {
    let view = world.view();
    let image = view.chains().sets.iter().flat_map(|s| &s.images).find(|i| i.id == path(image));
    assert_eq!(image.map(|i| i.restorable), Some(expected), "{image:?}");
}
