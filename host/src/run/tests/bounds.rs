//! What is remembered, on this machine and on the target, is bounded by what there is, not by how long it goes on: 3,000
//! days of rotation through the real scan memory, planner, executor, catalog and manifests. The bounds are those that
//! `catalog` states.

use std::collections::BTreeMap;

use super::super::open::Open;
use super::super::protocol::{Op, Request, SecretValues};
use super::super::replicate::on_target;
use super::super::stop::Stop;
use super::*;
use crate::catalog::{JobDb, RunRecord};
use crate::config::{Job, Priority, Target, Verify};
use crate::error::{Error, Kind as ErrorOf};
use crate::notice::{Notice, NoticeCode};
use crate::plan::{Options, Policy};
use crate::report::Outcome;
use crate::source::{Clock, ScanOptions, scan};

const DAY: i64 = 24 * 3_600_000_000_000;
const DAYS: i64 = 3000;
/// Sets that the source keeps: one a day.
const KEEP: i64 = 7;
/// Files of a set: a base and an increment.
const FILES: u64 = 2;
/// Records of what is gone from both sides stay that long.
const MEMORY: u64 = 91;

struct At(i64);

impl Clock for At {
    fn now_ns(&mut self) -> i64 {
        self.0
    }
    fn sleep(&mut self, time: Duration) -> crate::error::Result<()> {
        self.0 += i64::try_from(time.as_nanos()).unwrap();
        Ok(())
    }
}

/// What a place holds at the end of a day.
#[derive(Clone, Debug)]
struct Sizes {
    catalog: BTreeMap<String, u64>,
    catalog_bytes: u64,
    job: BTreeMap<String, u64>,
    job_bytes: u64,
    /// On the target.
    images: u64,
    manifests: u64,
    manifest_bytes: u64,
}

struct World {
    source: tempfile::TempDir,
    catalog: Arc<Catalog>,
    job: Option<JobDb>,
    mem: Mem,
    line: Line,
    request: Request,
    day: i64,
}

impl World {
    fn new(plan: Options) -> Self {
        // In memory where there is such a place: thousands of small files.
        let fast = std::path::Path::new("/dev/shm");
        let source = if fast.is_dir() { tempfile::tempdir_in(fast) } else { tempfile::tempdir() }.unwrap();
        let stop = Arc::new(Stop::default());
        let mem = Mem::atomic();
        mem.disk().page = 100_000;
        let target = Target {
            name: "t".into(),
            url: "mem:".into(),
            options: serde_json::Value::Null,
            secrets: BTreeMap::new(),
            retry: Retry::default(),
            priority: Priority::Normal,
            streams: Some(1),
            bandwidth: Bandwidth::default(),
            verify: Verify::Size,
            plan,
        };
        let job = Job {
            name: "j".into(),
            source: source.path().to_owned(),
            targets: vec![target],
            settle: Duration::ZERO,
            ignore: Vec::new(),
        };
        let request = Request {
            op: Op::Run,
            run_id: "r".into(),
            attempt: 1,
            job,
            secrets: SecretValues::default(),
            plugin_dirs: Vec::new(),
            state_dir: "/nowhere".into(),
            inventory: None,
            installation: "0123abcd".into(),
            host: "h".into(),
            verbose: false,
        };
        let line = Line {
            stop: stop.clone(),
            pacer: Arc::new(Pacer::new(Bandwidth::default())),
            meter: Arc::new(Meter::default()),
            outbox: Arc::new(Outbox::to(std::io::sink(), stop)),
        };
        let catalog = Arc::new(Catalog::in_memory().unwrap());
        Self { source, catalog, job: Some(JobDb::in_memory().unwrap()), mem, line, request, day: 0 }
    }

    fn names(day: i64) -> Vec<String> {
        let date = jiff::Timestamp::from_nanosecond(i128::from(day * DAY)).unwrap().strftime("%Y%m%d");
        vec![format!("srv@c_{date}_d01_00001.aiv"), format!("srv@c_{date}_d01_00001_i00001.aii")]
    }

