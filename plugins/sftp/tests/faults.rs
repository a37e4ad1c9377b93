//! Networks that freeze, servers that refuse, disks that are full, and answers that lie.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{Checkpoints, Data, Place, path, put, request};
use offsite_plugin_api::*;
use offsite_tests::proxy::{Direction, Proxy};
use offsite_tests::servers::account;
use offsite_tests::servers::sshd::{Settings, Sshd};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A call that is cancelled from outside and counts.
#[derive(Default)]
struct Watch {
    cancelled: AtomicBool,
    acked: AtomicU64,
    warned: AtomicU64,
}

impl CallHost for Watch {
    fn cancelled(&self) -> bool {
        self.cancelled.load(SeqCst)
    }
    fn remaining(&self) -> Option<Duration> {
        None
    }
    fn pace(&self, _: u64) -> bool {
        !self.cancelled()
    }
    fn acked(&self, bytes: u64) {
        self.acked.fetch_add(bytes, SeqCst);
    }
    fn alive(&self, _: &str) {}
    fn log(&self, level: Level, _: &str) {
        self.warned.fetch_add(u64::from(level <= Level::Warn), SeqCst);
    }
}

/// Runs `act`, cancels it once `stuck` says so, and gives its error; it must end within two seconds.
fn cancelled<T: std::fmt::Debug>(
    stuck: impl Fn() -> bool + Sync,
    act: impl FnOnce(&Call) -> Result<T>,
) -> Error {
    let watch = Arc::new(Watch::default());
    let (result, late) = std::thread::scope(|scope| {
        let at = scope.spawn(|| {
            let start = Instant::now();
            while !stuck() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(300));
            watch.cancelled.store(true, SeqCst);
            Instant::now()
        });
        let result = act(&Call::new(watch.clone()));
        let ended = Instant::now();
        (result, ended.saturating_duration_since(at.join().unwrap()))
    });
    assert!(late < Duration::from_secs(2), "it took {late:?} to end after the cancellation");
    result.unwrap_err()
}

struct Line {
    place: Place,
    proxy: Proxy,
}

impl Line {
    fn new() -> Self {
        let place = Place::of(Sshd::start());
        let proxy = Proxy::start(place.server.address());
        place.server.know("127.0.0.1", proxy.address().port());
        Self { place, proxy }
    }

    fn open(&self) -> Box<dyn Backend> {
        self.place
            .open_with(&self.place.server.url_at(self.proxy.address()), self.place.options(), &[])
            .unwrap()
    }
}

#[test]
fn a_frozen_connection_can_be_cancelled_at_every_stage() {
    let line = Line::new();
    // In the handshake, at the login, in an upload.
    for (direction, bytes) in
        [(Direction::Down, 10), (Direction::Up, 1500), (Direction::Down, 2000), (Direction::Up, 3 * MIB)]
    {
        let backend = line.open();
        let done = line.proxy.count(direction);
        line.proxy.freeze_at(direction, done + bytes);
        let error = cancelled(
            || line.proxy.frozen(),
            |call| {
                backend.stage(
                    call,
                    &request("a.img", 64 * MIB, 2),
                    Arc::new(Data(64 * MIB)),
                    Arc::<Checkpoints>::default(),
                )
            },
        );
        assert_eq!(error.kind(), &ErrorKind::Cancelled, "{direction:?} {bytes}: {error}");
        line.proxy.freeze(false);
        line.proxy.cut();
        // The next call opens what was dropped.
        backend.list(&Call::unwatched(), &TargetPath::root(), false, None).unwrap();
    }
    // Something that answers nothing at all.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("sftp://x@{}/a", silent.local_addr().unwrap());
    let backend = line.place.open_with(&url, line.place.options(), &[]).unwrap();
    let start = Instant::now();
    let error =
        cancelled(|| start.elapsed() > Duration::from_millis(500), |call| backend.stat(call, &path("a")));
    assert_eq!(error.kind(), &ErrorKind::Cancelled);
    // And within its own time, with nobody cancelling.
    let mut options = line.place.options();
    options["connect_timeout"] = json!(1);
    let backend = line.place.open_with(&url, options, &[]).unwrap();
    let error = backend.stat(&Call::unwatched(), &path("a")).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::TimedOut, Retry::Now), "{error}");
}

