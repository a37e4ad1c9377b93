//! The databases: what survives, what is refused, and how quick they are.

mod power_cut;

use std::time::{Duration, Instant};

use offsite_plugin_api::{Attributes, Range, TargetPath, Timestamp, Token};

use super::{
    Accepted, Catalog, Identity, IntentKind, IntentStep, JobDb, Published, RecognisedBytes, RunRecord,
    StagedFile, Upon, Was,
};
use crate::error::Kind;
use crate::format;
use crate::plan::{Baseline, Policy};
use crate::report::Outcome;
use crate::source::{Earlier, Learned, MountPoint, Observations, Place, Seen};
use crate::target::{Recorded, VerifyLevel};

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

fn published(name: &str) -> Published {
    let path = path(name);
    let record = Recorded {
        size: u64::MAX,
        blake3: Some([7; 32]),
        source_mtime_ns: -5,
        source_ctime_ns: 6,
        source_inode: u64::MAX,
        target_version: Some("v".into()),
        target_mtime: Some(Timestamp { ns: -5, precision_ns: 1_000_000_000 }),
        level: VerifyLevel::Digest,
        recognised: format::recognise_name(&path),
        set: "a/set".into(),
        image: path.clone(),
        parent: None,
        head: None,
        mount: None,
    };
    Published { source: Some(path.clone()), path, record, span: None }
}

fn staged(name: &str) -> StagedFile {
    StagedFile {
        path: path(name),
        source: path("source").join(name).unwrap(),
        token: Some(Token(vec![0, 255, 3])),
        staging: path("offsite-x.part"),
        identity: Identity { size: 9 << 40, mtime_ns: -1, ctime_ns: 2, inode: u64::MAX },
        attributes: Attributes { class: Some("GLACIER".into()), ..Attributes::default() },
        ranges: vec![Range { offset: 0, length: 5 }, Range { offset: 1 << 50, length: 7 }],
        durable: true,
        block_size: 1 << 20,
        blake3: None,
        complete: false,
        verified: None,
        boundaries: vec![1, 1 << 50],
    }
}

#[test]
fn everything_survives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("j/t.db");
    let file = published("host@c_20240101_d01_00001.aiv");
    let mut part = published("sub/other");
    part.record.image = path("anchor");
    part.source = Some(path("other"));
    assert!(file.record.recognised.is_some());
    let step = IntentStep::Delete { path: path("x"), was: Was { size: 1, mtime: None, version: None } };
    let run = RunRecord {
        outcome: Some(Outcome::Stopped),
        error: Some("why".into()),
        ..RunRecord::begin("r1", "t")
    };
    let kept = Baseline { images: [path("a"), path("b")].into(), taken_ns: 9 };
    {
        let catalog = Catalog::open(&at).unwrap();
        assert!(catalog.is_new());
        catalog.record(&[file.clone(), part.clone()]).unwrap();
        catalog.begin_staging(&staged("s")).unwrap();
        catalog
            .checkpoint(&path("s"), &Token(vec![1]), &[], false, &[(3, [3; 32]), (1 << 40, [1; 32])])
            .unwrap();
        catalog.begin_intent(IntentKind::Delete, "set", std::slice::from_ref(&step)).unwrap();
        catalog.state_put("host-key", b"\0\xff").unwrap();
        let was = Was { size: 5, mtime: None, version: Some("v".into()) };
        let accepted = Accepted { was: Some(was), blake3: Some([7; 32]) };
        catalog.accept(&[(path("z"), accepted)]).unwrap();
        catalog.set_baseline(Policy::NewImages, &kept).unwrap();
        catalog.put_run(&RunRecord::begin("r1", "t")).unwrap();
        catalog.put_run(&run).unwrap();
    }
    let catalog = Catalog::open(&at).unwrap();
    assert!(!catalog.is_new() && catalog.moved_aside().is_none());
    assert_eq!(catalog.published_of_set("a/set").unwrap(), [file.clone(), part.clone()]);
    assert_eq!(catalog.known_sources().unwrap().len(), 2);
    assert_eq!(catalog.known_sources().unwrap()[1].0, path("other"));
    let both = [(file.path, file.record), (part.path, part.record)];
    assert_eq!(catalog.published().unwrap(), both.into_iter().map(|(p, r)| (p, Box::new(r))).collect());
    let back = catalog.staged_at(&path("s")).unwrap().unwrap();
    assert_eq!(
        back,
        StagedFile { token: Some(Token(vec![1])), ranges: vec![], durable: false, ..staged("s") }
    );
    assert_eq!(catalog.staged_blocks(&path("s")).unwrap(), [(3, [3; 32]), (1 << 40, [1; 32])]);
    let intents = catalog.intents().unwrap();
    assert_eq!((intents.len(), &intents[0].steps), (1, &vec![(0, step)]));
    assert_eq!(catalog.state_get("host-key").unwrap().as_deref(), Some(&b"\0\xff"[..]));
    assert_eq!(catalog.state_get("other").unwrap(), None);
    let accepted = catalog.accepted().unwrap();
    assert_eq!(accepted.keys().collect::<Vec<_>>(), [&path("z")]);
    assert_eq!(accepted[&path("z")].was.as_ref().map(|w| w.size), Some(5));
    assert_eq!(catalog.baseline(Policy::NewImages).unwrap(), Some(kept));
    assert_eq!(catalog.baseline(Policy::NewSets).unwrap(), None);
    let runs = catalog.runs(Some("t"), 9).unwrap();
    assert_eq!(
        (runs.len(), runs[0].outcome, runs[0].error.as_deref()),
        (1, Some(Outcome::Stopped), Some("why"))
    );
    assert_eq!(catalog.last_success("t").unwrap(), None);
}

