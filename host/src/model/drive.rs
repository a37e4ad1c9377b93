//! Plays a story: the real scan, its memory, assembly, evidence, planner, executor, intents and catalog, over the
//! simulated world, run after run, and in the end until nothing is left to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offsite_plugin_api::TargetPath;

use super::oracle::Judge;
use super::power::Power;
use super::products::Machine;
use super::source::View;
use super::story::{Event, Fault, Story};
use super::target::Store;
use super::world::{Broken, Why, World, path};
use crate::catalog::{Catalog, JobDb};
use crate::chain::{Knowledge, assemble};
use crate::config::{Bandwidth, Job, Priority, Retry, Target, Verify};
use crate::error::Result;
use crate::notice::Notice;
use crate::plan::{self, Action, Filter, Input, Options, Plan};
use crate::report::Event as Told;
use crate::run::call::Line;
use crate::run::execute::Summary;
use crate::run::meter::Meter;
use crate::run::open::Open;
use crate::run::outbox::Outbox;
use crate::run::pace::Pacer;
use crate::run::protocol::{self, Op, Request, SecretValues};
use crate::run::source_reader::SourceRoot;
use crate::run::{replicate, stop};
use crate::source::{Clock, Inventory, ScanOptions, scan_folder};
use crate::target::tests::mem::MemFile;

/// How a story failed: the first law that was broken, and the whole story in words.
pub struct Failed {
    pub broken: Broken,
    pub log: Vec<String>,
}

/// States from here on are those of what somebody put on a target by hand.
const SEEDED: super::content::State = 1_000_000;

/// Runs until nothing is left to do, at most: on its own, then with what the user is asked to allow or accept.
const ALONE: usize = 4;
const WITH_THE_USER: usize = 5;

struct Side {
    store: Store,
    catalog: Arc<Catalog>,
    options: Options,
    kept_manifests: Vec<(TargetPath, MemFile)>,
}

pub struct Play {
    world: Arc<Mutex<World>>,
    power: Arc<Power>,
    job: Option<JobDb>,
    sides: Vec<Side>,
    settle: Duration,
    allow: bool,
    /// All that runs told.
    pub notices: Vec<Notice>,
}

/// What one target's run told.
#[derive(Default)]
struct Heard {
    summary: Option<Summary>,
    notices: Vec<Notice>,
    skipped: usize,
}

struct SimClock(Arc<Mutex<World>>);

impl Clock for SimClock {
    fn now_ns(&mut self) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    fn sleep(&mut self, time: Duration) -> Result<()> {
        let mut world = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        world.now += time.as_nanos() as i64;
        Ok(())
    }
}

