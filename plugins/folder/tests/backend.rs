//! What the folder backend promises, on a real file system.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use offsite_plugin_api::*;
use offsite_plugin_folder::Folder;

fn folder(dir: &Path) -> Folder {
    Folder::open_at(dir.to_str().unwrap(), &serde_json::json!({})).unwrap()
}

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

/// Counts what is read; stops with an error after `limit` bytes.
struct Data {
    bytes: Vec<u8>,
    read: AtomicU64,
    limit: u64,
}

impl Data {
    fn new(size: usize, limit: u64) -> Arc<Self> {
        let bytes = (0..size).map(|i| (i as u64).wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        Arc::new(Self { bytes, read: AtomicU64::new(0), limit })
    }
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if self.read.fetch_add(buf.len() as u64, Ordering::SeqCst) >= self.limit {
            return Err(Error::new(ErrorKind::Cancelled, "enough"));
        }
        let rest = &self.bytes[offset as usize..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

#[derive(Default)]
struct Checkpoints(Mutex<Vec<(Token, Vec<Range>)>>);

impl Session for Checkpoints {
    fn checkpoint(&self, token: &Token, ranges: &[Range], _: bool) -> Result<()> {
        self.0.lock().unwrap().push((token.clone(), ranges.to_vec()));
        Ok(())
    }
}

#[derive(Default)]
struct Collected(Mutex<Vec<u8>>);

impl Sink for Collected {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
}

fn request(name: &str, size: u64, streams: u32, resume: Option<ResumeFrom>) -> StageRequest {
    let target = path(name);
    let staging = target.parent().unwrap().join("offsite-0123abcd-0011223344556677.part").unwrap();
    StageRequest {
        path: target,
        staging,
        attributes: Attributes::default(),
        size,
        streams,
        owner: "x".into(),
        resume,
    }
}

fn publish(token: Token, name: &str, source: &Arc<Data>, expect: Expect) -> PublishRequest {
    PublishRequest {
        token,
        path: path(name),
        expect,
        attributes: Attributes {
            mtime: Some(Timestamp { ns: 1_700_000_000_123_456_789, precision_ns: 1 }),
            ..Attributes::default()
        },
        digests: Vec::new(),
        size: source.size(),
        source: source.clone(),
    }
}

fn put(folder: &Folder, name: &str, data: &Arc<Data>, expect: Expect) -> Result<Entry> {
    let call = Call::unwatched();
    let staged = folder.stage(
        &call,
        &request(name, data.size(), 4, None),
        data.clone(),
        Arc::new(Checkpoints::default()),
    )?;
    folder.publish(&call, &publish(staged.token, name, data, expect))
}

#[test]
fn every_size_and_stream_count_arrives_whole_and_keeps_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for (i, size) in [0, 1, 4095, 4096, (1 << 20) + 1, 9_000_001].into_iter().enumerate() {
        let data = Data::new(size, u64::MAX);
        let name = format!("sub/dir/{i}.img");
        let entry = put(&folder, &name, &data, Expect::Absent).unwrap();
        assert_eq!(entry.size, size as u64);
        assert_eq!(entry.mtime.unwrap().ns, 1_700_000_000_123_456_789);
        assert_eq!(fs::read(dir.path().join(&name)).unwrap(), data.bytes);
    }
    assert_eq!(fs::read_dir(dir.path().join("sub/dir")).unwrap().count(), 6, "no staging file stays");
}

#[test]
fn an_interrupted_stage_resumes_from_its_checkpoint_and_reads_only_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let (call, size) = (Call::unwatched(), 100 << 20);
    let checkpoints = Arc::new(Checkpoints::default());
    let cut = Data::new(size, 70 << 20);
    let error =
        folder.stage(&call, &request("a.img", size as u64, 2, None), cut, checkpoints.clone()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Cancelled);
    let (token, ranges) =
        checkpoints.0.lock().unwrap().last().cloned().expect("a clean stop takes a checkpoint");
    let safe: u64 = ranges.iter().map(|r| r.length).sum();
    assert!(safe > 60 << 20 && safe <= 72 << 20, "{safe}");
    assert!(!dir.path().join("a.img").exists());

    let rest = Data::new(size, u64::MAX);
    let resume = Some(ResumeFrom { token, ranges });
    let staged =
        folder.stage(&call, &request("a.img", size as u64, 2, resume), rest.clone(), checkpoints).unwrap();
    assert_eq!(rest.read.load(Ordering::SeqCst), size as u64 - safe);
    folder.publish(&call, &publish(staged.token, "a.img", &rest, Expect::Absent)).unwrap();
    assert_eq!(fs::read(dir.path().join("a.img")).unwrap(), rest.bytes);
}

#[test]
fn publishing_again_gives_the_entry_and_a_lost_stage_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let (call, data) = (Call::unwatched(), Data::new(5000, u64::MAX));
    let none = || Arc::new(Checkpoints::default());
    let staged = folder.stage(&call, &request("a", 5000, 1, None), data.clone(), none()).unwrap();
    let request_ = publish(staged.token.clone(), "a", &data, Expect::Absent);
    let first = folder.publish(&call, &request_).unwrap();
    assert_eq!(folder.publish(&call, &request_).unwrap(), first);
    assert_eq!(folder.discard(&call, &staged.token), Ok(()), "nothing staged is success");
    assert_eq!(folder.stat_staged(&call, &staged.token).unwrap_err().kind(), &ErrorKind::StaleToken);
    assert!(dir.path().join("a").exists(), "discarding after the publish leaves the file");
}