#[test]
fn a_catalog_of_the_first_version_is_read_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("t.db");
    let old = rusqlite::Connection::open(&at).unwrap();
    old.execute_batch(super::SCHEMA[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch(
        "INSERT INTO staged (path, source, token, staging, size, mtime, ctime, inode, attributes, ranges, durable, \
         block_size, blake3, complete, level) VALUES \
         (x'73', x'73', x'01', x'74', 9, 1, 2, 3, '{}', x'00', 1, 4096, NULL, 0, NULL)",
    )
    .unwrap();
    drop(old);
    let catalog = Catalog::open(&at).unwrap();
    let row = catalog.staged_at(&path("s")).unwrap().unwrap();
    assert_eq!((row.token, row.boundaries), (Some(Token(vec![1])), vec![]));
    catalog.taken_up(&path("s"), &[3, 5]).unwrap();
    assert_eq!(catalog.staged_at(&path("s")).unwrap().unwrap().boundaries, [3, 5]);
    assert_eq!(catalog.taken_up(&path("t"), &[]).unwrap_err().kind, Kind::State);
}

#[test]
fn a_newer_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("t.db");
    rusqlite::Connection::open(&at).unwrap().pragma_update(None, "user_version", 99).unwrap();
    for result in [Catalog::open(&at), Catalog::peek(&at)] {
        let error = result.err().unwrap();
        assert_eq!(error.kind, Kind::State);
        assert!(error.to_string().contains("newer offsite"), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_database_is_moved_aside_and_counts_as_lost() {
    let damage = b"this is no database, but it is long enough to be looked at.".repeat(40);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("t.db");
    std::fs::write(&at, &damage).unwrap();
    assert!(Catalog::peek(&at).unwrap().published().unwrap().is_empty());
    assert!(std::fs::read(&at).unwrap() == damage, "a peek changed it");
    let catalog = Catalog::open(&at).unwrap();
    assert!(catalog.is_new());
    assert!(std::fs::read(catalog.moved_aside().unwrap()).unwrap() == damage);
    catalog.record(&[published("a.aiv")]).unwrap();
}

#[test]
fn a_peek_at_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("t.db");
    assert!(Catalog::peek(&at).unwrap().is_new());
    assert!(!at.exists());
    std::fs::write(&at, b"").unwrap();
    assert!(Catalog::peek(&at).unwrap().is_new());
    assert_eq!(std::fs::metadata(&at).unwrap().len(), 0);
    assert!(Catalog::open(&at).unwrap().is_new());
}

#[test]
fn damage_found_later_is_an_error_now_and_a_lost_catalog_in_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("t.db");
    {
        let catalog = Catalog::open(&at).unwrap();
        let files: Vec<_> = (0..2000).map(|n| published(&format!("{n}.aiv"))).collect();
        catalog.record(&files).unwrap();
    }
    let length = std::fs::metadata(&at).unwrap().len();
    let mut bytes = std::fs::read(&at).unwrap();
    // Everything but the first pages, which hold the schema.
    bytes[usize::try_from(length / 2).unwrap()..].fill(0x5a);
    std::fs::write(&at, bytes).unwrap();
    {
        let error = Catalog::open(&at).unwrap().published().unwrap_err();
        assert!(error.hint.as_deref().unwrap_or_default().contains("damaged"), "{error}");
    }
    let catalog = Catalog::open(&at).unwrap();
    assert!(catalog.is_new() && catalog.moved_aside().is_some());
    assert!(catalog.published().unwrap().is_empty());
}

#[test]
fn publishing_records_drops_the_staging_and_ends_the_intent_together() {
    let catalog = Catalog::in_memory().unwrap();
    let files = ["a.aiv", "b.aiv"].map(published);
    let steps: Vec<IntentStep> = files
        .iter()
        .map(|f| IntentStep::Delete {
            path: f.path.clone(),
            was: Was { size: 0, mtime: None, version: None },
        })
        .collect();
    let id = catalog.begin_intent(IntentKind::Group, "set", &steps).unwrap();
    catalog.begin_staging(&staged("a.aiv")).unwrap();
    catalog.publish_done(id, 0, &files[0], &Default::default()).unwrap();
    assert_eq!(catalog.staged().unwrap(), []);
    assert_eq!(catalog.published().unwrap().len(), 1);
    assert!(catalog.intents().unwrap()[0].partly_done());
    // Published another way: the step that waited for it ends too.
    catalog.record(&files[1..]).unwrap();
    assert_eq!(catalog.intents().unwrap(), []);
}

#[test]
fn a_checkpoint_without_a_staging_is_an_error() {
    let catalog = Catalog::in_memory().unwrap();
    let error = catalog.checkpoint(&path("x"), &Token(vec![]), &[], true, &[]).unwrap_err();
    assert_eq!(error.kind, Kind::State);
}

#[test]
fn a_staging_begun_anew_forgets_the_blocks_of_the_old() {
    let catalog = Catalog::in_memory().unwrap();
    catalog.begin_staging(&staged("s")).unwrap();
    catalog.checkpoint(&path("s"), &Token(vec![1]), &[], true, &[(0, [0; 32])]).unwrap();
    catalog.begin_staging(&staged("s")).unwrap();
    assert_eq!(catalog.staged_blocks(&path("s")).unwrap(), []);
    catalog.drop_staged(&path("s")).unwrap();
    assert_eq!(catalog.staged().unwrap(), []);
}

/// A database that exists reads what is written here. When this fails, the layout of `Recognised` has changed: count
/// `RecognisedBytes::VERSION` up.
#[test]
fn the_kept_form_of_a_recognised_file_is_pinned() {
    let recognised = format::recognise_name(&path("d/host@c_20240101_d01_00001_i00003.aii")).unwrap();
    let bytes = RecognisedBytes::encode(&recognised);
    assert_eq!(RecognisedBytes::decode(&bytes), Some(recognised));
    assert_eq!(RecognisedBytes::decode(&bytes[..bytes.len() - 1]), None);
    insta::assert_snapshot!(hex::encode(&bytes));
}

fn seen(n: i64) -> Seen {
    Seen {
        size: 1,
        mtime_ns: n,
        ctime_ns: n,
        inode: u64::MAX,
        device: u64::MAX - 1,
        mount: (n % 2 == 0).then(|| format!("type=nfs;source={}", n % 4).into()),
        since_ns: n,
        absent_ns: (n % 2 == 0).then_some(n),
        header: (n % 3 == 0).then(|| vec![1, 2, 3]),
        earlier: (n % 2 == 0)
            .then(|| Earlier { form: (n % 4 == 0).then_some((u64::MAX, n)), until_ns: n + 1 }),
    }
}

#[test]
fn a_job_database_of_the_first_version_is_read_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = super::job_path(dir.path(), "job");
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let old = rusqlite::Connection::open(&at).unwrap();
    old.execute_batch(super::job::SCHEMA[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch("INSERT INTO seen VALUES (x'61', 1, 2, 3, 4, 5, NULL, NULL)").unwrap();
    drop(old);
    let mut db = JobDb::open(dir.path(), "job", &[]).unwrap();
    let files = db.load().unwrap().files;
    assert_eq!((files.len(), &files[0].0, files[0].1.inode, files[0].1.device), (1, &path("a"), 4, 0));
}

#[test]
fn observations_survive_and_targets_say_what_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let learned = Learned {
        place: Some(Place { device: u64::MAX, inode: 2 }),
        mounts: Some(vec![MountPoint {
            path: TargetPath::root(),
            identity: "type=nfs;source=2".into(),
            occasion: "1".into(),
            inodes_drift: true,
            ctimes_drift: false,
        }]),
        put: vec![(path("a"), seen(1)), (path("b"), seen(6))],
        forget: Vec::new(),
    };
    {
        let mut db = JobDb::open(dir.path(), "job", &["one", "two"]).unwrap();
        assert_eq!(db.load().unwrap(), crate::source::Remembered::default());
        db.save(&learned).unwrap();
    }
    for (target, ctime) in [("one", 6), ("two", 7)] {
        let catalog = Catalog::open(&super::catalog_path(dir.path(), "job", target)).unwrap();
        let mut disputed = published("disputed.aiv");
        disputed.record.source_ctime_ns = ctime;
        catalog.record(&[published("same.aiv"), disputed]).unwrap();
    }
    let mut db = JobDb::open(dir.path(), "job", &["one", "two"]).unwrap();
    let remembered = db.load().unwrap();
    assert_eq!((remembered.place, remembered.files), (learned.place, learned.put));
    assert_eq!(Some(remembered.mounts), learned.mounts);
    db.save(&Learned { forget: vec![path("a")], ..Learned::default() }).unwrap();
    assert_eq!(db.load().unwrap().files, [(path("b"), seen(6))]);
    assert_eq!(db.known_settled(&path("same.aiv")), Some((u64::MAX, -5, 6)));
    assert_ne!(db.known_settled(&path("disputed.aiv")), Some((u64::MAX, -5, 6)));
    assert_eq!(db.known_paths(), [path("disputed.aiv"), path("same.aiv")]);
    assert_eq!(db.recorded().len(), 4, "what each catalog says of each");
    assert_eq!(JobDb::open_beside(dir.path(), "job").unwrap().recorded().len(), 4);
    let done = RunRecord { outcome: Some(Outcome::Done), ..RunRecord::begin("r", "one") };
    db.put_run(&done).unwrap();
    assert_eq!(db.last_success("one").unwrap(), None, "that nothing was wrong is not recorded");
    db.put_run(&RunRecord { clean: Some(true), ..done }).unwrap();
    assert_eq!(db.last_success("one").unwrap().unwrap().run_id, "r");
    assert_eq!(db.last_success("two").unwrap(), None);
}

#[test]
fn a_hundred_thousand_rows_are_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("t.db");
    let catalog = Catalog::open(&at).unwrap();
    let files: Vec<_> =
        (0..100_000).map(|n| published(&format!("dir{}/host@c_20240101_d01_{n:05}.aiv", n % 100))).collect();
    let begin = Instant::now();
    catalog.record(&files).unwrap();
    let written = begin.elapsed();
    drop(catalog);
    let catalog = Catalog::open(&at).unwrap();
    // Of this thread: other processes on the machine do not count.
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let begin = cpu();
    let read = catalog.published().unwrap();
    let elapsed = cpu() - begin;
    eprintln!("100,000 rows: written in {written:?}, read in {elapsed:?}");
    assert_eq!(read.len(), files.len());
    // Unoptimised builds are several times slower than what is promised of a release (200 ms).
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");

    let mut db = JobDb::open(dir.path(), "job", &[]).unwrap();
    let put: Vec<_> = files.iter().map(|f| (f.path.clone(), seen(3))).collect();
    let begin = Instant::now();
    db.save(&Learned { put, ..Learned::default() }).unwrap();
    let saved = begin.elapsed();
    let begin = Instant::now();
    assert_eq!(db.load().unwrap().files.len(), files.len());
    eprintln!("100,000 observations: saved in {saved:?}, loaded in {:?}", begin.elapsed());
}

