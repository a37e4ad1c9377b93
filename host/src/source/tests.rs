//! Scans of real directories under a clock that tests move; qemu's lock against a live qemu.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use offsite_plugin_api::TargetPath;

use super::memory::Memory;
use super::walk::{Facts, Walk};
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

#[test]
fn what_targets_hold_is_absent_even_when_the_observations_were_lost() {
    let folder = Folder::with(&["a"]);
    let mut memory = InMemory::default();
    memory.published.insert(path("gone"), (1, 2, 3));
    let inventory = folder.scan(&at_once(), &mut memory, &mut TestClock::new()).unwrap();
    assert_eq!(inventory.absent_since.keys().collect::<Vec<_>>(), [&path("gone")]);
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
    let inventory = folder.scan(&at_once(), &mut memory, &mut clock).unwrap();
    assert_eq!((names(&inventory), inventory.unreadable.len()), (vec!["a".to_owned()], 1));
    assert!(deep.starts_with(&inventory.unreadable[0].0));
    assert_eq!(inventory.absent_since.keys().collect::<Vec<_>>(), [&path("c")], "nobody looked where b was");
}

#[test]
fn a_file_system_inside_the_source_that_is_not_mounted_is_no_deletion() {
    let facts = |device| Facts { size: 1, mtime_ns: 1, ctime_ns: 1, device, inode: 1 };
    let mut memory = InMemory::default();
    let mut look = |devices: &[u64], files: &[(&str, u64)], now: i64| {
        let mut kept = Memory::load(&mut memory).unwrap();
        let files = files.iter().map(|(name, device)| (path(name), facts(*device))).collect();
        let (device, devices) = (devices[0], devices.iter().copied().collect());
        let mut walk = Walk { files, device, devices, ..Walk::default() };
        let absent = kept.observe(&mut walk, now).1;
        kept.save(&mut memory, Place { device, inode: 1 }, now).unwrap();
        absent.into_iter().map(|(path, since)| (path.display().into_owned(), since)).collect::<Vec<_>>()
    };
    let gone = |name: &str, since| vec![(name.to_owned(), since)];
    // The first device is the root's; the second is mounted within.
    assert_eq!(look(&[1, 2], &[("a", 1), ("in/b", 2), ("in/c", 2)], 10), []);
    assert_eq!(look(&[1], &[("a", 1)], 20), [], "not mounted: nothing is known of what is on it");
    assert_eq!(look(&[1, 2], &[("a", 1), ("in/b", 2)], 30), gone("in/c", 30), "mounted, and one is deleted");
    assert_eq!(look(&[1], &[("a", 1)], 40), []);
    // After a reboot both have other numbers; what is deleted stays known to be, from scan to scan.
    assert_eq!(look(&[8, 9], &[("in/b", 9)], 50), [("a".to_owned(), 50), ("in/c".to_owned(), 50)]);
    assert_eq!(look(&[8, 9], &[("in/b", 9)], 60), [("a".to_owned(), 50), ("in/c".to_owned(), 50)]);
    // Other numbers while it is not mounted.
    assert_eq!(look(&[4], &[("x", 4)], 70), gone("a", 50));
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
