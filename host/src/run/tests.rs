//! Runs of a hand-made plan against a target in memory that cuts off, flips bytes and counts what it was sent.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offsite_plugin_api::{
    Backend, Call, Capabilities, CheckReport, Digest, Entry, Error as BackendError, ErrorKind, Expect,
    Object, Page, PublishRequest, Range, Result, Session, Sink, Source, Space, StageRequest, Staged,
    StagedInfo, TargetPath, Token,
};

use sha2::{Digest as _, Sha256};

use super::call::Line;
use super::context::Context;
use super::digest::Algorithm;
use super::execute::{Material, Summary, execute};
use super::meter::Meter;
use super::outbox::Outbox;
use super::pace::Pacer;
use super::source_reader::SourceRoot;
use super::verify::Method;
use crate::catalog::Catalog;
use crate::config::{Bandwidth, Retry};
use crate::error::Kind;
use crate::plan::{Action, Code, FileAction, FileStep, Plan, Step};
use crate::source::{Inventory, SourceFile};
use crate::target::tests::mem::Mem;
use crate::target::{TargetView, VerifyLevel};

mod ahead;
mod bounds;
mod helpers;
mod judged;
mod manifests;
mod read_back;
mod room;
mod transition;

const MIB: usize = 1 << 20;
const PIECE: usize = 256 << 10;

/// [`Mem`] with a transfer that takes time: pieces, checkpoints, faults.
#[derive(Clone)]
struct Wire {
    mem: Mem,
    /// Source bytes taken in all.
    sent: Arc<AtomicU64>,
    /// The staging of this name breaks once, after that many bytes of one call.
    cut: Arc<Mutex<Option<(String, usize)>>>,
    /// Byte of every staging that arrives flipped.
    flip: Option<usize>,
    /// Names in the order of their publishing.
    published: Arc<Mutex<Vec<String>>>,
    /// What begins like this cannot be staged.
    denied: Option<String>,
    /// Called with the name before each image is published.
    before_publish: Option<Hook>,
    /// Called before staged bytes are read back.
    before_read: Option<Hook>,
    /// What fits on the target, and whether it says so.
    room: Option<u64>,
    tells: bool,
}

type Hook = Arc<dyn Fn(&str) -> Result<()> + Send + Sync>;

impl Wire {
    fn new() -> Self {
        Self {
            mem: Mem::atomic(),
            sent: Arc::default(),
            cut: Arc::default(),
            flip: None,
            published: Arc::default(),
            denied: None,
            before_publish: None,
            before_read: None,
            room: None,
            tells: false,
        }
    }

    /// Bytes free, where there is a limit.
    fn free(&self) -> Option<u64> {
        let disk = self.mem.disk();
        let own = |path: &TargetPath| !path.display().starts_with("offsite-m");
        let files = disk.files.iter().filter(|(p, _)| own(p)).map(|(_, f)| f.bytes.len() as u64);
        let staged = disk.staged.values().map(|s| s.bytes.len() as u64);
        let used: u64 = files.chain(staged).sum();
        self.room.map(|room| room.saturating_sub(used))
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed) as usize
    }
}

fn staging(token: &Token) -> TargetPath {
    TargetPath::new(token.0.clone()).unwrap()
}

impl Backend for Wire {
    fn identity(&self) -> String {
        "wire".into()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        self.mem.capabilities(call)
    }