/// A catalog as version 2 left it, with `count` increments of one chain.
fn of_version_2(path: &std::path::Path, count: usize) {
    let mut db = rusqlite::Connection::open(path).unwrap();
    let t = db.transaction().unwrap();
    for batch in &super::SCHEMA[..2] {
        t.execute_batch(batch).unwrap();
    }
    t.pragma_update(None, "user_version", 2).unwrap();
    let mut insert = t
        .prepare(
            "INSERT INTO published (path, size, blake3, source_mtime, source_ctime, source_inode, version, mtime, \
             mtime_precision, level, recognised, set_id, image, source) \
             VALUES (?1, 9, ?2, ?3, 1, 1, 'v', 1, 1, 1, ?4, 'h@c_20240101_d00_00001.aiv', x'', x'')",
        )
        .unwrap();
    for n in 0..count {
        let name = match n {
            0 => "h@c_20240101_d00_00001.aiv".to_owned(),
            n => format!("h@c_20240101_d00_00001_i{n:05}.aii"),
        };
        let recognised = RecognisedBytes::encode(&format::recognise_name(&self::path(&name)).unwrap());
        insert.execute(rusqlite::params![name.as_bytes(), [n as u8; 32], n as i64, recognised]).unwrap();
    }
    drop(insert);
    t.commit().unwrap();
}