#[test]
fn expectations_hold_and_a_refused_publish_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let (one, two) = (Data::new(1000, u64::MAX), Data::new(2000, u64::MAX));
    let first = put(&folder, "a", &one, Expect::Absent).unwrap();
    assert_eq!(put(&folder, "a", &two, Expect::Absent).unwrap_err().kind(), &ErrorKind::Exists);
    let wrong = put(&folder, "a", &two, Expect::Version("1-2-3".into())).unwrap_err();
    assert_eq!(wrong.kind(), &ErrorKind::PreconditionFailed);
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), one.bytes);
    let second = put(&folder, "a", &two, Expect::Version(first.version.unwrap())).unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), two.bytes);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let call = Call::unwatched();
    let stale = folder.delete(&call, &path("a"), &Expect::Version("1-2-3".into())).unwrap_err();
    assert_eq!(stale.kind(), &ErrorKind::PreconditionFailed);
    folder.delete(&call, &path("a"), &Expect::Version(second.version.unwrap())).unwrap();
    assert_eq!(folder.delete(&call, &path("a"), &Expect::Any).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn links_are_never_followed_out_of_the_root() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), b"x").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let sink = Arc::new(Collected::default());
    assert!(folder.get(&call, &path("file"), None, None, sink.clone()).is_err());
    assert!(folder.get(&call, &path("link/secret"), None, None, sink).is_err());
    assert!(put(&folder, "link/new", &Data::new(10, u64::MAX), Expect::Any).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    let listed = folder.list(&call, &TargetPath::root(), true, None).unwrap().entries;
    assert!(listed.iter().all(|e| e.kind == EntryKind::Other) && listed.len() == 2, "{listed:?}");
}