#[test]
fn a_cut_upload_resumes_and_sends_only_the_rest() {
    let line = Line::new();
    let backend = line.open();
    let (call, size) = (Call::unwatched(), 200 * MIB + 12_345);
    let checkpoints = Arc::new(Checkpoints::default());
    let cut = line.proxy.count(Direction::Up) + 150 * MIB;
    line.proxy.cut_at(Direction::Up, cut);
    let error = backend
        .stage(&call, &request("a.img", size, 3), Arc::new(Data(size)), checkpoints.clone())
        .unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::Interrupted, Retry::Now), "{error}");
    let (resume, durable) = checkpoints.0.lock().unwrap().last().cloned().unwrap();
    let held: u64 = resume.ranges.iter().map(|r| r.length).sum();
    assert!(durable && held >= (150 - 64 - 12) * MIB, "{held}");
    let before = line.proxy.count(Direction::Up);
    let mut request = request("a.img", size, 3);
    request.resume = Some(resume);
    let staged = backend.stage(&call, &request, Arc::new(Data(size)), checkpoints).unwrap();
    let sent = line.proxy.count(Direction::Up) - before;
    assert!(
        sent < (size - held) * 102 / 100 + MIB,
        "{sent} bytes were sent for {} that were left",
        size - held
    );
    assert_eq!(staged.size, size);
    let found = fs::read(line.place.server.data().join(request.staging.display().as_ref())).unwrap();
    assert!(found == Data(size).bytes(), "what arrived is not what was sent");
}

#[test]
fn a_connection_dropped_while_idle_is_replaced_without_an_error() {
    let place = Place::of(Sshd::start());
    let backend = place.open();
    put(&*backend, "a.img", 5, 1, Expect::Absent).unwrap();
    place.server.cut();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(backend.stat(&Call::unwatched(), &path("a.img")).unwrap().size, 5);
}

#[test]
fn more_than_two_gigabytes_survive_many_new_keys() {
    struct Zeros(u64);
    impl Source for Zeros {
        fn size(&self) -> u64 {
            self.0
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
            let n = self.0.saturating_sub(offset).min(buf.len() as u64) as usize;
            buf[..n].fill(0);
            Ok(n)
        }
    }
    let place = Place::of(Sshd::with_lines(&["RekeyLimit 64M"]));
    let backend = place.open();
    let size = 2300 * MIB + 7;
    // Most of it is there already: what is sent lies on both sides of 2 GiB and is worth several keys.
    let held = 2000 * MIB;
    let mut request = request("large.img", size, 2);
    let staging = place.server.data().join(request.staging.display().as_ref());
    fs::File::create(&staging).unwrap().set_len(held).unwrap();
    let token = backend.list_staged(&Call::unwatched(), &TargetPath::root()).unwrap().remove(0).token;
    request.resume = Some(ResumeFrom { token, ranges: vec![Range { offset: 0, length: held }] });
    let call = Call::unwatched();
    let staged =
        backend.stage(&call, &request, Arc::new(Zeros(size)), Arc::<Checkpoints>::default()).unwrap();
    assert_eq!(staged.size, size);
    assert_eq!(fs::metadata(&staging).unwrap().len(), size);
    // And back: the end, through new keys the other way.
    struct Count(AtomicU64);
    impl Sink for Count {
        fn write(&self, bytes: &[u8]) -> Result<()> {
            assert!(bytes.iter().all(|b| *b == 0));
            self.0.fetch_add(bytes.len() as u64, SeqCst);
            Ok(())
        }
    }
    let sink = Arc::new(Count(AtomicU64::new(0)));
    let range = Range { offset: size - 150 * MIB, length: 150 * MIB };
    backend.read_staged(&call, &staged.token, range, sink.clone()).unwrap();
    assert_eq!(sink.0.load(SeqCst), 150 * MIB);
}

#[test]
fn eight_streams_of_two_targets_stay_below_the_servers_limit_of_logins() {
    // MaxStartups is 10:30:100 unless set; without help each of sixteen connections would knock at once.
    let place = Place::of(Sshd::start());
    let watch = Arc::new(Watch::default());
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let (place, watch) = (&place, &watch);
            scope.spawn(move || {
                let backend = place.open();
                let size = 96 * MIB;
                let request = request(&format!("{name}/a.img"), size, 8);
                let call = Call::new(watch.clone());
                let source = Arc::new(Data(size));
                backend.stage(&call, &request, source, Arc::<Checkpoints>::default()).unwrap();
            });
        }
    });
    assert_eq!((watch.acked.load(SeqCst), watch.warned.load(SeqCst)), (2 * 96 * MIB, 0));
    let log = place.server.log();
    assert!(!log.contains("drop connection"), "{log}");
}