/// What this thread was given of the processor: the other tests that run beside it do not count.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_catalog_of_100000_images_is_brought_up_to_date_within_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nas.db");
    of_version_2(&file, 100_000);
    let begun = processor_time();
    let catalog = Catalog::open(&file).unwrap();
    let published = catalog.published().unwrap();
    assert!(published.len() == 100_000 && published.values().all(|r| r.parent.is_none() && r.head.is_none()));
    assert!(!catalog.parents_learned().unwrap());
    let paths: Vec<_> = published.keys().cloned().collect();
    let links: Vec<_> = paths.windows(2).map(|two| (two[1].clone(), two[0].clone())).collect();
    catalog.learn_parents(&links).unwrap();
    let took = processor_time() - begun;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(catalog.parents_learned().unwrap());
    let published = catalog.published().unwrap();
    for (image, parent) in &links {
        let own = published[image].parent.as_ref().unwrap();
        assert_eq!((&own.path, Some(own.blake3)), (parent, published[parent].blake3));
    }
    // Its manifests are not written anew for that.
    assert_eq!(catalog.unwritten_sets().unwrap(), []);
}

#[test]
fn an_upgrade_that_ends_in_the_middle_leaves_the_old_version_whole() {
    use super::database::Database;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nas.db");
    of_version_2(&file, 10);
    let mut broken = super::SCHEMA.to_vec();
    broken.push("CREATE TABLE made (x INTEGER); INSERT INTO nowhere VALUES (1);");
    assert!(Database::open(&file, &broken).is_err());
    let version = |path| {
        let db = rusqlite::Connection::open(path).unwrap();
        let columns = "SELECT count(*) FROM pragma_table_info('published') WHERE name = 'parent'";
        let version: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap();
        (version, db.query_row(columns, [], |r| r.get::<_, i64>(0)).unwrap())
    };
    assert_eq!(version(&file), (2, 0));
    let catalog = Catalog::open(&file).unwrap();
    assert!(catalog.moved_aside().is_none());
    assert_eq!(catalog.published().unwrap().len(), 10);
    assert_eq!(version(&file), (super::SCHEMA.len() as i64, 1));
}