#[test]
fn listings_page_through_a_large_tree_without_loss_or_repeat() {
    let dir = tempfile::tempdir().unwrap();
    for d in 0..5 {
        let sub = dir.path().join(format!("d{d}/e"));
        fs::create_dir_all(&sub).unwrap();
        for n in 0..9000 {
            fs::File::create(sub.join(format!("f{n:05}"))).unwrap();
        }
    }
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let (mut all, mut page, mut pages) = (Vec::new(), None, 0);
    loop {
        let got = folder.list(&call, &TargetPath::root(), true, page.as_deref()).unwrap();
        all.extend(got.entries.into_iter().map(|e| e.path));
        pages += 1;
        page = got.next;
        if page.is_none() {
            break;
        }
    }
    let mut unique = all.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((all.len(), unique.len()), (45_010, 45_010));
    assert!(pages >= 3);
    assert_eq!(folder.list(&call, &TargetPath::root(), false, None).unwrap().entries.len(), 5);
    assert_eq!(folder.list(&call, &path("none"), false, None).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn staged_bytes_are_found_with_their_owner_and_read_back_by_range() {
    // The page cache route is taken on tmpfs, the direct one on a disk: both must give the same bytes.
    for base in [std::env::temp_dir(), "/dev/shm".into()] {
        let dir = tempfile::tempdir_in(base).unwrap();
        let (folder, call, data) = (folder(dir.path()), Call::unwatched(), Data::new(3_000_001, u64::MAX));
        let session = Arc::new(Checkpoints::default());
        let staged = folder.stage(&call, &request("x/a", 3_000_001, 3, None), data.clone(), session).unwrap();
        let found = folder.list_staged(&call, &TargetPath::root()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].owner.as_str(), found[0].bytes), ("0123abcd", 3_000_001));
        assert_eq!(found[0].token, staged.token);
        for (offset, length) in [(0, 10), (4090, 20), (1 << 20, 70_000), (2_999_990, 11), (5, 3_000_000 - 10)]
        {
            let sink = Arc::new(Collected::default());
            folder.read_staged(&call, &staged.token, Range { offset, length }, sink.clone()).unwrap();
            let wanted = &data.bytes[offset as usize..(offset + length) as usize];
            assert!(*sink.0.lock().unwrap() == wanted, "{offset}+{length}");
        }
        let beyond = Range { offset: 3_000_000, length: 2 };
        let error =
            folder.read_staged(&call, &staged.token, beyond, Arc::new(Collected::default())).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Corrupt);
        folder.discard(&call, &staged.token).unwrap();
        assert!(folder.list_staged(&call, &TargetPath::root()).unwrap().is_empty());
    }
}

#[test]
fn what_does_not_fit_is_refused_before_a_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let data = Data::new(10, u64::MAX);
    let error = folder
        .stage(&call, &request("a", 1 << 60, 1, None), data, Arc::new(Checkpoints::default()))
        .unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NoSpace, "{error}");
}

#[test]
fn the_last_component_is_made_and_a_missing_parent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = Data::new(10, u64::MAX);
    let made = folder(&dir.path().join("new"));
    let call = Call::unwatched();
    let listed = made.list(&call, &TargetPath::root(), true, None).unwrap_err();
    assert_eq!(listed.kind(), &ErrorKind::NotFound, "looking makes nothing");
    assert!(!dir.path().join("new").exists());
    put(&made, "a", &data, Expect::Absent).unwrap();
    let lost = put(&folder(&dir.path().join("not/mounted")), "a", &data, Expect::Absent).unwrap_err();
    assert!(lost.to_string().contains("mounted"), "{lost}");
    assert!(!dir.path().join("not").exists());
}

#[test]
fn renames_copies_and_batches_keep_what_exists() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let (one, two) = (Data::new(1000, u64::MAX), Data::new(2000, u64::MAX));
    put(&folder, "a", &one, Expect::Absent).unwrap();
    put(&folder, "b", &two, Expect::Absent).unwrap();
    let refused = folder.rename(&call, &path("a"), &path("b"), &Expect::Absent).unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Exists);
    folder.rename(&call, &path("a"), &path("d/c"), &Expect::Absent).unwrap();
    assert_eq!(fs::read(dir.path().join("d/c")).unwrap(), one.bytes);
    match folder.copy(&call, &path("b"), &path("copy"), &Expect::Absent) {
        Ok(_) => assert_eq!(fs::read(dir.path().join("copy")).unwrap(), two.bytes),
        Err(error) => assert_eq!(error.kind(), &ErrorKind::Unsupported, "{error}"),
    }
    let batch =
        [(path("b"), Expect::Any), (path("none"), Expect::Any), (path("d/c"), Expect::Version("0".into()))];
    let results = folder.delete_batch(&call, &batch).unwrap();
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_err());
    assert!(!dir.path().join("b").exists() && dir.path().join("d/c").exists());
}