/// A file system of its own in the server's data; unmounted with it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let options = format!("size={size}");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&at).status().unwrap();
        assert!(status.success(), "these tests need root, to mount a small disk");
        Self(at)
    }

    fn remount_read_only(&self) {
        // The server may still be closing what was written to last.
        let done = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).output().unwrap().status.success()
        });
        assert!(done, "the disk cannot be made read-only");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_are_named() {
    let place = Place::of(Sshd::start());
    let disk = Disk::mount(place.server.data().join("disk"), "4m");
    let url = format!("{}/disk", place.server.url());
    let backend = place.open_with(&url, place.options(), &[]).unwrap();
    // What does not fit is not begun.
    let error = put(&*backend, "a.img", 8 * MIB, 1, Expect::Absent).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("8388608 more bytes are needed"), "{error}");
    assert_eq!(fs::read_dir(&disk.0).unwrap().count(), 0, "nothing is left");
    // What fills up on the way is said to be full, not "failure".
    fs::write(disk.0.join("filler"), vec![1; (4 * MIB - 64 * 1024) as usize]).unwrap();
    let error = put(&*backend, "b.img", 500_000, 1, Expect::Absent).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::NoSpace, Retry::Never), "{error}");
    fs::remove_file(disk.0.join("filler")).unwrap();
    disk.remount_read_only();
    let error = put(&*backend, "c.img", 5, 1, Expect::Absent).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::ReadOnly, "{error}");
    let report = backend.check(&Call::unwatched()).unwrap();
    assert!(!report.passed());
    let write = report.steps.iter().find(|s| s.name == "write").unwrap();
    assert!(write.result == StepResult::Failed && write.detail.contains("read-only"), "{write:?}");
}

#[test]
fn what_the_account_may_not_do_is_named() {
    let right = account::account();
    let settings = Settings { account: Some(right), ..Settings::default() };
    let place = Place::of(Sshd::with(settings));
    let closed = place.server.data().join("closed");
    fs::create_dir(&closed).unwrap();
    let backend = place.open();
    let error = put(&*backend, "closed/a.img", 5, 1, Expect::Absent).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (&ErrorKind::Denied, Retry::Never), "{error}");
    assert!(error.to_string().contains("may only read"), "{error}");
    // A server that only gives.
    let read_only = Place::of(Sshd::with_lines(&["ForceCommand internal-sftp -R"]));
    let report = read_only.open().check(&Call::unwatched()).unwrap();
    let words: Vec<_> = report.steps.iter().map(|s| (s.name.as_str(), s.result)).collect();
    assert!(
        words.contains(&("list", StepResult::Passed)) && words.contains(&("write", StepResult::Failed)),
        "{words:?}"
    );
    // A login without SFTP.
    let shell = Place::of(Sshd::with_lines(&["ForceCommand echo hello, nothing here"]));
    let error = shell.open().stat(&Call::unwatched(), &path("a")).unwrap_err();
    assert!(error.to_string().contains("not SFTP") || error.to_string().contains("closed"), "{error}");
}

#[test]
fn links_are_shown_and_not_followed() {
    let place = Place::of(Sshd::start());
    let data = place.server.data();
    fs::create_dir(data.join("dir")).unwrap();
    fs::write(data.join("dir/file"), "x").unwrap();
    std::os::unix::fs::symlink("dir", data.join("to-dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", data.join("to-file")).unwrap();
    std::os::unix::fs::symlink("/nowhere", data.join("dangling")).unwrap();
    let backend = place.open();
    let call = Call::unwatched();
    let listed = backend.list(&call, &TargetPath::root(), true, None).unwrap().entries;
    let shown: Vec<_> = listed.iter().map(|e| (e.path.display().into_owned(), e.kind)).collect();
    let other = EntryKind::Other;
    let expected = [
        ("dangling", other),
        ("dir", EntryKind::Dir),
        ("dir/file", EntryKind::File),
        ("to-dir", other),
        ("to-file", other),
    ];
    assert_eq!(shown, expected.map(|(name, kind)| (name.to_owned(), kind)));
    struct Nothing;
    impl Sink for Nothing {
        fn write(&self, _: &[u8]) -> Result<()> {
            panic!("a link was followed")
        }
    }
    assert!(backend.get(&call, &path("to-file"), None, None, Arc::new(Nothing)).is_err());
    backend.delete(&call, &path("to-dir"), &Expect::Any).unwrap();
    assert!(data.join("dir/file").exists());
}

#[test]
fn a_name_that_leads_out_of_its_directory_ends_the_listing() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("liar.py");
    fs::write(
        &script,
        r#"
import struct, sys
def take(n):
    b = sys.stdin.buffer.read(n)
    if len(b) < n: sys.exit()
    return b
def send(p):
    sys.stdout.buffer.write(struct.pack(">I", len(p)) + p); sys.stdout.buffer.flush()
text = lambda b: struct.pack(">I", len(b)) + b
listed = False
while True:
    p = take(struct.unpack(">I", take(4))[0])
    if p[0] == 1: send(b"\x02" + struct.pack(">I", 3)); continue
    id = p[1:5]
    if p[0] == 11: send(b"\x66" + id + text(b"h"))
    elif p[0] == 12 and not listed:
        listed = True
        send(b"\x68" + id + struct.pack(">I", 1) + text(b"../../etc/passwd") + text(b"") + struct.pack(">I", 0))
    else: send(b"\x65" + id + struct.pack(">I", 1) + text(b"") + text(b""))
"#,
    )
    .unwrap();
    let place = Place::of(Sshd::with_lines(&[&format!("ForceCommand python3 {}", script.display())]));
    let error = place.open().list(&Call::unwatched(), &TargetPath::root(), true, None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("../../etc/passwd"), "{error}");
}