    fn space(&self, _: &Call) -> Result<Space> {
        Ok(Space { free: self.free().filter(|_| self.tells), ..Space::default() })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        self.mem.check(call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, all: bool, page: Option<&[u8]>) -> Result<Page> {
        self.mem.list(call, dir, all, page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        self.mem.stat(call, path)
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        let name = request.path.display().into_owned();
        if self.denied.as_deref().is_some_and(|denied| name.starts_with(denied)) {
            return Err(BackendError::new(ErrorKind::Denied, "not allowed"));
        }
        let token = Token(request.staging.as_bytes().to_vec());
        let held = request.resume.as_ref().map_or(0, |r| r.ranges[0].end() as usize);
        if held == 0 {
            self.mem.discard(call, &token)?;
        }
        let mut at = held;
        let size = request.size as usize;
        loop {
            call.proceed()?;
            let mut cut = self.cut.lock().unwrap();
            if cut.as_ref().is_some_and(|(of, bytes)| *of == name && at - held >= *bytes) {
                *cut = None;
                return Err(BackendError::new(ErrorKind::Interrupted, "the line broke"));
            }
            drop(cut);
            let mut piece = vec![0; PIECE.min(size - at)];
            source.read_at(at as u64, &mut piece)?;
            // Manifests are small files of the host's own.
            if !name.starts_with("offsite") {
                self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            if let Some(flip) = self.flip.filter(|f| (at..at + piece.len()).contains(f)) {
                piece[flip - at] ^= 1;
            }
            if self.free().is_some_and(|free| free < piece.len() as u64) {
                return Err(BackendError::new(ErrorKind::NoSpace, "the disk is full"));
            }
            let mut disk = self.mem.disk();
            let staged = disk.staged.entry(request.staging.clone()).or_insert_with(|| {
                crate::target::tests::mem::MemStaged {
                    path: request.path.clone(),
                    owner: request.owner.clone(),
                    bytes: Vec::new(),
                }
            });
            staged.bytes.truncate(at);
            staged.bytes.extend_from_slice(&piece);
            drop(disk);
            at += piece.len();
            call.acked(piece.len() as u64);
            if at > 0 {
                session.checkpoint(&token, &[Range { offset: 0, length: at as u64 }], true)?;
            }
            if at == size {
                return Ok(Staged { token, size: request.size, digests: Vec::new() });
            }
        }
    }

    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo> {
        self.mem.stat_staged(call, token)
    }

    fn read_staged(&self, _: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        if let Some(hook) = &self.before_read {
            hook("")?;
        }
        let bytes = self.mem.disk().staged[&staging(token)].bytes.clone();
        sink.write(&bytes[range.offset as usize..range.end() as usize])
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        self.mem.list_staged(call, dir)
    }

    fn discard(&self, call: &Call, token: &Token) -> Result<()> {
        self.mem.discard(call, token)
    }

    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry> {
        let name = request.path.display().into_owned();
        if let Some(hook) = self.before_publish.as_ref().filter(|_| !name.starts_with("offsite")) {
            hook(&name)?;
        }
        let entry = self.mem.publish(call, request)?;
        if !name.starts_with("offsite") {
            self.published.lock().unwrap().push(name);
        }
        Ok(entry)
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        self.mem.get(call, path, range, version, sink)
    }

    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        self.mem.delete(call, path, expect)
    }

    fn digest(&self, _: &Call, object: &Object, algorithm: &str, _: Option<Range>) -> Result<Digest> {
        let Object::Staged(token) = object else { return Err(BackendError::unsupported("published")) };
        let value = Sha256::digest(&self.mem.disk().staged[&staging(token)].bytes).to_vec();
        Ok(Digest { algorithm: algorithm.to_owned(), value })
    }
}

struct Bench {
    dir: tempfile::TempDir,
    wire: Wire,
    catalog: Arc<Catalog>,
    method: Method,
    attempts: u32,
}

impl Bench {
    fn new(files: &[(&str, usize)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (seed, (name, size)) in files.iter().enumerate() {
            std::fs::write(dir.path().join(name), content(*size, seed)).unwrap();
        }
        let catalog = Arc::new(Catalog::in_memory().unwrap());
        Self { dir, wire: Wire::new(), catalog, method: Method::Sampled, attempts: 1 }
    }

    fn context(&self) -> Context {
        let meta = std::fs::metadata(self.dir.path()).unwrap();
        let stop = Arc::new(super::stop::Stop::default());
        Context {
            backend: Arc::new(self.wire.clone()),
            capabilities: self.wire.mem.capabilities.clone(),
            catalog: self.catalog.clone(),
            line: Line {
                stop: stop.clone(),
                pacer: Arc::new(Pacer::new(Bandwidth::default())),
                meter: Arc::new(Meter::default()),
                outbox: Arc::new(Outbox::to(std::io::sink(), stop)),
            },
            installation: "0123abcd".into(),
            retry: Retry { attempts: self.attempts, first_wait: Duration::from_millis(1) },
            method: self.method,
            size_suffices: self.method == Method::Size,
            streams: 3,
            streams_fixed: true,
            root: Arc::new(SourceRoot::open(self.dir.path(), meta.dev(), meta.ino()).unwrap()),
            cache: Arc::default(),
            interruptions: AtomicU64::default(),
        }
    }

    fn scanned(&self, name: &str) -> SourceFile {
        let meta = std::fs::metadata(self.dir.path().join(name)).unwrap();
        let ns = |s: i64, n: i64| s * 1_000_000_000 + n;
        SourceFile {
            path: TargetPath::new(name).unwrap(),
            size: meta.len(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
            device: meta.dev(),
            inode: meta.ino(),
            recognised: None,
        }
    }

    /// A step that copies or deletes this file.
    fn step(&self, name: &str, action: Action, bytes: u64, after: Vec<usize>) -> Step {
        let path = TargetPath::new(name).unwrap();
        let file = if action == Action::Delete { FileAction::Delete } else { FileAction::Copy };
        Step {
            action,
            image: path.clone(),
            set: name[..1].into(),
            format: None,
            bytes,
            code: Code::New,
            reason: "".into(),
            files: vec![FileStep { action: file, path: path.clone(), target: path, bytes }],
            after,
            not_restorable: false,
            span: None,
            group: None,
            merge: None,
            proof: None,
            parent: None,
            merged: false,
            compare_only: None,
        }
    }

    /// Copies these files, each after the one before it with the same first letter.
    fn copy(&self, context: &Context, names: &[&str]) -> Summary {
        let files: Vec<SourceFile> = names.iter().map(|n| self.scanned(n)).collect();
        let steps = names.iter().enumerate().map(|(at, name)| {
            let before = (0..at).rev().find(|b| names[*b][..1] == name[..1]);
            self.step(name, Action::Copy, files[at].size, before.into_iter().collect())
        });
        let plan = Plan { steps: steps.collect(), ..Plan::default() };
        let inventory = Inventory { files, ..Inventory::default() };
        execute(context, &Material::new(&plan, &TargetView::default(), &inventory))
    }

    fn assert_same(&self, name: &str) {
        let there = self.wire.mem.content(&TargetPath::new(name).unwrap());
        assert!(there == Some(std::fs::read(self.dir.path().join(name)).unwrap()), "{name} differs");
    }

    fn cut(&self, name: &str, after: usize) {
        *self.wire.cut.lock().unwrap() = Some((name.to_owned(), after));
    }

    fn visible(&self) -> Vec<String> {
        let disk = self.wire.mem.disk();
        let names = disk.files.keys().map(|p| p.display().into_owned());
        names.filter(|n| !n.starts_with("offsite")).collect()
    }
}

fn content(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

#[test]
fn images_are_published_in_order_with_their_hash_and_level() {
    let bench = Bench::new(&[("a1", 3 * MIB + 5), ("a2", 100), ("a3", 0), ("b1", 7)]);
    let context = bench.context();
    let summary = bench.copy(&context, &["a1", "a2", "a3", "b1"]);
    assert_eq!((summary.images, summary.failed, summary.fatal), (4, 0, None));
    for name in ["a1", "a2", "a3", "b1"] {
        bench.assert_same(name);
        let record = bench.catalog.published_at(&TargetPath::new(name).unwrap()).unwrap().unwrap();
        let bytes = std::fs::read(bench.dir.path().join(name)).unwrap();
        assert_eq!(record.blake3, Some(*blake3::hash(&bytes).as_bytes()), "{name}");
        assert_eq!(record.level, VerifyLevel::Sampled);
    }
    let order: Vec<String> =
        bench.wire.published.lock().unwrap().iter().filter(|n| n.starts_with('a')).cloned().collect();
    assert_eq!(order, ["a1", "a2", "a3"]);
    assert_eq!(bench.catalog.staged().unwrap(), []);
    assert!(bench.catalog.unwritten_sets().unwrap().is_empty());
}

#[test]
fn a_broken_line_is_retried_from_the_last_whole_block() {
    let mut bench = Bench::new(&[("a1", 10 * MIB)]);
    bench.attempts = 2;
    bench.cut("a1", 6 * MIB + PIECE);
    let context = bench.context();
    assert_eq!(bench.copy(&context, &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), 10 * MIB + PIECE);
    assert_eq!(context.line.meter.sent() as usize, bench.wire.sent());
}

#[test]
fn the_next_run_sends_only_what_was_not_staged() {
    let bench = Bench::new(&[("a1", 10 * MIB)]);
    bench.cut("a1", 6 * MIB);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).failed, 1);
    assert_eq!((bench.visible().len(), bench.wire.sent()), (0, 6 * MIB));
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), 10 * MIB);
}

/// A target that damages what it holds is asked as often as the budget says, however much it takes each time.
#[test]
fn what_was_sent_again_in_vain_is_no_progress() {
    let mut bench = Bench::new(&[("a1", 65 * MIB)]);
    bench.attempts = 2;
    bench.wire.flip = Some(5);
    let summary = bench.copy(&bench.context(), &["a1"]);
    assert_eq!((summary.failed, bench.visible().len()), (1, 0));
    assert_eq!(bench.wire.sent(), 2 * 65 * MIB);
}

/// A byte that one interruption damaged is found by the proof, however the transfer went on after that.
#[test]
fn every_place_where_a_transfer_was_taken_up_is_proved() {
    // More blocks than are sampled at random; the damage lies right before the first interruption.
    let bench = Bench::new(&[("a1", 48 * MIB)]);
    bench.cut("a1", 16 * MIB);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).failed, 1);
    let staged = bench.catalog.staged_at(&TargetPath::new("a1").unwrap()).unwrap().unwrap();
    let held: u64 = staged.ranges.iter().map(|r| r.length).sum();
    bench.wire.mem.disk().staged.get_mut(&staged.staging).unwrap().bytes[held as usize - 1] ^= 1;
    // The second run is interrupted, too; the third completes.
    bench.cut("a1", 16 * MIB);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).failed, 1);
    let summary = bench.copy(&bench.context(), &["a1"]);
    assert_eq!((summary.failed, bench.visible().len()), (1, 0), "{summary:?}");
    assert_eq!(summary.first_error.unwrap().kind, Kind::Verify);
}