impl Play {
    pub fn new(story: &Story) -> Self {
        let mut world = World::new();
        for (at, setup) in story.setup.machines.iter().enumerate() {
            let dir = format!("m{at}");
            if setup.mounted {
                world.source.add_system(path(&dir), setup.renumbers, setup.coarse);
            }
            world.machines.push(Machine::new(setup.family, &format!("Host{at}"), &dir));
            world.new_set(at);
            for _ in 0..setup.increments {
                world.pass(3600);
                world.backup(at);
            }
        }
        for target in &story.setup.targets {
            world.judges.push(Judge {
                leaves_out: target.filter,
                max_delete: target.max_delete,
                folds: target.nature.folds,
                delete_after: target.delete_after,
                delete_first: target.delete_first,
                ..Judge::default()
            });
        }
        for n in 0..story.setup.others {
            other(&mut world, n);
        }
        let (world, power) = (Arc::new(Mutex::new(world)), Arc::new(Power::default()));
        let sides = story.setup.targets.iter().enumerate().map(|(number, setup)| {
            let options = Options {
                sync: setup.sync,
                include_other: setup.include_other,
                max_delete: setup.max_delete,
                delete_first: setup.delete_first,
                delete_after_ns: setup.delete_after * super::source::SECOND,
                filter: if setup.filter {
                    Filter { kinds: vec![crate::format::ImageKind::Incremental], ..Filter::default() }
                } else {
                    Filter::default()
                },
                ..Options::default()
            };
            Side {
                store: Store::new(setup.nature, number, power.clone(), world.clone()),
                catalog: new_catalog(&power),
                options,
                kept_manifests: Vec::new(),
            }
        });
        let sides = sides.collect();
        let job = Some(new_job(&power));
        let settle = Duration::from_secs(story.setup.settle);
        Self { world, power, job, sides, settle, allow: false, notices: Vec::new() }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn world_machines(&self) -> usize {
        self.world().machines.len()
    }

    fn over(&self) -> bool {
        !self.world().broken.is_empty()
    }

    /// Others merge increments on the target, as a product does it there: the base stays, the last name stays.
    fn merge_there(&mut self, t: usize, machine: usize, count: usize) {
        use super::products::Family;
        let mut disk = self.sides[t].store.mem.disk();
        let mut world = self.world();
        let machine = machine % world.machines.len();
        let family = world.machines[machine].family;
        if !matches!(family, Family::Aip18 | Family::Aip22 | Family::Macrium | Family::Qcow) {
            return;
        }
        let images = world.machines[machine].sets.last().map(|s| s.images.clone()).unwrap_or_default();
        let Some(run) = images.get(1..1 + count) else { return };
        let (base, last) = (&images[0], &run[count - 1]);
        let content = |p: &TargetPath| disk.files.get(p).and_then(|f| world.library.find(&f.bytes));
        let as_made = |i: &super::products::Image| content(&i.path) == Some(i.content);
        let chained = images[..=count].windows(2).all(|w| w[1].truth.needs == Some(w[0].truth.gives));
        if !chained || base.number != 0 || !as_made(base) || !run.iter().all(as_made) {
            return;
        }
        let truth = super::content::Truth { needs: Some(base.truth.gives), ..last.truth };
        let size: usize = run.iter().map(|i| world.library.size(i.content)).sum();
        let backing = String::from_utf8_lossy(base.path.name()).into_owned();
        let merged = world.write_image(machine, truth, Some(&backing), size);
        let (states, now) = (run.iter().map(|i| i.truth.gives).collect(), world.now);
        world.judges[t].merged.push((merged, states));
        for image in &run[..count - 1] {
            disk.files.remove(&image.path);
            world.others_changed(t, &image.path);
        }
        disk.serial += 1;
        let serial = disk.serial;
        let bytes = world.library.get(merged).bytes.to_vec();
        disk.files.insert(last.path.clone(), MemFile { bytes, mtime: now, serial });
        world.others_changed(t, &last.path);
        world.say(format!("others merge {count} increments into {} on target {t}", last.path.display()));
    }

    /// Somebody copied older backups of these names to the target by hand.
    fn seed(&mut self, t: usize) {
        let mut world = self.world();
        world.say(format!("older files of the same names and sizes are put on target {t}"));
        let files: Vec<(TargetPath, usize, i64)> = world
            .source
            .true_files()
            .iter()
            .filter(|(_, f)| world.library.truth(f.content).is_some())
            .map(|(p, f)| (p.clone(), f.content, f.mtime))
            .collect();
        for (at, content, mtime) in files {
            let truth = world.library.truth(content).expect("asked for above");
            // Of the same machine, a chain of its own.
            let old = super::content::Truth {
                gives: truth.gives + SEEDED,
                needs: truth.needs.map(|n| n + SEEDED),
                ..truth
            };
            let size = world.library.size(content);
            let head = world.library.get(content).bytes[..8].to_vec();
            let old = world.library.write(&head, size, Some(old));
            let bytes = world.library.get(old).bytes.to_vec();
            let store = &self.sides[t].store;
            store.mem.put(&store.spelled(&at), &bytes, mtime - 3_600_000_000_000);
        }
    }

    /// Deletes the increments before the last of a machine's newest set, and writes the set's manifest as somebody would
    /// who wants the last to stand for them.
    fn forge(&mut self, t: usize, machine: usize) {
        let images = {
            let world = self.world();
            let machine = machine % world.machines.len();
            world.machines[machine].sets.last().map(|s| s.images.clone()).unwrap_or_default()
        };
        let [_, middle @ .., last] = &images[..] else { return };
        let side = &self.sides[t];
        let other = Catalog::in_memory().expect("SQLite has memory");
        let (line, _) = self.line();
        let mut honest = side.store.clone();
        honest.power = Arc::default();
        honest.trouble = Arc::default();
        let call = line.call(None);
        let capabilities = &side.store.mem.capabilities;
        let site = crate::target::Site {
            backend: &honest,
            catalog: &other,
            capabilities,
            call: &call,
            installation: "0123abcd",
        };
        let Ok(survey) = crate::target::survey(&site) else { return };
        if crate::target::remember(&other, &survey.learned).is_err() {
            return;
        }
        for image in middle {
            side.store.mem.disk().files.remove(&image.path);
            self.world().others_changed(t, &image.path);
        }
        let Some(record) = survey.learned.files.iter().find(|f| f.path == last.path).cloned() else { return };
        let span = crate::chain::Span { first: 1, last: u64::from(last.number) };
        let set = record.record.set.clone();
        let forged = crate::catalog::Published { span: Some(span), ..record };
        let gone: Vec<TargetPath> = middle.iter().map(|i| i.path.clone()).collect();
        let written = other
            .record(&[forged])
            .and_then(|()| other.forget(&gone))
            .and_then(|()| other.manifests_behind(&[set]))
            .and_then(|()| crate::target::manifest::write_behind(&site));
        let mut world = self.world();
        world.say(format!(
            "somebody deletes {} images on target {t} and plants a manifest ({:?}) that calls {} their consolidation",
            middle.len(),
            written.is_ok(),
            last.path.display()
        ));
    }

    /// Several events, an hour apart.
    pub fn tell(&mut self, events: &[Event]) -> &mut Self {
        for event in events {
            self.world().pass(600);
            self.happens(*event);
        }
        self
    }

    /// The story so far broke no law. Panics with the story else.
    #[track_caller]
    pub fn keeps_the_laws(&mut self) -> &mut Self {
        let world = self.world();
        assert!(world.broken.is_empty(), "{:#?}\n{}", world.broken, world.log.join("\n"));
        drop(world);
        self
    }

    /// The faults end, and nothing is left to do.
    #[track_caller]
    pub fn ends_well(&mut self) {
        self.keeps_the_laws();
        self.end();
        self.keeps_the_laws();
    }

    /// Images visible on the target.
    pub fn there(&self, t: usize) -> Vec<String> {
        let disk = self.sides[t].store.mem.disk();
        let world = self.world();
        let image =
            |f: &MemFile| world.library.find(&f.bytes).is_some_and(|id| world.library.truth(id).is_some());
        let own = |p: &TargetPath| crate::target::names::parse(p).is_some();
        let names = disk.files.iter().filter(|(p, f)| !own(p) && image(f));
        names.map(|(p, _)| p.display().into_owned()).collect()
    }

    /// Notices of runs that make them end with 3.
    pub fn failing(&self) -> Vec<String> {
        self.notices.iter().filter(|n| n.failing()).map(|n| n.text.clone()).collect()
    }

    pub fn log(&self) -> String {
        self.world().log.join("\n")
    }

    /// Plays the whole story.
    pub fn play(mut self, events: &[Event]) -> std::result::Result<(), Failed> {
        for event in events {
            self.world().pass(600);
            self.happens(*event);
            if self.over() {
                break;
            }
        }
        if !self.over() {
            self.end();
        }
        let mut world = self.world();
        match world.broken.first().cloned() {
            Some(broken) => Err(Failed { broken, log: std::mem::take(&mut world.log) }),
            None => Ok(()),
        }
    }

    pub fn happens(&mut self, event: Event) {
        match event {
            Event::Run(fault) => {
                self.run(fault);
            }
            Event::LoseJob => {
                self.world().say("the job's database is lost");
                self.job = Some(new_job(&self.power));
                self.forget_what_no_target_has();
                self.world().unclear_by_loss();
            }
            Event::LoseCatalog(t) => {
                let t = t % self.sides.len();
                self.world().say(format!("the catalog of target {t} is lost"));
                self.sides[t].catalog = new_catalog(&self.power);
            }
            Event::Full(t, full) => {
                let t = t % self.sides.len();
                self.world()
                    .say(format!("target {t} is {}", if full { "full" } else { "not full any more" }));
                self.sides[t].store.trouble().full = full;
            }
            Event::HideListing(t, hides) => {
                let t = t % self.sides.len();
                self.world().say(format!("target {t} leaves files out of its listing: {hides}"));
                self.sides[t].store.trouble().hides = hides.then_some(3);
            }
            Event::Look => {
                for t in 0..self.sides.len() {
                    self.look(t);
                }
            }
            Event::Room(t, bytes) => {
                let t = t % self.sides.len();
                self.world().say(format!("target {t} has room for {bytes} more bytes"));
                let store = &self.sides[t].store;
                let used = store.used();
                store.trouble().capacity = Some(used + bytes);
            }
            Event::Seed(t) => self.seed(t % self.sides.len()),
            Event::Forge { target, machine } => self.forge(target % self.sides.len(), machine),
            Event::DirectoryThere { target, machine } => {
                let t = target % self.sides.len();
                let next = self.world().next_name(machine);
                let newest = {
                    let count = self.world_machines();
                    self.world().images(machine % count)
                }
                .last()
                .map(|i| i.path.clone());
                let there = |p: &TargetPath| self.sides[t].store.mem.disk().files.contains_key(p);
                let at = newest.filter(|p| !there(p)).unwrap_or(next);
                self.world().say(format!("a directory on target {t} is named {}", at.display()));
                self.sides[t].store.mem.disk().directories.insert(at);
            }
            Event::Truncate { target, file } => self.alter(target, file, "truncates", |bytes| bytes.clear()),
            Event::Overwrite { target, file } => self.alter(target, file, "overwrites", |bytes| {
                for byte in bytes.iter_mut().skip(20) {
                    *byte ^= 0x55;
                }
            }),
            Event::DeleteThere { target, file } => {
                let t = target % self.sides.len();
                let Some(at) = self.image_there(t, file) else { return };
                self.world().say(format!("somebody deletes {} on target {t}", at.display()));
                self.sides[t].store.mem.disk().files.remove(&at);
                self.world().others_changed(t, &at);
            }
            Event::MergeThere { target, machine, count } => {
                self.merge_there(target % self.sides.len(), machine, count);
            }
            Event::KeepManifests(t) => {
                let t = t % self.sides.len();
                let side = &mut self.sides[t];
                let disk = side.store.mem.disk();
                let all = disk.files.iter().filter(|(p, _)| p.as_bytes().starts_with(b"offsite-manifest/"));
                let kept = all.map(|(p, f)| (p.clone(), f.clone())).collect();
                drop(disk);
                side.kept_manifests = kept;
            }
            Event::OldManifests(t) => {
                let t = t % self.sides.len();
                let side = &mut self.sides[t];
                let mut disk = side.store.mem.disk();
                disk.files.retain(|p, _| !p.as_bytes().starts_with(b"offsite-manifest/"));
                disk.files.extend(side.kept_manifests.iter().cloned());
                drop(disk);
                let count = side.kept_manifests.len();
                self.world().say(format!("somebody restores {count} old manifests on target {t}"));
            }
            other => self.at_source(other),
        }
    }

    /// Without its memory of scans, a run knows of a file system that is not mounted only by what targets have of it.
    fn forget_what_no_target_has(&self) {
        let mut world = self.world();
        let there = |at: &TargetPath| self.sides.iter().any(|s| s.store.mem.disk().files.contains_key(at));
        let known: Vec<bool> = world
            .source
            .systems
            .iter()
            .map(|system| system.files.keys().any(|path| there(&super::source::join(&system.home, path))))
            .collect();
        for (system, known) in world.source.systems.iter_mut().zip(known) {
            system.held &= known;
        }
    }

    fn image_there(&self, t: usize, file: usize) -> Option<TargetPath> {
        let disk = self.sides[t].store.mem.disk();
        let world = self.world();
        let image =
            |f: &MemFile| world.library.find(&f.bytes).is_some_and(|id| world.library.truth(id).is_some());
        let images: Vec<&TargetPath> = disk.files.iter().filter(|(_, f)| image(f)).map(|(p, _)| p).collect();
        images.get(file % images.len().max(1)).map(|p| (*p).clone())
    }

    fn alter(&mut self, target: usize, file: usize, verb: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let t = target % self.sides.len();
        let Some(at) = self.image_there(t, file) else { return };
        let now = self.world().now;
        let mut disk = self.sides[t].store.mem.disk();
        disk.serial += 1;
        let serial = disk.serial;
        if let Some(file) = disk.files.get_mut(&at) {
            change(&mut file.bytes);
            (file.mtime, file.serial) = (now, serial);
        }
        drop(disk);
        let mut world = self.world();
        world.say(format!("somebody {verb} {} on target {t}", at.display()));
        world.others_changed(t, &at);
    }

    fn at_source(&mut self, event: Event) {
        let patient = !self.settle.is_zero();
        let mut world = self.world();
        let machines = world.machines.len();
        let picked = |world: &World, machine: usize, image: usize| {
            let images = world.images(machine % machines);
            images.get(image % images.len().max(1)).map(|i| i.path.clone())
        };
        let writes = |world: &World, m: usize| world.can_write(m % machines);
        match event {
            Event::Wait(minutes) => {
                world.pass(i64::from(minutes) * 60);
                world.say(format!("{minutes} minutes go by"));
            }
            Event::Backup(m) if writes(&world, m) => world.backup(m % machines),
            Event::NewSet(m) if writes(&world, m) => world.new_set(m % machines),
            Event::Restart(m) if writes(&world, m) => {
                let host = world.machines[m % machines].host.clone();
                world.say(format!("{host} begins its newest set anew under the same names"));
                world.restart(m % machines);
            }
            Event::Merge { machine, skip, count } if writes(&world, machine) => {
                world.merge(machine % machines, skip, count);
            }
            Event::Expire(m) if writes(&world, m) => {
                world.expire(m % machines);
            }
            Event::Remove { machine, from, count } if writes(&world, machine) => {
                world.remove_images(machine % machines, from, count);
            }
            Event::RemoveAll(m) if writes(&world, m) => world.remove_images(m % machines, 0, 1000),
            Event::PutBack(m) if writes(&world, m) => world.put_back(m % machines),
            Event::Touch { machine, image } => {
                if let Some(at) = picked(&world, machine, image) {
                    let (now, mtime) = (world.now, world.retimed(&at));
                    world.say(format!("somebody touches {}", at.display()));
                    if let Some(file) = world.source.true_file_mut(&at) {
                        (file.mtime, file.ctime) = (mtime, now);
                    }
                }
            }
            Event::Chmod { machine, image } => {
                if let Some(at) = picked(&world, machine, image) {
                    let now = world.now;
                    world.say(format!("somebody changes the mode of {}", at.display()));
                    if let Some(file) = world.source.true_file_mut(&at) {
                        file.ctime = now;
                    }
                }
            }
            Event::Zero { machine, image } | Event::Garble { machine, image } => {
                if let Some(at) = picked(&world, machine, image)
                    && let Some(id) = world.at_source(&at)
                {
                    let empty = matches!(event, Event::Zero { .. });
                    let bytes = if empty { Vec::new() } else { vec![0x2a; world.library.size(id)] };
                    let what = if empty { "empty" } else { "garbage" };
                    world.say(format!("{} is {what} at the source now", at.display()));
                    let content = world.library.raw(bytes);
                    let mtime = world.retimed(&at);
                    world.put(&at, content);
                    if let Some(file) = world.source.true_file_mut(&at) {
                        file.mtime = mtime;
                    }
                }
            }
            // Without a settle time the user takes every file as it is.
            Event::Writing { machine, image } if patient => {
                if let Some(at) = picked(&world, machine, image) {
                    world.say(format!("{} is being written again", at.display()));
                    world.begin_writing(&at);
                }
            }
            Event::WritingEnds => world.end_writing(),
            Event::Lock { machine, image } => {
                if let Some(at) = picked(&world, machine, image)
                    && let Some(file) = world.source.true_file_mut(&at)
                {
                    file.locked = true;
                    world.say(format!("{} cannot be opened for now", at.display()));
                }
            }
            Event::UnlockAll => unlock(&mut world),
            Event::AddOther(n) => other(&mut world, n + 20),
            Event::RemoveOthers => {
                world.say("all other files are removed at the source");
                for n in 0..40 {
                    world.remove(&path(&format!("notes/{n}.txt")), Why::User);
                }
            }
            Event::Unmount(m) => {
                let dir = world.machines[m % machines].dir.clone();
                if world.source.mounts.contains_key(&dir) {
                    world.say(format!("{} is unmounted", dir.display()));
                    world.source.mounts.insert(dir, None);
                }
            }
            Event::Mount(m) => mount(&mut world, m % machines),
            Event::Remount(m) => {
                let dir = world.machines[m % machines].dir.clone();
                if let Some(mounted) = world.source.mounts.get_mut(&dir) {
                    *mounted = None;
                    mount(&mut world, m % machines);
                }
            }
            Event::MountAs { machine, other } => {
                let dirs = [machine, other].map(|m| world.machines[m % machines].dir.clone());
                let system = |world: &World, dir: &TargetPath| {
                    world.source.systems.iter().position(|s| s.home == *dir)
                };
                if dirs[0] != dirs[1]
                    && let (Some(a), Some(b)) = (system(&world, &dirs[0]), system(&world, &dirs[1]))
                {
                    let (device, now) = (world.source.systems[b].device, world.now);
                    world.say(format!(
                        "{} and {} are unmounted, and only {} is mounted again, with the other's device number",
                        dirs[0].display(),
                        dirs[1].display(),
                        dirs[0].display()
                    ));
                    world.source.mounts.insert(dirs[1].clone(), None);
                    world.source.mount(&dirs[0], a, device, now);
                }
            }
            Event::Hide(m) => {
                let dir = world.machines[m % machines].dir.clone();
                world.say(format!("{} cannot be read for now", dir.display()));
                world.source.unreadable.insert(dir);
            }
            Event::Link(m) => {
                let dir = world.machines[m % machines].dir.clone();
                if !world.source.mounts.contains_key(&dir) {
                    world.say(format!("{} is moved away and replaced by a link", dir.display()));
                    world.source.linked.insert(dir);
                }
            }
            Event::ShowAll => show(&mut world),
            Event::RootGone => {
                world.say("the source is not mounted");
                world.source.root_gone = true;
            }
            Event::RootBack => world.source.root_gone = false,
            Event::Recase(m) if writes(&world, m) => world.recase(m % machines),
            Event::Strange(n) => {
                let at = path(&format!("disks/disk{n}.vhdx"));
                world.say(format!("somebody puts {} there", at.display()));
                let content = world.library.write(b"vhdxfile", 4000, None);
                world.put(&at, content);
                world.strange.push(at);
            }
            Event::GrowingLog => {
                let at = path("service.log");
                if world.growing.contains_key(&at) {
                    return;
                }
                world.say("a service writes to service.log all the time");
                let content = world.library.write(b"log", 20, None);
                world.put(&at, content);
                world.begin_writing(&at);
            }
            _ => {}
        }
    }

    /// One run: a scan, then every target. Gives whether it did anything, or failed to.
    pub fn run(&mut self, fault: Fault) -> bool {
        self.world().say(match fault {
            Fault::None => "offsite runs".to_owned(),
            Fault::Kill(n) => format!("offsite runs, and is killed after step {n}"),
            Fault::Meanwhile(n) => format!("offsite runs, and at change {n} a product goes on"),
            Fault::Fail(n, false) => format!("offsite runs, and change {n} at the target fails"),
            Fault::Fail(n, true) => {
                format!("offsite runs, and change {n} at the target is made, but reported as failed")
            }
        });
        let Some(inventory) = self.scan(fault) else { return true };
        let mut acted = false;
        for t in 0..self.sides.len() {
            self.sides[t].store.begins();
            let (mut fail, mut meanwhile) = (None, None);
            match fault {
                Fault::Fail(n, after) => fail = Some((u64::from(n), after)),
                Fault::Meanwhile(n) if t == 0 => meanwhile = Some(u64::from(n)),
                _ => {}
            }
            let mut trouble = self.sides[t].store.trouble();
            (trouble.fail, trouble.meanwhile) = (fail, meanwhile);
            drop(trouble);
            let heard = self.target(t, &inventory);
            self.power.on(None);
            let mut trouble = self.sides[t].store.trouble();
            (trouble.fail, trouble.meanwhile) = (None, None);
            drop(trouble);
            self.judge(t, &heard, fault);
            self.notices.extend(heard.notices);
            acted |= heard.summary.as_ref().is_none_or(|s| s.images + s.deleted + s.failed + s.no_room > 0);
        }
        acted
    }

    fn scan(&mut self, fault: Fault) -> Option<Inventory> {
        let catalogs = self.sides.iter().map(|s| s.catalog.clone()).collect();
        let mut job = self.job.take()?.reopened(catalogs);
        let options = ScanOptions {
            settle: self.settle,
            prove_absence: self.sides.iter().any(|s| s.options.sync),
            ..ScanOptions::default()
        };
        self.power.on(match fault {
            Fault::Kill(n) => Some(u64::from(n)),
            _ => None,
        });
        let view = View(self.world.clone());
        let mut clock = SimClock(self.world.clone());
        let root = std::path::Path::new("/source");
        let scanned = scan_folder(&view, root, &options, &mut job, &mut clock);
        self.job = Some(job);
        match scanned {
            Ok(inventory) => {
                self.world().remembered();
                Some(inventory)
            }
            Err(error) => {
                self.power.on(None);
                self.world().say(format!("  the scan ends: {error}"));
                None
            }
        }
    }

    fn request(&self, t: usize) -> Request {
        let mut plan = self.sides[t].options.clone();
        plan.allow_deletes |= self.allow;
        Request {
            op: Op::Run,
            run_id: "model".into(),
            attempt: 1,
            job: Job {
                name: "job".into(),
                source: "/source".into(),
                targets: vec![Target {
                    name: format!("t{t}"),
                    url: "mem:".into(),
                    options: serde_json::Value::Null,
                    secrets: Default::default(),
                    retry: Retry { attempts: 1, first_wait: Duration::ZERO },
                    priority: Priority::Normal,
                    streams: Some(1),
                    bandwidth: Bandwidth::default(),
                    verify: Verify::Auto,
                    plan,
                }],
                settle: self.settle,
                ignore: Vec::new(),
            },
            secrets: SecretValues::default(),
            plugin_dirs: Vec::new(),
            state_dir: "/nowhere".into(),
            inventory: None,
            installation: "0123abcd".into(),
            host: "model".into(),
            verbose: false,
        }
    }

    fn line(&self) -> (Line, Arc<Mutex<Vec<u8>>>) {
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let stop = Arc::new(stop::Stop::default());
        let line = Line {
            stop: stop.clone(),
            pacer: Arc::new(Pacer::new(Bandwidth::default())),
            meter: Arc::new(Meter::default()),
            outbox: Arc::new(Outbox::to(Said(said.clone()), stop)),
        };
        (line, said)
    }

    fn target(&mut self, t: usize, inventory: &Inventory) -> Heard {
        let request = self.request(t);
        let (line, said) = self.line();
        let side = &self.sides[t];
        {
            let disk = side.store.mem.disk();
            let mut world = self.world();
            (world.judges[t].sync, world.judges[t].allowed) = (side.options.sync, self.allow);
            world.run_begins(t, &disk.files);
        }
        let open = Open::injected(Arc::new(side.store.clone()), side.catalog.clone(), &line);
        let root = Arc::new(SourceRoot::simulated(View(self.world.clone())));
        let now = self.world().now;
        let target = &request.job.targets[0];
        let result = replicate::on_target(&request, target, &line, &open, inventory, root, &|| now);
        let killed = self.power.cut();
        let mut heard = Heard::default();
        let mut world = self.world();
        let said = std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
        for line in said.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            if let Ok(protocol::Line::Event(event)) = serde_json::from_slice(line) {
                tell(&mut world, t, event, &mut heard);
            }
        }
        match result {
            _ if killed => world.say("  killed"),
            Err(error) => world.say(format!("  target {t} ends: {error}")),
            Ok(summary) => {
                if let Some(fatal) = &summary.fatal {
                    world.say(format!("  target {t} ends: {fatal}"));
                }
                heard.summary = Some(summary);
            }
        }
        drop(world);
        heard
    }