#[test]
fn an_image_keeps_what_it_was_published_upon_while_its_content_stays() {
    let catalog = Catalog::in_memory().unwrap();
    let put = |name: &str, content: u8, parent: Option<&str>, merged: bool| {
        let mut file = published(name);
        file.record.blake3 = Some([content; 32]);
        catalog.adopt(&file, &Upon { parent: parent.map(path), merged, took_in: None }).unwrap();
    };
    let upon = |name: &str| {
        let parent = catalog.published_at(&path(name)).unwrap().unwrap().parent;
        parent.map(|p| (p.path, p.blake3[0]))
    };
    put("base", 1, None, false);
    put("one", 2, Some("base"), false);
    put("two", 3, Some("one"), false);
    assert_eq!(
        (upon("base"), upon("one"), upon("two")),
        (None, Some((path("base"), 1)), Some((path("one"), 2)))
    );
    // Another base beneath it, and then the same image compared again.
    put("base", 9, None, false);
    put("one", 2, Some("base"), false);
    assert_eq!(upon("one"), Some((path("base"), 1)));
    // New content is published upon what lies there now; what built on the old does not follow.
    put("one", 4, Some("base"), false);
    assert_eq!((upon("one"), upon("two")), (Some((path("base"), 9)), Some((path("one"), 2))));
    // A merge keeps the restore point, so that what builds on it follows, in the same transaction.
    put("one", 2, Some("base"), false);
    put("one", 5, Some("base"), true);
    assert_eq!(upon("two"), Some((path("one"), 5)));
    // A parent that has no digest is none.
    put("lost", 6, Some("nothing"), false);
    assert_eq!(upon("lost"), None);
    catalog.link(&[(path("lost"), path("two")), (path("two"), path("base"))]).unwrap();
    assert_eq!(
        (upon("lost"), upon("two")),
        (Some((path("two"), 3)), Some((path("one"), 5))),
        "only where there is none"
    );
    catalog.relink(&[(path("two"), path("base"))]).unwrap();
    assert_eq!(upon("two"), Some((path("base"), 9)));
}