/// Rewrites a file with its old size and modification time.
fn rewrite(bench: &Bench, name: &str, bytes: &[u8]) {
    let path = bench.dir.path().join(name);
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, bytes).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
}

#[test]
fn a_rewrite_that_kept_the_time_is_found_before_anything_is_published() {
    let bench = Bench::new(&[("a1", 10 * MIB)]);
    bench.cut("a1", 6 * MIB);
    bench.copy(&bench.context(), &["a1"]);
    // One byte in a block that no sample need hit.
    let mut bytes = content(10 * MIB, 0);
    bytes[3 * MIB + 77] ^= 1;
    rewrite(&bench, "a1", &bytes);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), 16 * MIB);
}

#[test]
fn the_same_content_under_a_new_change_time_is_resumed() {
    let bench = Bench::new(&[("a1", 10 * MIB)]);
    bench.cut("a1", 6 * MIB);
    bench.copy(&bench.context(), &["a1"]);
    rewrite(&bench, "a1", &content(10 * MIB, 0));
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), 10 * MIB);
}

#[test]
fn what_a_server_lost_behind_a_checkpoint_is_sent_again() {
    let mut bench = Bench::new(&[("a1", 10 * MIB)]);
    bench.wire.mem.capabilities.durable_checkpoints = false;
    bench.cut("a1", 6 * MIB);
    bench.copy(&bench.context(), &["a1"]);
    for staged in bench.wire.mem.disk().staged.values_mut() {
        staged.bytes[5 * MIB..].fill(0);
    }
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), 11 * MIB);
}