    /// What the target is shown to hold is there.
    fn look(&self, t: usize) {
        let side = &self.sides[t];
        let before = self.world().broken.len();
        if side.store.trouble().hides.is_none() {
            let shown = self.shown(t);
            let disk = side.store.mem.disk();
            match shown {
                Ok(shown) => self.world().shown_restorable(t, &disk.files, &shown),
                Err(error) => self.world().breaks("the target can be looked at", error.to_string()),
            }
        }
        if self.world().broken.len() > before {
            self.tell_chains(t);
        }
    }

    /// What the target is shown to hold, in words: for a story that failed there.
    fn tell_chains(&self, t: usize) {
        let side = &self.sides[t];
        let (line, _) = self.line();
        let capabilities = &side.store.mem.capabilities;
        let Ok(survey) = replicate::look(&side.store, &side.catalog, capabilities, &line, "0123abcd") else {
            return;
        };
        let mut world = self.world();
        for set in &survey.view.chains().sets {
            for image in &set.images {
                let upon = match image.parent {
                    crate::chain::Parent::Image(p) => set.images[p].id.display().into_owned(),
                    ref other => format!("{other:?}"),
                };
                let recorded = survey
                    .view
                    .files
                    .recorded(&image.id)
                    .map(|r| r.parent.as_ref().map(|p| p.path.display()));
                world.say(format!(
                    "     {}: restorable {} upon {upon}, recorded {recorded:?}, evidence {:?}, missing {:?}",
                    image.id.display(),
                    image.restorable,
                    image.evidence,
                    image.missing
                ));
            }
        }
    }