    /// A day: the backup product writes a set and drops the oldest, and offsite runs (an absence takes two scans: the next
    /// day's is the second).
    fn day(&mut self) {
        self.day += 1;
        for name in Self::names(self.day) {
            std::fs::write(self.source.path().join(&name), name.repeat(9)).unwrap();
        }
        for name in Self::names(self.day - KEEP) {
            let _ = std::fs::remove_file(self.source.path().join(name));
        }
        // Something that is there for a day only: another name each time.
        let yesterday = self.source.path().join(format!("tmp-{}", self.day - 1));
        let _ = std::fs::remove_file(yesterday);
        std::fs::write(self.source.path().join(format!("tmp-{}", self.day)), b"x").unwrap();
        // Daily at first, later every third day: the days count, and the test takes a third of the time.
        if self.day <= 300 || self.day % 3 == 0 {
            self.run(self.day * DAY);
        }
    }

    fn run(&mut self, now: i64) {
        let mut job = self.job.take().unwrap().reopened(vec![self.catalog.clone()]);
        let options = ScanOptions { settle: Duration::ZERO, ..ScanOptions::default() };
        let inventory = scan(self.source.path(), &options, &mut job, &mut At(now)).unwrap();
        job.tidy().unwrap();
        let root = SourceRoot::open(self.source.path(), inventory.device, inventory.inode).unwrap();
        let open = Open::injected(Arc::new(self.mem.clone()), self.catalog.clone(), &self.line);
        let target = self.request.target().unwrap();
        let summary =
            on_target(&self.request, target, &self.line, &open, &inventory, Arc::new(root), &|| now).unwrap();
        assert_eq!((summary.failed, &summary.fatal), (0, &None), "day {}", self.day);
        job.put_run(&worst_record(now)).unwrap();
        self.job = Some(job);
    }

    /// The images of the target, without what is offsite's own.
    fn images(&self) -> Vec<TargetPath> {
        let own = |p: &TargetPath| p.as_bytes().starts_with(b"offsite-");
        self.mem.disk().files.keys().filter(|p| !own(p)).cloned().collect()
    }

    fn sizes(&self) -> Sizes {
        let (catalog, bytes, free) = self.catalog.sizes();
        let (job, job_bytes, job_free) = self.job.as_ref().unwrap().sizes();
        let disk = self.mem.disk();
        let manifests = disk.files.iter().filter(|(p, _)| p.as_bytes().starts_with(b"offsite-manifest/"));
        let manifest_bytes = manifests.clone().map(|(_, f)| f.bytes.len() as u64).sum();
        let manifests = manifests.count() as u64;
        drop(disk);
        Sizes {
            catalog,
            catalog_bytes: bytes - free,
            job,
            job_bytes: job_bytes - job_free,
            images: self.images().len() as u64,
            manifests,
            manifest_bytes,
        }
    }
}

/// A record of a run of which as much was wrong as a record can hold.
fn worst_record(now: i64) -> RunRecord {
    let mut record = RunRecord { started_ns: now, ..RunRecord::begin(format!("r{now}"), "t") };
    record.outcome = Some(Outcome::Failed);
    record.clean = Some(false);
    let error = Error::new(ErrorOf::Io, "w".repeat(5000)).on("o".repeat(5000)).because("s".repeat(5000));
    for code in NoticeCode::ALL {
        record.wrong.notice(&Notice::new(code.clone(), "n".repeat(5000)));
    }
    for _ in 0..50 {
        record.wrong.image(&"i".repeat(5000), &error);
    }
    record.wrong.ended_by(Some(&error));
    record
}

