//! What a power cut leaves of a catalog: tests with a disk that holds what was flushed and nothing else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use offsite_plugin_api::{Range, TargetPath, Token};

use super::super::database::Database;
use super::super::group::Group;
use super::super::{Catalog, IntentKind, IntentStep, SCHEMA, StagedFile, Was};
use super::staged;
use crate::error::Kind;

/// A catalog in `dir` whose flushes copy the database and its log to a folder of their own: the disk.
struct Powered {
    catalog: Catalog,
    /// The folder of the last flush.
    disk: Arc<Mutex<Option<PathBuf>>>,
    broken: Arc<AtomicBool>,
}

fn powered(dir: &Path) -> Powered {
    let at = dir.join("c.db");
    let disk: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    let broken = Arc::new(AtomicBool::new(false));
    let flush = {
        let (dir, disk, broken, count) = (dir.to_owned(), disk.clone(), broken.clone(), AtomicU64::new(0));
        move || {
            if broken.load(SeqCst) {
                return Err(std::io::Error::other("no medium"));
            }
            let held = dir.join(format!("disk-{}", count.fetch_add(1, SeqCst)));
            std::fs::create_dir(&held)?;
            for name in ["c.db", "c.db-wal"] {
                std::fs::copy(dir.join(name), held.join(name))?;
            }
            *disk.lock().unwrap() = Some(held);
            Ok(())
        }
    };
    let db = Database::open(&at, SCHEMA).unwrap().on_disk(Group::on(flush));
    Powered { catalog: Catalog { db, signer: None }, disk, broken }
}

/// What the next process finds when the power goes now.
fn after_power_cut(powered: &Powered, dir: &Path, name: &str) -> Catalog {
    let held = powered.disk.lock().unwrap().clone().expect("something was flushed");
    let copy = dir.join(name);
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(held).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    Catalog::open(&copy.join("c.db")).unwrap()
}

fn path(name: &str) -> TargetPath {
    TargetPath::new(name).unwrap()
}

fn step(name: &str) -> IntentStep {
    IntentStep::Delete { path: path(name), was: Was { size: 1, mtime: None, version: None } }
}

#[test]
fn an_intent_returns_only_when_a_power_cut_cannot_lose_it() {
    let dir = tempfile::tempdir().unwrap();
    let powered = powered(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (powered, dir) = (&powered, dir.path());
            scope.spawn(move || {
                for n in 0..5 {
                    let name = format!("image-{thread}-{n}");
                    powered.catalog.begin_intent(IntentKind::Delete, "s", &[step(&name)]).unwrap();
                    let left = after_power_cut(powered, dir, &format!("cut-{name}"));
                    let open = left.intents_at(&path(&name)).unwrap();
                    assert_eq!(open.len(), 1, "the intent on {name} was acted upon and is lost");
                }
            });
        }
    });
}

#[test]
fn a_checkpoint_returns_only_when_a_power_cut_cannot_lose_it() {
    let dir = tempfile::tempdir().unwrap();
    let powered = powered(dir.path());
    powered.catalog.begin_staging(&staged("s")).unwrap();
    let ranges = [Range { offset: 0, length: 77 }];
    powered.catalog.checkpoint(&path("s"), &Token(vec![1]), &ranges, true, &[(0, [3; 32])]).unwrap();
    let left = after_power_cut(&powered, dir.path(), "cut");
    assert_eq!(left.staged_at(&path("s")).unwrap().unwrap().ranges, ranges);
    assert_eq!(left.staged_blocks(&path("s")).unwrap(), [(0, [3; 32])]);
    // A proof needs no wait of its own: the intent that lets it count comes after it in the same log.
    let hash = [5; 32];
    powered.catalog.staging_complete(&path("s"), &Token(vec![1]), hash, None, &[]).unwrap();
    powered.catalog.begin_intent(IntentKind::Delete, "s", &[step("x")]).unwrap();
    let left = after_power_cut(&powered, dir.path(), "cut-2");
    assert_eq!(left.staged_at(&path("s")).unwrap().unwrap().blake3, Some(hash));
}

#[test]
fn a_disk_that_failed_once_lets_no_intent_through() {
    let dir = tempfile::tempdir().unwrap();
    let powered = powered(dir.path());
    powered.catalog.begin_intent(IntentKind::Delete, "s", &[step("a")]).unwrap();
    powered.broken.store(true, SeqCst);
    let begin = |name: &str| powered.catalog.begin_intent(IntentKind::Delete, "s", &[step(name)]);
    assert_eq!(begin("b").unwrap_err().kind, Kind::State);
    powered.broken.store(false, SeqCst);
    assert_eq!(begin("c").unwrap_err().kind, Kind::State);
    let left = after_power_cut(&powered, dir.path(), "cut");
    assert_eq!(left.intents().unwrap().len(), 1);
}

#[test]
fn a_checkpoint_is_dropped_durably() {
    let dir = tempfile::tempdir().unwrap();
    let powered = powered(dir.path());
    let flushed = || powered.disk.lock().unwrap().clone();
    let waited = |act: &dyn Fn()| {
        let before = flushed();
        act();
        flushed() != before
    };
    let catalog = &powered.catalog;
    let begun = StagedFile { token: None, ..staged("s") };
    let checkpointed = || {
        assert!(!waited(&|| catalog.begin_staging(&begun).unwrap()), "a first staging need not wait");
        catalog.checkpoint(&path("s"), &Token(vec![1]), &[], true, &[]).unwrap();
    };
    checkpointed();
    assert!(waited(&|| catalog.drop_staged(&path("s")).unwrap()));
    assert_eq!(after_power_cut(&powered, dir.path(), "cut").staged_at(&path("s")).unwrap(), None);
    checkpointed();
    assert!(waited(&|| catalog.begin_staging(&begun).unwrap()));
    let left = after_power_cut(&powered, dir.path(), "cut-2");
    assert_eq!(left.staged_at(&path("s")).unwrap(), Some(begun.clone()));
    assert!(!waited(&|| catalog.drop_staged(&path("s")).unwrap()), "nothing to be believed was dropped");
}