    /// What is true after every run, a killed one too.
    fn judge(&self, t: usize, heard: &Heard, fault: Fault) {
        if self.over() {
            return;
        }
        self.look(t);
        let side = &self.sides[t];
        let Some(summary) = &heard.summary else { return };
        // What came after the scan is the next run's.
        let quiet = !matches!(fault, Fault::Meanwhile(_))
            && summary.fatal.is_none()
            && summary.failed + summary.no_room + summary.unreadable == 0
            && summary.waiting.is_empty()
            && summary.left.is_empty()
            && heard.notices.is_empty()
            && heard.skipped == 0;
        if quiet {
            let disk = side.store.mem.disk();
            let mut world = self.world();
            let idle = summary.images + summary.deleted == 0;
            if let Some(lacking) = world.lacking(t, &disk.files, idle).first() {
                let text = format!("{} on target {t} lacks what it builds on", lacking.display());
                world.breaks("a run that says nothing leaves nothing that cannot be restored", text);
            }
        }
        if quiet && side.options.filter == Filter::default() {
            let disk = side.store.mem.disk();
            let mut world = self.world();
            if let Some(missing) = world.missing(t, &disk.files).first() {
                let text = format!("{} is not on target {t}", missing.display());
                world.breaks("a run that says nothing leaves nothing out", text);
            }
            if let Some(place) = world.source.in_doubt() {
                let text = format!("nobody can look into {}", place.display());
                world.breaks("a run that says nothing leaves nothing out", text);
            }
            if let Some(untold) = world.untold(t, &disk.files).first() {
                let text = format!("{} looks like an image and is not on target {t}", untold.display());
                world.breaks("a run that says nothing leaves nothing out", text);
            }
        }
    }