#[test]
fn check_passes_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let report = folder(dir.path()).check(&Call::unwatched()).unwrap();
    assert!(report.passed(), "{report:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let missing = folder(&dir.path().join("x/y")).check(&Call::unwatched()).unwrap();
    assert!(!missing.passed());
}

/// Where `request` stages.
const STAGING: &str = "offsite-0123abcd-0011223344556677.part";

#[test]
fn a_publish_by_link_cut_off_half_way_is_finished_and_its_file_never_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let (data, other) = (Data::new(5000, u64::MAX), Data::new(6000, u64::MAX));
    let none = || Arc::new(Checkpoints::default());
    let stage = |data: &Arc<Data>, resume| {
        folder.stage(&call, &request("a", data.size(), 1, resume), data.clone(), none())
    };
    let token = stage(&data, None).unwrap().token;
    fs::hard_link(dir.path().join(STAGING), dir.path().join("a")).unwrap();
    let resume = ResumeFrom { token: token.clone(), ranges: vec![Range { offset: 0, length: 100 }] };
    assert_eq!(stage(&data, Some(resume)).unwrap_err().kind(), &ErrorKind::StaleToken);
    let entry = folder.publish(&call, &publish(token, "a", &data, Expect::Absent)).unwrap();
    assert_eq!((entry.size, dir.path().join(STAGING).exists()), (5000, false));

    fs::hard_link(dir.path().join("a"), dir.path().join(STAGING)).unwrap();
    stage(&other, None).unwrap();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), data.bytes, "a new upload takes a new file");
}

#[test]
fn a_replacing_publish_cut_off_after_the_exchange_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let (one, two) = (Data::new(5000, u64::MAX), Data::new(6000, u64::MAX));
    let old = put(&folder, "a", &one, Expect::Absent).unwrap();
    let none = Arc::new(Checkpoints::default());
    let token = folder.stage(&call, &request("a", 6000, 1, None), two.clone(), none).unwrap().token;
    let (staged, final_) = (dir.path().join(STAGING), dir.path().join("a"));
    let (cwd, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
    rustix::fs::renameat_with(cwd, &staged, cwd, &final_, exchange).unwrap();
    let again = publish(token, "a", &two, Expect::Version(old.version.unwrap()));
    assert_eq!(folder.publish(&call, &again).unwrap().size, 6000);
    assert_eq!(fs::read(&final_).unwrap(), two.bytes);
    assert!(!staged.exists(), "the old content is gone with its replacement in place");
}

#[test]
fn a_fifo_under_an_images_name_holds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, call) = (folder(dir.path()), Call::unwatched());
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("a"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = folder.get(&call, &path("a"), None, None, Arc::new(Collected::default())).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsupported);
    assert_eq!(folder.stat(&call, &path("a")).unwrap().kind, EntryKind::Other);
}

#[test]
fn a_mount_that_is_required_is_missed_before_anything_is_made() {
    // Of the root file system, whatever is mounted on /tmp.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
    let on_root = device(dir.path()) == device(Path::new("/"));
    let new = dir.path().join("target");
    let required = serde_json::json!({"mount_required": true});
    let target = Folder::open_at(new.to_str().unwrap(), &required).unwrap();
    let made = target.make_dir(&Call::unwatched(), &path("a"));
    assert_eq!(made.is_err(), on_root, "{made:?}");
    assert_eq!(new.exists(), !on_root);
}