/// The bounds, as `catalog` states them. `images`: files that are on the target or at the source. `remembered`: files
/// that went from both within the last 90 days, where somebody else removed them.
fn assert_bounds(sizes: &Sizes, images: u64, remembered: u64, sets: u64) {
    let rows = |table: &str, most: u64| {
        let rows = sizes.catalog.get(table).copied().unwrap_or_else(|| panic!("no table {table}"));
        assert!(rows <= most, "catalog {table}: {rows} rows, at most {most}: {sizes:?}");
    };
    let files = images + remembered;
    let known = [
        ("published", files),
        ("gone", remembered),
        ("staged", 0),
        ("staged_block", 0),
        ("intent", 0),
        ("intent_step", 0),
        ("span", files),
        ("accepted", files),
        ("vouched", files),
        ("manifest", sets + remembered),
        ("unwritten_set", 0),
        ("set_lag", sets),
        ("baseline", 2),
        ("baseline_image", 2 * FILES),
        ("fact", 50),
        ("run", 1000),
    ];
    for (table, most) in known {
        rows(table, most);
    }
    let rest: Vec<_> = sizes.catalog.keys().filter(|t| !known.iter().any(|(k, _)| k == t)).collect();
    for table in rest {
        // One that this test does not know is bounded by the files, too.
        rows(table, files + 50);
    }
    let seen = sizes.job["seen"];
    // A day's temporary file, and every file of a set that is gone for up to 90 days at the source, too.
    let absent = (MEMORY + 3) * (FILES + 1);
    assert!(seen <= images + remembered + absent + FILES + 2, "seen: {seen} rows: {sizes:?}");
    assert!(sizes.job["run"] <= 1001, "{sizes:?}");
    assert!(sizes.catalog_bytes <= 256 * 1024 + files * 1500, "{sizes:?}");
    // 1,000 records of at most 20 KB each; in this test all of them are the worst.
    assert!(sizes.job_bytes <= 256 * 1024 + seen * 800 + 1001 * 20_000, "{sizes:?}");
    assert!(sizes.manifests <= 2 * (sets + remembered) + 4, "{sizes:?}");
    assert!(sizes.manifest_bytes <= 4096 + sizes.manifests * 4096 + 2 * files * 1024, "{sizes:?}");
}

#[test]
fn three_thousand_days_of_a_mirror_take_no_more_room_than_a_hundred() {
    let begun = std::time::Instant::now();
    let mut world = World::new(Options { sync: true, max_delete: 1.0, ..Options::default() });
    let mut early = None;
    for day in 1..=DAYS {
        world.day();
        if day == 200 {
            early = Some(world.sizes());
        }
        if day % 150 == 0 {
            let sizes = world.sizes();
            // Those that went since the last run are seen to be absent for the first time.
            let most = (KEEP as u64 + 3) * FILES;
            assert!(sizes.images <= most, "day {day}: {sizes:?}");
            assert_bounds(&sizes, most, 0, KEEP as u64 + 3);
        }
    }
    let (early, late) = (early.unwrap(), world.sizes());
    eprintln!("{DAYS} days in {:?}: {late:?}", begun.elapsed());
    assert!(late.catalog_bytes <= early.catalog_bytes + 32 * 1024, "{early:?}\n{late:?}");
    assert!(late.manifests <= early.manifests + 3, "{early:?}\n{late:?}");
}

#[test]
fn three_thousand_days_on_a_target_that_others_clean_take_no_more_room_than_two_hundred() {
    let begun = std::time::Instant::now();
    let policy = Some(Policy::NewImages);
    let mut world = World::new(Options { policy, ..Options::default() });
    let mut early = None;
    for day in 1..=DAYS {
        world.day();
        // The administrator removes what is older than ten days, and offsite's own is left alone.
        for name in World::names(world.day - 10) {
            world.mem.disk().files.remove(&TargetPath::new(name).unwrap());
        }
        if day == 300 {
            early = Some(world.sizes());
        }
        if day % 150 == 0 {
            let images = 13 * FILES;
            assert_bounds(&world.sizes(), images, (MEMORY + 3) * FILES, 14 + MEMORY);
        }
    }
    let (early, late) = (early.unwrap(), world.sizes());
    eprintln!("{DAYS} days in {:?}: {late:?}", begun.elapsed());
    assert!(late.catalog["published"] > 11 * FILES, "what is gone is remembered for a while");
    assert!(late.catalog_bytes <= early.catalog_bytes + 32 * 1024, "{early:?}\n{late:?}");
    assert!(late.manifests <= early.manifests + 4, "{early:?}\n{late:?}");
}