    /// Images that are shown as restorable, without a word of doubt.
    fn shown(&self, t: usize) -> Result<Vec<TargetPath>> {
        let side = &self.sides[t];
        let (line, _) = self.line();
        let survey =
            replicate::look(&side.store, &side.catalog, &side.store.mem.capabilities, &line, "0123abcd")?;
        let images = survey.view.chains().sets.iter().flat_map(|s| &s.images);
        Ok(images.filter(|i| i.restorable && !i.unproven).map(|i| i.id.clone()).collect())
    }

    /// The faults end, and after some runs nothing is left to do.
    fn end(&mut self) {
        {
            let mut world = self.world();
            world.say("the faults end");
            world.end_writing();
            unlock(&mut world);
            show(&mut world);
            world.source.root_gone = false;
            for m in 0..world.machines.len() {
                if world.source.mounts.get(&world.machines[m].dir) == Some(&None) {
                    mount(&mut world, m);
                }
            }
            world.pass(3600);
        }
        for side in &self.sides {
            *side.store.trouble() = Default::default();
            side.store.mem.disk().directories.clear();
        }
        // A source without any file is refused: nothing is concluded from it.
        if self.world().source.true_files().is_empty() {
            return;
        }
        let mut open = Vec::new();
        for round in 0..ALONE + WITH_THE_USER {
            if round == ALONE {
                self.world().say("the user allows and accepts what is asked");
                self.allow = true;
                for t in 0..self.sides.len() {
                    self.clear_damage(t);
                    self.sides[t].options.accept_unproven = true;
                }
            }
            self.world().pass(3600);
            let acted = self.run(Fault::None);
            if self.over() {
                return;
            }
            if acted && round + 1 < ALONE + WITH_THE_USER {
                continue;
            }
            open = self.left_to_do();
            if open.is_empty() {
                return;
            }
        }
        self.world().breaks("some number of runs leaves nothing to do", open.join("; "));
    }