/// A real server behind a filter that refuses every write that is not the next in its file, as gateways to clouds do.
const IN_ORDER: &str = r#"
import struct, subprocess, sys, threading, time
server = subprocess.Popen(["/usr/lib/openssh/sftp-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
lock, ends = threading.Lock(), {}
def take(f):
    head = f.read(4)
    return head and f.read(struct.unpack(">I", head)[0])
def send(f, p):
    f.write(struct.pack(">I", len(p)) + p); f.flush()
def answers():
    while p := take(server.stdout):
        with lock:
            if p[0] == 102: ends[p[9:]] = 0
            send(sys.stdout.buffer, p)
threading.Thread(target=answers, daemon=True).start()
while p := take(sys.stdin.buffer):
    if p[0] == 6:
        n = struct.unpack(">I", p[5:9])[0]
        handle, (offset, length) = p[9:9 + n], struct.unpack(">QI", p[9 + n:21 + n])
        time.sleep(0.005)  # so that one connection is not done before the next one is there
        with lock:
            if ends[handle] != offset:
                why = b"illegal seek"
                send(sys.stdout.buffer, b"\x65" + p[1:5] + struct.pack(">II", 4, len(why)) + why + bytes(4))
                continue
            ends[handle] += length
    send(server.stdin, p)
"#;

#[test]
fn a_server_that_takes_bytes_only_in_order_gets_them_by_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("in_order.py");
    fs::write(&script, IN_ORDER).unwrap();
    let place = Place::of(Sshd::with_lines(&[&format!("ForceCommand python3 {}", script.display())]));
    let backend = place.open();
    let size = 40 * MIB + 5;
    // Unless all of it is sent before another connection is there.
    let error = (0..20).find_map(|n| put(&*backend, &format!("{n}.img"), size, 4, Expect::Absent).err());
    let error = error.expect("bytes out of their order are refused");
    assert_eq!(error.kind(), &ErrorKind::StaleToken, "{error}");
    for n in 0..20 {
        let _ = fs::remove_file(place.server.data().join(format!("{n}.img")));
    }
    put(&*backend, "a.img", size, 4, Expect::Absent).unwrap();
    assert!(fs::read(place.server.data().join("a.img")).unwrap() == Data(size).bytes());
    // Nothing of a file is gone on with.
    let call = Call::unwatched();
    let mut again = request("b.img", size, 4);
    let token = Token(again.staging.as_bytes().to_vec());
    again.resume = Some(ResumeFrom { token, ranges: vec![Range { offset: 0, length: MIB }] });
    let resumed = backend.stage(&call, &again, Arc::new(Data(size)), Arc::<Checkpoints>::default());
    assert_eq!(resumed.unwrap_err().kind(), &ErrorKind::StaleToken);
    let report = backend.check(&call).unwrap();
    let step = report.steps.iter().find(|s| s.name == "resume").unwrap();
    assert!(report.passed() && step.result == StepResult::Warned, "{step:?}");
    assert_eq!(fs::read_dir(place.server.data()).unwrap().count(), 1);
}

#[test]
fn a_digest_comes_from_the_server_when_it_is_asked_to() {
    let place = Place::of(Sshd::start());
    let mut options = place.options();
    options["server_digest_command"] = json!("sha256sum");
    let backend = place.open_with(&place.server.url(), options, &[]).unwrap();
    let name = "it's $(a) name.img";
    put(&*backend, name, 100_000, 1, Expect::Absent).unwrap();
    let call = Call::unwatched();
    let digest = backend.digest(&call, &Object::Path(path(name)), "sha256", None).unwrap();
    let output = Command::new("sha256sum").arg(place.server.data().join(name)).output().unwrap();
    let hex: String = digest.value.iter().map(|b| format!("{b:02x}")).collect();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&hex));
    let error = backend.digest(&call, &Object::Path(path(name)), "md5", None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsupported);
    assert!(backend.check(&call).unwrap().passed());
    // A server without it says so in the check.
    let mut options = place.options();
    options["server_digest_command"] = json!("/no/such/b3sum");
    let backend = place.open_with(&place.server.url(), options, &[]).unwrap();
    let report = backend.check(&call).unwrap();
    let step = report.steps.iter().find(|s| s.name == "digest").unwrap();
    assert!(step.result == StepResult::Failed && step.detail.contains("installed"), "{step:?}");
}
