//! Scans of real directories under a clock that tests move; qemu's lock against a live qemu.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use offsite_plugin_api::TargetPath;

use super::ignore::Ignore;
use super::memory::{Judge, Memory, Sight};
use super::walk::{Facts, Mounted, Walk};
use super::*;
use crate::error::{Error, Kind, Result};
use crate::format::{Format, Link};

const SECOND: i64 = 1_000_000_000;

/// Starts at 1000 s; a sleep moves it and does what the test wants done meanwhile.
struct TestClock<'a> {
    now: i64,
    slept: Duration,
    meanwhile: Box<dyn FnMut() + 'a>,
}

impl<'a> TestClock<'a> {
    fn new() -> Self {
        Self { now: 1000 * SECOND, slept: Duration::ZERO, meanwhile: Box::new(|| {}) }
    }

    fn meanwhile(mut self, f: impl FnMut() + 'a) -> Self {
        self.meanwhile = Box::new(f);
        self
    }

    fn forward(&mut self, seconds: i64) {
        self.now += seconds * SECOND;
    }
}

impl Clock for TestClock<'_> {
    fn now_ns(&mut self) -> i64 {
        self.now
    }

    fn sleep(&mut self, time: Duration) -> Result<()> {
        self.now += time.as_nanos() as i64;
        self.slept += time;
        (self.meanwhile)();
        Ok(())
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for file in files {
            folder.write(file, b"x");
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    fn scan(
        &self,
        options: &ScanOptions,
        memory: &mut InMemory,
        clock: &mut TestClock<'_>,
    ) -> Result<Inventory> {
        scan(self.path(), options, memory, clock)
    }
}

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

fn at_once() -> ScanOptions {
    ScanOptions { settle: Duration::ZERO, ..ScanOptions::default() }
}

fn patient() -> ScanOptions {
    ScanOptions::default()
}

fn no_wait() -> ScanOptions {
    ScanOptions { wait: false, ..ScanOptions::default() }
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.files.iter().map(|f| f.path.display().into_owned()).collect()
}

fn waiting(inventory: &Inventory) -> Vec<String> {
    inventory.unsettled.iter().map(|f| f.path.display().into_owned()).collect()
}

#[test]
fn a_tree_comes_out_sorted_by_path_and_links_are_left_alone() {
    let folder =
        Folder::with(&["b/2", "a", "b.x", "b/c/1", ".hidden/x", ".snapshot/x", "b/.Trash-0/x", "d\u{e9}"]);
    symlink("/etc/passwd", folder.at("out")).unwrap();
    symlink(folder.at("b"), folder.at("in")).unwrap();
    let inventory = folder.scan(&at_once(), &mut InMemory::default(), &mut TestClock::new()).unwrap();
    assert_eq!(names(&inventory), [".hidden/x", "a", "b.x", "b/2", "b/c/1", "d\u{e9}"]);
    let alone: Vec<_> = inventory.left_alone.iter().map(|u| u.path.display().into_owned()).collect();
    assert_eq!(alone, [".snapshot", "b/.Trash-0", "in", "out"]);
}

#[test]
fn a_file_settles_when_it_is_seen_twice_one_settle_time_apart() {
    let folder = Folder::with(&["old"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    let first = folder.scan(&no_wait(), &mut memory, &mut clock).unwrap();
    assert_eq!((names(&first), waiting(&first)), (vec![], vec!["old".to_owned()]));
    clock.forward(29);
    assert_eq!(waiting(&folder.scan(&no_wait(), &mut memory, &mut clock).unwrap()), ["old"]);
    clock.forward(1);
    // Observations count across runs: nothing waits for what older ones settle.
    let inventory = folder.scan(&patient(), &mut memory, &mut clock).unwrap();
    assert_eq!((names(&inventory), clock.slept), (vec!["old".to_owned()], Duration::ZERO));
}

#[test]
fn a_scan_waits_at_most_one_settle_time_and_takes_what_did_not_change() {
    let folder = Folder::with(&["still", "growing"]);
    let grows = || folder.write("growing", b"longer");
    let mut clock = TestClock::new().meanwhile(grows);
    let inventory = folder.scan(&patient(), &mut InMemory::default(), &mut clock).unwrap();
    assert_eq!(clock.slept, Duration::from_secs(30));
    drop(clock);
    assert_eq!(
        (names(&inventory), waiting(&inventory)),
        (vec!["still".to_owned()], vec!["growing".to_owned()])
    );
}

#[test]
fn a_file_is_taken_at_once_with_settle_0_or_when_a_target_holds_it_like_this() {
    let folder = Folder::with(&["a", "b"]);
    let mut clock = TestClock::new();
    let now = folder.scan(&at_once(), &mut InMemory::default(), &mut clock).unwrap();
    assert_eq!(names(&now), ["a", "b"]);
    let mut memory = InMemory::default();
    let a = &now.files[0];
    memory.published.insert(a.path.clone(), (a.size, a.mtime_ns, a.ctime_ns));
    assert_eq!(names(&folder.scan(&no_wait(), &mut memory, &mut clock).unwrap()), ["a"]);
    assert_eq!(clock.slept, Duration::ZERO);
}

#[test]
fn a_modification_time_in_the_future_settles_too() {
    let folder = Folder::with(&["a"]);
    let future = std::time::SystemTime::now() + Duration::from_secs(1 << 30);
    fs::File::options().write(true).open(folder.at("a")).unwrap().set_modified(future).unwrap();
    let mut clock = TestClock::new();
    assert_eq!(names(&folder.scan(&patient(), &mut InMemory::default(), &mut clock).unwrap()), ["a"]);
}

#[test]
fn a_rewrite_that_keeps_size_and_time_is_seen_by_its_ctime() {
    let folder = Folder::with(&["a"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&no_wait(), &mut memory, &mut clock).unwrap();
    let time = fs::metadata(folder.at("a")).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    folder.write("a", b"y");
    fs::File::options().write(true).open(folder.at("a")).unwrap().set_modified(time).unwrap();
    clock.forward(60);
    assert_eq!(waiting(&folder.scan(&no_wait(), &mut memory, &mut clock).unwrap()), ["a"]);
}

#[test]
fn a_clock_set_back_does_not_stop_files_from_settling() {
    let folder = Folder::with(&["a"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&no_wait(), &mut memory, &mut clock).unwrap();
    clock.forward(-900);
    folder.scan(&no_wait(), &mut memory, &mut clock).unwrap();
    clock.forward(30);
    assert_eq!(names(&folder.scan(&no_wait(), &mut memory, &mut clock).unwrap()), ["a"]);
}

#[test]
fn names_of_unfinished_files_never_settle() {
    let folder = Folder::with(&["a.aiv", "b.partial", "v/vda.full.data.partial", "c.spwb"]);
    let inventory = folder.scan(&at_once(), &mut InMemory::default(), &mut TestClock::new()).unwrap();
    assert_eq!(waiting(&inventory), ["b.partial", "c.spwb", "v/vda.full.data.partial"]);
}

#[test]
fn absence_is_remembered_from_the_first_scan_that_missed_a_file() {
    let folder = Folder::with(&["a", "b"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    fs::remove_file(folder.at("b")).unwrap();
    clock.forward(100);
    let since = clock.now;
    assert_eq!(folder.scan(&at_once(), &mut memory, &mut clock).unwrap().absent_since[&path("b")], since);
    clock.forward(100);
    assert_eq!(folder.scan(&at_once(), &mut memory, &mut clock).unwrap().absent_since[&path("b")], since);
    folder.write("b", b"x");
    assert!(folder.scan(&at_once(), &mut memory, &mut clock).unwrap().absent_since.is_empty());
    assert_eq!(memory.files[&path("b")].absent_ns, None);
}

#[test]
fn an_absence_is_proven_by_a_wait_where_a_target_syncs() {
    let folder = Folder::with(&["a", "b"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&patient(), &mut memory, &mut clock).unwrap();
    fs::remove_file(folder.at("b")).unwrap();
    let before = clock.slept;
    let options = ScanOptions { prove_absence: true, ..patient() };
    let inventory = folder.scan(&options, &mut memory, &mut clock).unwrap();
    assert_eq!(clock.slept - before, Duration::from_secs(30));
    assert!(inventory.absent_since[&path("b")] <= inventory.scanned_ns - inventory.settle_ns);
    folder.scan(&options, &mut memory, &mut clock).unwrap();
    assert_eq!(clock.slept - before, Duration::from_secs(30), "proven once");
}

/// Everything local was lost, and the target's manifests brought it back after the first scan.
#[test]
fn what_only_a_manifest_told_of_is_absent_once_its_folder_is_proved_twice() {
    let folder = Folder::with(&["a"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    let (size, mtime_ns) = (inventory.files[0].size, inventory.files[0].mtime_ns);
    let record = |name: &str, blake3| RecordedFile { path: path(name), size, mtime_ns, blake3, mount: None };
    memory.learned = vec![record("a", Some([7; 32])), record("gone", Some([8; 32])), record("b/far", None)];
    clock.forward(100);
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert!(inventory.absent_since.is_empty(), "another content lies there");
    memory.learned[0] = record("a", Some(blake3::hash(b"x").into()));
    clock.forward(100);
    let first = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    clock.forward(100);
    let second = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!(second.absent_since.keys().collect::<Vec<_>>(), [&path("gone")], "nothing is known of b");
    assert!(second.absent_since[&path("gone")] <= first.scanned_ns, "found absent twice");
}

#[test]
fn what_targets_hold_is_absent_even_when_the_observations_were_lost() {
    let folder = Folder::with(&["a"]);
    let mut memory = InMemory::default();
    memory.published.insert(path("gone"), (1, 2, 3));
    let mut clock = TestClock::new();
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert!(inventory.absent_since.is_empty(), "nothing proves that this is the folder it was in");
    assert_eq!(inventory.doubts[0].cause, DoubtCause::Unproven);
    let (size, mtime_ns) = (inventory.files[0].size, inventory.files[0].mtime_ns);
    let mut record = |blake3| {
        memory.records = vec![RecordedFile { path: path("a"), size, mtime_ns, blake3, mount: None }];
        clock.forward(100);
        folder.scan(&at_once(), &mut memory, &mut clock).unwrap()
    };
    assert!(record(Some([7; 32])).absent_since.is_empty(), "another content");
    let proved = record(Some(blake3::hash(b"x").into()));
    assert_eq!(proved.absent_since.keys().collect::<Vec<_>>(), [&path("gone")]);
    assert!(proved.doubts.is_empty());
    assert!(record(Some([7; 32])).absent_since.is_empty(), "proved once only");
    record(Some(blake3::hash(b"x").into()));
    record(Some(blake3::hash(b"x").into()));
    assert_eq!(record(None).absent_since.len(), 1, "proved twice: it is known where it lay");
}

#[test]
fn what_is_long_gone_is_forgotten_unless_a_target_holds_it() {
    let folder = Folder::with(&["a", "b", "c"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    memory.published.insert(path("c"), (1, 2, 3));
    fs::remove_file(folder.at("b")).unwrap();
    fs::remove_file(folder.at("c")).unwrap();
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!(memory.files.len(), 3);
    clock.forward(91 * 24 * 3600);
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert!(inventory.absent_since.contains_key(&path("c")));
    assert_eq!(memory.files.keys().collect::<Vec<_>>(), [&path("a"), &path("c")]);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    struct Counting(InMemory, usize);
    impl Observations for Counting {
        fn load(&mut self) -> Result<Remembered> {
            self.0.load()
        }
        fn save(&mut self, learned: &Learned) -> Result<()> {
            self.1 += learned.put.len();
            self.0.save(learned)
        }
    }
    let folder = Folder::with(&["a", "b", "c.qcow2"]);
    let (mut memory, mut clock) = (Counting(InMemory::default(), 0), TestClock::new());
    scan(folder.path(), &at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!(memory.1, 3);
    scan(folder.path(), &at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!(memory.1, 3);
}

fn kind_and_hint(result: Result<Inventory>) -> (Kind, String) {
    let error = result.expect_err("an error");
    assert!(error.hint.is_some(), "{error}");
    (error.kind.clone(), error.what)
}

#[test]
fn a_missing_empty_or_wrong_root_stops_the_job() {
    let folder = Folder::with(&[]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    let what = |r: Result<Inventory>| kind_and_hint(r);
    assert_eq!(
        what(folder.scan(&at_once(), &mut memory, &mut clock)),
        (Kind::Source, "the source holds no file".into())
    );
    fs::create_dir(folder.at("dir")).unwrap();
    assert_eq!(what(folder.scan(&at_once(), &mut memory, &mut clock)).1, "the source holds no file");
    let missing = scan(&folder.at("missing"), &at_once(), &mut memory, &mut clock);
    assert_eq!(what(missing), (Kind::Source, "the source does not exist".into()));
    folder.write("file", b"x");
    let file = scan(&folder.at("file"), &at_once(), &mut memory, &mut clock);
    assert_eq!(what(file), (Kind::Source, "the source is no directory".into()));
    assert_eq!(memory.files.len(), 0, "nothing is remembered of such a scan");
}

#[test]
fn another_file_system_without_any_known_file_stops_the_job() {
    let folder = Folder::with(&["a"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    memory.place.as_mut().unwrap().device += 1;
    folder.scan(&at_once(), &mut memory, &mut clock).expect("a remount changes the device of the same files");
    memory.place.as_mut().unwrap().device += 1;
    memory.mounts[0].identity = THIRD_DISK.into();
    memory.files.get_mut(&path("a")).unwrap().mount = Some(THIRD_DISK.into());
    folder.scan(&at_once(), &mut memory, &mut clock).expect("it holds a file of the one before");
    fs::rename(folder.at("a"), folder.at("other")).unwrap();
    let (kind, what) = kind_and_hint(folder.scan(&at_once(), &mut memory, &mut clock));
    assert!(kind == Kind::Source && what.contains("another file system"), "{what}");
}

#[test]
fn a_root_replaced_during_the_wait_or_a_stop_ends_the_scan() {
    let folder = Folder::with(&["src/a"]);
    let mut clock = TestClock::new().meanwhile(|| {
        let _ = fs::rename(folder.at("src"), folder.at("old"));
        fs::create_dir(folder.at("src")).unwrap();
    });
    let result = scan(&folder.at("src"), &patient(), &mut InMemory::default(), &mut clock);
    assert_eq!(kind_and_hint(result).0, Kind::Source);
    drop(clock);
    let mut stopped = SystemClock(|| true);
    let result = scan(&folder.at("old"), &patient(), &mut InMemory::default(), &mut stopped);
    assert!(matches!(result, Err(Error { kind: Kind::Stopped, .. })));
}

/// Unreadable for root too: its path is longer than the kernel takes.
#[test]
fn an_unreadable_directory_is_told_and_hides_no_deletion() {
    let folder = Folder::with(&["a"]);
    let name = "d".repeat(250);
    let mut at = open_root(folder.path()).unwrap();
    let mut deep = TargetPath::root();
    for _ in 0..17 {
        rustix::fs::mkdirat(&at, name.as_str(), rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, name.as_str(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap();
        deep = deep.join(&name).unwrap();
    }
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    memory.published.insert(deep.join("b").unwrap(), (1, 2, 3));
    memory.published.insert(path("c"), (1, 2, 3));
    let a = folder.scan(&at_once(), &mut InMemory::default(), &mut clock).unwrap().files.remove(0);
    let blake3 = Some(blake3::hash(b"x").into());
    let proof = RecordedFile { path: a.path, size: a.size, mtime_ns: a.mtime_ns, blake3, mount: None };
    memory.records.push(proof);
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!((names(&inventory), inventory.unreadable.len()), (vec!["a".to_owned()], 1));
    assert!(deep.starts_with(&inventory.unreadable[0].0));
    assert_eq!(inventory.absent_since.keys().collect::<Vec<_>>(), [&path("c")], "nobody looked where b was");
}

#[test]
fn opening_never_leaves_the_root_or_follows_a_link() {
    let folder = Folder::with(&["in/a"]);
    symlink("a", folder.at("in/link")).unwrap();
    symlink("in", folder.at("dir")).unwrap();
    Command::new("mkfifo").arg(folder.at("fifo")).status().unwrap();
    let root = open_root(folder.path()).unwrap();
    assert!(open_file(&root, &path("in/a")).is_ok());
    for bad in ["in/link", "dir/a", "in", "fifo", "missing"] {
        assert_eq!(open_file(&root, &path(bad)).unwrap_err().kind, Kind::Source, "{bad}");
    }
}

#[test]
fn a_file_is_the_same_doubtful_or_changed() {
    let folder = Folder::with(&["a"]);
    let inventory = folder.scan(&at_once(), &mut InMemory::default(), &mut TestClock::new()).unwrap();
    let root = open_root(folder.path()).unwrap();
    let stat = || rustix::fs::fstat(open_file(&root, &path("a")).unwrap()).unwrap();
    let file = &inventory.files[0];
    assert_eq!(same_file(file, &stat()), Sameness::Same);
    let moved = SourceFile { inode: file.inode + 1, ..file.clone() };
    assert_eq!(same_file(&moved, &stat()), Sameness::Doubtful);
    folder.write("a", b"longer");
    assert_eq!(same_file(file, &stat()), Sameness::Changed);
}

fn qemu_img(args: &[&str], directory: &Path) {
    let done =
        Command::new("qemu-img").args(args).current_dir(directory).output().expect("qemu-utils is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_qcow2_is_known_by_its_header_and_left_out_while_qemu_writes_to_it() {
    let folder = Folder::with(&[]);
    qemu_img(&["create", "-q", "-f", "qcow2", "base", "1M"], folder.path());
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top.snap"], folder.path());
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    let top = inventory.files[1].recognised.as_ref().unwrap();
    assert_eq!((top.format, &top.link), (Format::Qcow2, &Link::File(path("base"))));

    // qemu-io keeps the image open, for writing, until its input ends.
    let mut qemu = Command::new("qemu-io")
        .arg("top.snap")
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-utils is installed");
    let mut scanned = inventory;
    for _ in 0..100 {
        scanned = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
        if !scanned.unsettled.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
    assert_eq!(waiting(&scanned), ["top.snap"], "its backing file is only read, and so not left out");
    assert_eq!(scanned.unsettled[0].reason, "qemu has it open for writing");
    assert_eq!(names(&folder.scan(&at_once(), &mut memory, &mut clock).unwrap()), ["base", "top.snap"]);
}

#[test]
fn a_header_is_read_once_per_change() {
    let folder = Folder::with(&[]);
    qemu_img(&["create", "-q", "-f", "qcow2", "base", "1M"], folder.path());
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    let seen = memory.files.get_mut(&path("base")).unwrap();
    let told: (u32, Option<crate::format::Recognised>) =
        postcard::from_bytes(seen.header.as_ref().unwrap()).unwrap();
    assert_eq!(told.1.as_ref().unwrap().format, Format::Qcow2);
    let other = crate::format::Recognised { note: Some("remembered".to_owned()), ..told.1.unwrap() };
    seen.header = Some(postcard::to_stdvec(&(told.0, Some(other))).unwrap());
    let note = |i: Inventory| i.files[0].recognised.as_ref().unwrap().note.clone();
    assert_eq!(
        note(folder.scan(&at_once(), &mut memory, &mut clock).unwrap()).as_deref(),
        Some("remembered")
    );
    folder.write("base", &fs::read(folder.at("base")).unwrap());
    assert_eq!(note(folder.scan(&at_once(), &mut memory, &mut clock).unwrap()), None);
}

/// A source of made-up walks, scan after scan.
#[derive(Default)]
struct Simulated {
    memory: InMemory,
    now: i64,
    digests: std::collections::BTreeMap<TargetPath, [u8; 32]>,
}

const DISK: &str = "type=ext4;uuid=1;root=/;source=/dev/sda1";
const SECOND_DISK: &str = "type=ext4;uuid=2;root=/;source=/dev/sdb1";
const THIRD_DISK: &str = "type=ext4;uuid=3;root=/;source=/dev/sdb1";
const SHARE: &str = "type=nfs;root=/;source=nas:/b";

fn mounted(place: &str, identity: &str, occasion: &str) -> Mounted {
    let place = if place == "." { TargetPath::root() } else { path(place) };
    Mounted { path: place, identity: identity.into(), occasion: occasion.into() }
}

fn facts(device: u64) -> Facts {
    Facts { size: 1, mtime_ns: 1, ctime_ns: 1, device, inode: 1 }
}

fn walk_of(mounts: &[Mounted], files: &[(&str, Facts)]) -> Walk {
    let mut files: Vec<_> = files.iter().map(|(name, facts)| (path(name), *facts)).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Walk { files, mounts: mounts.to_vec(), device: 1, ..Walk::default() }
}

impl Simulated {
    fn look(&mut self, mut walk: Walk) -> Sight {
        self.now += 10;
        let mut kept = Memory::load(&mut self.memory).unwrap();
        let digests = self.digests.clone();
        let mut judge = Judge {
            now_ns: self.now,
            settle_ns: 0,
            ignore: &Ignore::default(),
            digest: &mut |path| Ok(digests.get(path).copied()),
        };
        let sight = kept.observe(&mut walk, &mut judge).unwrap();
        kept.save(&mut self.memory, Place { device: 1, inode: 1 }, self.now).unwrap();
        sight
    }

    /// What is absent, and which places are in doubt.
    fn told(&mut self, mounts: &[Mounted], files: &[&str]) -> (Vec<String>, Vec<String>) {
        let files: Vec<_> = files.iter().map(|name| (*name, facts(1))).collect();
        let sight = self.look(walk_of(mounts, &files));
        let absent = sight.absent.into_keys().map(|path| path.display().into_owned());
        (absent.collect(), sight.doubts.into_iter().map(|d| d.place.display().into_owned()).collect())
    }
}

fn nothing() -> (Vec<String>, Vec<String>) {
    Default::default()
}

fn absent(names: &[&str]) -> (Vec<String>, Vec<String>) {
    (names.iter().map(|&n| n.to_owned()).collect(), Vec::new())
}

fn in_doubt(places: &[&str]) -> (Vec<String>, Vec<String>) {
    (Vec::new(), places.iter().map(|&n| n.to_owned()).collect())
}

#[test]
fn a_file_system_inside_the_source_that_is_not_mounted_is_no_deletion() {
    let root = || mounted(".", DISK, "");
    let inner = || mounted("in", SECOND_DISK, "");
    let mut source = Simulated::default();
    assert_eq!(source.told(&[root(), inner()], &["a", "in/b", "in/c"]), nothing());
    assert_eq!(source.told(&[root()], &["a"]), in_doubt(&["in"]));
    assert_eq!(
        source.told(&[root(), inner()], &["a", "in/b"]),
        absent(&["in/c"]),
        "mounted, and one is deleted"
    );
    assert_eq!(
        source.told(&[root()], &["a", "in/b"]),
        in_doubt(&["in"]),
        "what lies beneath has the same name"
    );
    assert_eq!(source.told(&[root(), inner()], &["in/b"]), absent(&["a", "in/c"]));
    let other = mounted("in", THIRD_DISK, "");
    assert_eq!(
        source.told(&[root(), other], &["in/x"]),
        (vec!["a".into()], vec!["in".into()]),
        "another disk"
    );
    assert_eq!(source.told(&[root(), inner()], &["in/b", "in/c"]).1, ["in"], "x lay on the other disk");
}

#[test]
fn one_of_two_file_systems_with_the_others_old_number_deletes_nothing() {
    let (root, x, y) = (mounted(".", DISK, ""), mounted("x", SECOND_DISK, ""), mounted("y", THIRD_DISK, ""));
    let mut source = Simulated::default();
    let both = [("a", facts(1)), ("x/b", facts(2)), ("y/c", facts(3))];
    source.look(walk_of(&[root.clone(), x, y.clone()], &both));
    for _ in 0..3 {
        // Only y came back, and has the number that x had.
        let sight = source.look(walk_of(&[root.clone(), y.clone()], &[("a", facts(1)), ("y/c", facts(2))]));
        assert!(sight.absent.is_empty(), "{sight:?}");
        assert_eq!(sight.doubts.len(), 1, "{sight:?}");
        assert_eq!((&sight.doubts[0].place, sight.doubts[0].files), (&path("x"), 1));
    }
}

#[test]
fn files_hidden_by_a_new_mount_over_their_folder_are_no_deletion() {
    let mut source = Simulated::default();
    source.told(&[mounted(".", DISK, "")], &["a", "in/b"]);
    let over = [mounted(".", DISK, ""), mounted("in", SECOND_DISK, "")];
    assert_eq!(source.told(&over, &["a", "in/new"]), in_doubt(&["in"]));
    assert_eq!(source.told(&[mounted(".", DISK, "")], &["a", "in/b"]).0, Vec::<String>::new());
}

#[test]
fn what_a_file_was_is_remembered_where_something_was_missing_then() {
    let mut source = Simulated::default();
    let look = |source: &mut Simulated, files: &[(&str, Facts)]| {
        source.look(walk_of(&[mounted(".", DISK, "")], files)).earlier
    };
    let changed = Facts { size: 2, ..facts(1) };
    let all = [("in/a", facts(1)), ("in/b", facts(1)), ("out/c", facts(1))];
    assert!(look(&mut source, &all).is_empty(), "the first look says nothing of what was before");
    assert!(look(&mut source, &[all[0], all[2]]).is_empty());
    let earlier = look(&mut source, &[("in/a", changed), ("in/new", facts(1)), ("out/c", changed)]);
    let was = |form| Earlier { form, until_ns: 30 };
    let expected = [(path("in/a"), was(Some((1, 1)))), (path("in/new"), was(None))];
    assert_eq!(earlier, expected.into(), "nothing was missing beside c");
    let later = [("in/a", Facts { size: 3, ..facts(1) }), ("in/new", facts(1)), ("out/c", changed)];
    let form = Some((2, 1));
    assert_eq!(look(&mut source, &later)[&path("in/a")], Earlier { form, until_ns: 40 });
    let mut same = Simulated::default();
    look(&mut same, &all);
    let both = look(&mut same, &[("in/a", changed), ("out/c", facts(1))]);
    assert!(both.is_empty(), "what changed and what went were seen at once: {both:?}");
}

#[test]
fn another_root_deletes_nothing_although_it_holds_some_of_the_files() {
    let mut source = Simulated::default();
    source.told(&[mounted(".", DISK, "")], &["a", "b"]);
    assert_eq!(source.told(&[mounted(".", SECOND_DISK, "")], &["a"]), in_doubt(&[""]));
    assert_eq!(source.told(&[mounted(".", DISK, "")], &["a"]), absent(&["b"]));
}

#[test]
fn a_share_that_is_mounted_and_empty_is_no_deletion() {
    let mounts = [mounted(".", DISK, ""), mounted("in", SHARE, "")];
    let mut source = Simulated::default();
    source.told(&mounts, &["a", "in/b"]);
    assert_eq!(source.told(&mounts, &["a"]), in_doubt(&["in"]));
    assert_eq!(
        source.told(&mounts, &["a", "in/new"]),
        absent(&["in/b"]),
        "it answers again, and b is deleted"
    );
    let disks = [mounted(".", DISK, ""), mounted("in", SECOND_DISK, "")];
    let mut source = Simulated::default();
    source.told(&disks, &["a", "in/b"]);
    assert_eq!(source.told(&disks, &["a"]), absent(&["in/b"]), "a disk is known by its own identity");
}

#[test]
fn a_mount_point_with_nothing_at_stake_may_go_in_silence() {
    let mut source = Simulated::default();
    source.told(&[mounted(".", DISK, ""), mounted("in", SECOND_DISK, "")], &["a"]);
    assert_eq!(source.told(&[mounted(".", DISK, "")], &["a"]), nothing());
    assert_eq!(source.memory.mounts.len(), 1);
}

#[test]
fn after_a_loss_a_nested_file_system_that_is_off_is_no_deletion() {
    let both = [mounted(".", DISK, ""), mounted("in", SECOND_DISK, "")];
    let mut source = Simulated::default();
    for (name, mount) in [("a", DISK), ("gone", DISK), ("in/b", SECOND_DISK)] {
        source.memory.published.insert(path(name), (1, 1, 1));
        source.digests.insert(path(name), [1; 32]);
        let mount = Some(mount.into());
        let record = RecordedFile { path: path(name), size: 1, mtime_ns: 1, blake3: Some([1; 32]), mount };
        source.memory.records.push(record);
    }
    for _ in 0..3 {
        let (absent, doubts) = source.told(&both[..1], &["a"]);
        assert_eq!((absent, doubts), (vec!["gone".to_owned()], vec!["in".to_owned()]));
    }
    assert_eq!(source.told(&both, &["a", "in/b"]), absent(&["gone"]));
}

#[test]
fn what_a_share_sets_anew_at_every_mount_is_found_out_and_left_out() {
    let names = ["a", "b", "c"];
    let walk = |mount: &Mounted, inode: u64, ctime_ns: i64| {
        let files: Vec<_> = names.iter().map(|n| (*n, Facts { inode, ctime_ns, ..facts(1) })).collect();
        walk_of(std::slice::from_ref(mount), &files)
    };
    let mut source = Simulated::default();
    source.look(walk(&mounted(".", SHARE, "mount 1"), 1, 1));
    let after = source.look(walk(&mounted(".", SHARE, "mount 2"), 2, 2));
    assert!(after.files.iter().all(|(_, facts, since, _)| *since == 10 && facts.ctime_ns == 0), "{after:?}");
    let known = source.look(walk(&mounted(".", SHARE, "mount 3"), 3, 3));
    assert!(known.files.iter().all(|(_, _, since, _)| *since == 10), "{known:?}");
    let changed =
        source.look(walk_of(&[mounted(".", SHARE, "mount 3")], &[("a", Facts { size: 2, ..facts(1) })]));
    assert_eq!(changed.files[0].2, 40, "a change of size is a change");

    // Change times that move without a mount are a chmod, and inodes of a disk are its own.
    let mut source = Simulated::default();
    source.look(walk(&mounted(".", SHARE, "mount 1"), 1, 1));
    let after = source.look(walk(&mounted(".", SHARE, "mount 1"), 1, 2));
    assert!(after.files.iter().all(|(_, facts, since, _)| *since == 20 && facts.ctime_ns == 2), "{after:?}");
    let mut source = Simulated::default();
    source.look(walk(&mounted(".", DISK, "mount 1"), 1, 1));
    let after = source.look(walk(&mounted(".", DISK, "mount 2"), 2, 2));
    assert!(after.files.iter().all(|(_, _, since, _)| *since == 20), "{after:?}");
}

#[test]
fn a_time_that_lost_its_digits_at_a_mount_unsettles_nothing() {
    let at = |mtime_ns| walk_of(&[mounted(".", SHARE, "")], &[("a", Facts { mtime_ns, ..facts(1) })]);
    let mut source = Simulated::default();
    source.look(at(1001 * SECOND + 123_456_789));
    assert_eq!(source.look(at(1000 * SECOND)).files[0].2, 10);
    assert_eq!(source.look(at(1000 * SECOND)).files[0].2, 10);
    assert_eq!(source.look(at(1002 * SECOND)).files[0].2, 40);
}

#[test]
fn an_accepted_disk_is_what_absence_is_judged_by() {
    let folder = Folder::with(&["a", "in/b", "in/c"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    // As if both had lain on a disk that was mounted there.
    for name in ["in/b", "in/c"] {
        memory.files.get_mut(&path(name)).unwrap().mount = Some(SECOND_DISK.into());
    }
    let root = memory.mounts[0].clone();
    memory.mounts.push(MountPoint { path: path("in"), identity: SECOND_DISK.into(), ..root });
    fs::remove_file(folder.at("in/c")).unwrap();
    for _ in 0..2 {
        clock.forward(100);
        let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
        assert!(inventory.absent_since.is_empty());
        let DoubtCause::Mount { was, now: None } = &inventory.doubts[0].cause else {
            panic!("{inventory:?}")
        };
        assert!(was.contains("with UUID 2") && inventory.doubts[0].files == 1, "{inventory:?}");
    }
    let within = accept(folder.path(), &path("in/deeper"), &[], &mut memory, &mut clock).unwrap_err();
    assert!(within.kind == Kind::Usage && within.hint.unwrap().contains("accept in"));
    let accepted = accept(folder.path(), &path("in"), &[], &mut memory, &mut clock).unwrap();
    assert_eq!(accepted.missing, 1);
    clock.forward(100);
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!((inventory.absent_since.len(), inventory.doubts.len()), (1, 0));
    assert_eq!(inventory.absent_since[&path("in/c")], clock.now, "two scans from then on");
}

#[test]
fn what_is_ignored_is_not_there_and_never_absent() {
    let folder = Folder::with(&["a.aiv", "service.log", "old/b.aiv", "old/deep/c.aiv"]);
    symlink("/etc", folder.at("old/link")).unwrap();
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    fs::remove_file(folder.at("old/b.aiv")).unwrap();
    let ignoring = ScanOptions { ignore: vec!["old".into(), "*.log".into()], ..at_once() };
    for _ in 0..2 {
        clock.forward(100);
        let inventory = folder.scan(&ignoring, &mut memory, &mut clock).unwrap();
        assert_eq!(names(&inventory), ["a.aiv"]);
        assert!(inventory.absent_since.is_empty() && inventory.left_alone.is_empty(), "{inventory:?}");
        assert!(inventory.doubts.is_empty() && inventory.unsettled.is_empty(), "{inventory:?}");
    }
}

#[test]
fn a_folder_that_became_a_link_is_in_doubt_with_what_was_in_it() {
    let folder = Folder::with(&["a", "in/b", "in/c"]);
    let (mut memory, mut clock) = (InMemory::default(), TestClock::new());
    folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(folder.at("in"), elsewhere.path().join("in")).unwrap();
    symlink(elsewhere.path().join("in"), folder.at("in")).unwrap();
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    let doubt = &inventory.doubts[0];
    assert_eq!((&doubt.cause, &doubt.place, doubt.files), (&DoubtCause::Link, &path("in"), 2));
    assert!(inventory.absent_since.is_empty());
}