    /// Who accepts looks first: files that nobody wrote are no merges, and go. So does what somebody else put there under
    /// another spelling of an image's name, where the target knows only one of the two: nothing is written over it.
    fn clear_damage(&self, t: usize) {
        let mut disk = self.sides[t].store.mem.disk();
        let mut world = self.world();
        let own = |p: &TargetPath| crate::target::names::parse(p).is_some();
        let damaged = disk.files.iter().filter(|(p, f)| !own(p) && world.library.find(&f.bytes).is_none());
        let mut damaged: Vec<TargetPath> = damaged.map(|(p, _)| p.clone()).collect();
        if self.sides[t].store.nature.folds {
            let seeded = |f: &MemFile| {
                let truth = world.library.find(&f.bytes).and_then(|id| world.library.truth(id));
                truth.is_some_and(|truth| truth.gives >= SEEDED)
            };
            let respelled = |p: &TargetPath| {
                let files = world.source.true_files();
                files.iter().all(|(s, _)| s != p)
                    && files.iter().any(|(s, _)| s.as_bytes().eq_ignore_ascii_case(p.as_bytes()))
            };
            let foreign = disk.files.iter().filter(|(p, f)| seeded(f) && respelled(p));
            damaged.extend(foreign.map(|(p, _)| p.clone()));
        }
        for at in damaged {
            world.say(format!("the user deletes {} on target {t}, which is not the source's", at.display()));
            disk.files.remove(&at);
            world.others_changed(t, &at);
        }
    }