/// A crash of the server leaves a hole where nobody samples: in the middle of what it had acknowledged.
fn lose(bench: &Bench) {
    for staged in bench.wire.mem.disk().staged.values_mut() {
        staged.bytes[8 * MIB + 7..10 * MIB].fill(0);
    }
}

fn not_durable(method: Method) -> Bench {
    let mut bench = Bench::new(&[("a1", 24 * MIB)]);
    bench.wire.mem.capabilities.durable_checkpoints = false;
    bench.wire.mem.capabilities.resume = offsite_plugin_api::Resume::Offset;
    bench.method = method;
    bench
}

#[test]
fn a_hole_in_the_middle_of_what_was_staged_is_never_published() {
    let bench = not_durable(Method::Sampled);
    bench.cut("a1", 20 * MIB);
    bench.copy(&bench.context(), &["a1"]);
    lose(&bench);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    // From the hole on.
    assert_eq!(bench.wire.sent(), (20 + 16) * MIB);
}

#[test]
fn a_hole_is_found_over_several_kills_and_in_a_complete_staging() {
    let mut bench = not_durable(Method::Sampled);
    for _ in 0..3 {
        bench.cut("a1", 6 * MIB);
        bench.copy(&bench.context(), &["a1"]);
    }
    lose(&bench);
    // Now whole, with the hole read back and filled; interrupted before its publish.
    bench.wire.before_publish = Some(Arc::new(|_| Err(BackendError::new(ErrorKind::Denied, "not now"))));
    assert_eq!(bench.copy(&bench.context(), &["a1"]).failed, 1);
    bench.wire.before_publish = None;
    lose(&bench);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
}

#[test]
fn a_server_that_fell_over_between_two_attempts_of_one_run_is_read_back() {
    let mut bench = not_durable(Method::Sampled);
    bench.attempts = 3;
    bench.cut("a1", 20 * MIB);
    let (mem, once) = (bench.wire.mem.clone(), std::sync::Once::new());
    // The first read after the line broke: the server is back by then.
    bench.wire.before_read = Some(Arc::new(move |_| {
        once.call_once(|| {
            for staged in mem.disk().staged.values_mut() {
                staged.bytes[8 * MIB + 7..10 * MIB].fill(0);
            }
        });
        Ok(())
    }));
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
}