    /// What another run would still do, or what is missing though it would do nothing.
    fn left_to_do(&mut self) -> Vec<String> {
        let Some(inventory) = self.scan(Fault::None) else {
            return vec!["the source cannot be scanned".into()];
        };
        let mut open = Vec::new();
        for t in 0..self.sides.len() {
            match self.plan(t, &inventory) {
                Err(error) => open.push(format!("target {t}: {error}")),
                Ok(plan) => {
                    // What is only compared waits for something at the source, as what is held back does.
                    let compares = |s: &plan::Step| !s.files.is_empty() && s.compare_only.is_none();
                    let active = |s: &&plan::Step| s.action != Action::Skip || compares(s);
                    open.extend(plan.steps.iter().filter(active).map(|s| {
                        format!("target {t}: {:?} {} because {}", s.action, s.image.display(), s.reason)
                    }));
                }
            }
            if self.sides[t].options.filter == Filter::default() {
                let disk = self.sides[t].store.mem.disk();
                let missing = self.world().missing(t, &disk.files);
                open.extend(missing.iter().map(|p| format!("target {t}: {} is missing", p.display())));
            }
        }
        open
    }

    fn plan(&self, t: usize, inventory: &Inventory) -> Result<Plan> {
        let side = &self.sides[t];
        let request = self.request(t);
        let target = request.target()?;
        let (line, _) = self.line();
        let capabilities = &side.store.mem.capabilities;
        let survey = replicate::look(&side.store, &side.catalog, capabilities, &line, "0123abcd")?;
        let source = assemble(&inventory.members(), &Knowledge::default());
        let names = replicate::names(&request);
        let now_ns = self.world().now;
        let input = replicate::input(target, inventory, &source, &survey, None, capabilities);
        Ok(plan::plan(&Input { names: &names, now_ns, ..input }))
    }
}

fn tell(world: &mut World, t: usize, event: Told, heard: &mut Heard) {
    match event {
        Told::Notice(notice) => {
            world.say(format!("  target {t}: {}", notice.text));
            heard.notices.push(notice);
        }
        Told::Skipped { image, reason, .. } => {
            world.say(format!("  target {t}: {image} is left: {reason}"));
            heard.skipped += 1;
        }
        Told::Settled { what } => world.say(format!("  target {t}: {what}")),
        Told::Published { image, .. } => world.say(format!("  target {t}: {image} is published")),
        Told::Deleted { image } => world.say(format!("  target {t}: {image} is deleted")),
        Told::ImageFailed { image, error, .. } => world.say(format!("  target {t}: {image} fails: {error}")),
        _ => {}
    }
}

struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn new_catalog(power: &Arc<Power>) -> Arc<Catalog> {
    let catalog = Catalog::in_memory().expect("SQLite has memory");
    catalog.powered_by(power.clone());
    Arc::new(catalog)
}

fn new_job(power: &Arc<Power>) -> JobDb {
    let job = JobDb::in_memory().expect("SQLite has memory");
    job.powered_by(power.clone());
    job
}

fn other(world: &mut World, n: usize) {
    let content = world.library.write(b"a note ", 30, None);
    world.put(&path(&format!("notes/{n}.txt")), content);
}

fn unlock(world: &mut World) {
    for system in &mut world.source.systems {
        for file in system.files.values_mut() {
            file.locked = false;
        }
    }
}

fn show(world: &mut World) {
    world.source.unreadable.clear();
    world.source.linked.clear();
}

fn mount(world: &mut World, m: usize) {
    let dir = world.machines[m].dir.clone();
    let system = world.source.systems.iter().position(|s| s.home == dir);
    if let Some(system) = system
        && !world.source.is_mounted(system)
    {
        world.say(format!("{} is mounted again", dir.display()));
        let (device, now) = (world.source.number() + 100, world.now);
        world.source.mount(&dir, system, device, now);
    }
}