#[test]
fn what_waited_for_its_publish_while_the_server_fell_over_is_read_back() {
    let mut bench = not_durable(Method::Sampled);
    bench.attempts = 3;
    let (mem, once) = (bench.wire.mem.clone(), std::sync::Once::new());
    bench.wire.before_publish = Some(Arc::new(move |_| {
        let mut result = Ok(());
        once.call_once(|| {
            for staged in mem.disk().staged.values_mut() {
                staged.bytes[8 * MIB + 7..10 * MIB].fill(0);
            }
            result = Err(BackendError::new(ErrorKind::Unreachable, "the server went away"));
        });
        result
    }));
    let summary = bench.copy(&bench.context(), &["a1"]);
    assert_eq!((summary.images, summary.failed), (0, 1), "{:?}", summary.first_error);
    assert_eq!(bench.visible(), Vec::<String>::new(), "the hole must not be published");
    // The next run sends what is missing, and no more.
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), (24 + 16) * MIB);
}

#[test]
fn only_sizes_are_compared_where_the_user_asked_for_no_more() {
    let bench = not_durable(Method::Size);
    bench.cut("a1", 20 * MIB);
    bench.copy(&bench.context(), &["a1"]);
    lose(&bench);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    assert_eq!(bench.wire.sent(), 24 * MIB);
}

#[test]
fn what_cannot_be_read_back_is_sent_again() {
    let mut bench = not_durable(Method::CheckedParts);
    bench.wire.mem.capabilities.staged_readable = false;
    bench.cut("a1", 20 * MIB);
    bench.copy(&bench.context(), &["a1"]);
    lose(&bench);
    assert_eq!(bench.copy(&bench.context(), &["a1"]).images, 1);
    bench.assert_same("a1");
    assert_eq!(bench.wire.sent(), (20 + 24) * MIB);
}

#[test]
fn a_byte_flipped_on_its_way_is_never_published() {
    let digest = Method::ServerDigest(Algorithm::Sha256);
    for (method, flip) in [(Method::ReadBack, 5 * MIB), (Method::Sampled, 10 * MIB - 1), (digest, 5 * MIB)] {
        let mut bench = Bench::new(&[("a1", 10 * MIB)]);
        bench.method = method;
        bench.attempts = 2;
        bench.wire.flip = Some(flip);
        let summary = bench.copy(&bench.context(), &["a1"]);
        assert_eq!(summary.first_error.map(|e| e.kind), Some(Kind::Verify), "{method:?}");
        assert_eq!(bench.visible(), Vec::<String>::new());
        assert_eq!(bench.wire.sent(), 20 * MIB, "tried twice, from the first byte");
    }
}

#[test]
fn a_digest_that_does_not_merge_is_computed_of_the_source_as_well() {
    let mut bench = Bench::new(&[("a1", 10 * MIB + 5), ("b1", 0)]);
    bench.method = Method::ServerDigest(Algorithm::Sha256);
    let summary = bench.copy(&bench.context(), &["a1", "b1"]);
    assert_eq!((summary.images, summary.failed), (2, 0), "{:?}", summary.first_error);
    bench.assert_same("a1");
}

#[test]
fn a_failing_image_takes_only_its_descendants_along() {
    let mut bench = Bench::new(&[("a1", 10), ("a2", 10), ("b1", 10), ("b2", 10)]);
    bench.wire.denied = Some("a1".into());
    let summary = bench.copy(&bench.context(), &["a1", "a2", "b1", "b2"]);
    assert_eq!((summary.images, summary.failed, summary.fatal), (2, 1, None));
    assert_eq!(bench.visible(), ["b1", "b2"]);
}

#[test]
fn a_file_that_changed_since_the_scan_is_left_for_the_next_run() {
    let bench = Bench::new(&[("a1", 10), ("b1", 10)]);
    let context = bench.context();
    let stale = bench.scanned("a1");
    std::fs::write(bench.dir.path().join("a1"), b"longer than before").unwrap();
    let reader = context.open(&stale);
    assert_eq!(reader.err().map(|e| e.kind().clone()), Some(ErrorKind::SourceChanged));
    let summary = bench.copy(&context, &["a1", "b1"]);
    assert_eq!((summary.images, summary.failed), (2, 0));
}

#[test]
fn a_stop_ends_the_run_at_a_checkpoint() {
    let bench = Bench::new(&[("a1", 10 * MIB)]);
    let context = bench.context();
    context.line.stop.set();
    let summary = bench.copy(&context, &["a1"]);
    assert_eq!(summary.fatal.map(|e| e.kind), Some(Kind::Stopped));
    assert_eq!(bench.visible(), Vec::<String>::new());
}
