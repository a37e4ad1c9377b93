//! A source on a share that goes stale, goes away, or comes back empty: told as what it is, and nothing concluded.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::path::Path;
use std::time::Duration;

use offsite::error::{Error, Kind, Result};
use offsite::source::{InMemory, Inventory, ScanOptions, SystemClock, scan};
use offsite_tests::fuse::{Mirror, Mode};
use offsite_tests::sandbox::Sandbox;

fn look(root: &Path, memory: &mut InMemory) -> Result<Inventory> {
    let options = ScanOptions { settle: Duration::ZERO, ..ScanOptions::default() };
    scan(root, &options, memory, &mut SystemClock(|| false))
}

fn share() -> (Sandbox, Mirror) {
    let sandbox = Sandbox::new();
    let (behind, share) = (sandbox.path("a"), sandbox.path("source"));
    fs::create_dir(behind.join("vm")).expect("a fresh sandbox");
    fs::write(behind.join("vm/C-b000.spf"), b"base").expect("a fresh sandbox");
    fs::write(behind.join("vm/C-b000-i001.spi"), b"one").expect("a fresh sandbox");
    let mirror = Mirror::mount(&behind, &share);
    (sandbox, mirror)
}

fn source_error(result: Result<Inventory>) -> Error {
    let error = result.expect_err("the scan must not pass for a good one");
    assert_eq!(error.kind, Kind::Source, "{error}");
    assert!(error.hint.is_some(), "what to do about it: {error}");
    error
}

#[test]
fn a_share_that_went_stale_is_no_deletion_and_comes_back_as_it_was() {
    let (_sandbox, mirror) = share();
    let mut memory = InMemory::default();
    let good = look(mirror.path(), &mut memory).unwrap();
    assert_eq!(good.files.len(), 2);
    let before = memory.files.clone();
    for (errno, name) in [(116, "ESTALE"), (5, "EIO"), (107, "ENOTCONN"), (19, "ENODEV"), (110, "ETIMEDOUT")]
    {
        mirror.set(Mode::Fail(errno));
        let error = source_error(look(mirror.path(), &mut memory));
        assert!(error.what.contains("gone away"), "{name}: {error}");
        assert_eq!(memory.files, before, "{name}: nothing was learned");
    }
    mirror.set(Mode::Pass);
    let again = look(mirror.path(), &mut memory).unwrap();
    assert_eq!((again.files.len(), again.absent_since.len(), again.unreadable.len()), (2, 0, 0));
}

#[test]
fn an_empty_mount_point_and_the_folder_beneath_a_mount_are_recognised() {
    let (sandbox, mirror) = share();
    let mut memory = InMemory::default();
    look(mirror.path(), &mut memory).unwrap();
    mirror.set(Mode::Empty);
    assert!(source_error(look(mirror.path(), &mut memory)).what.contains("no file"));
    drop(mirror);
    // The bare mount point: empty, then with something that got there by mistake.
    let bare = sandbox.path("source");
    assert!(source_error(look(&bare, &mut memory)).what.contains("no file"));
    fs::write(bare.join("stray"), b"x").unwrap();
    assert!(source_error(look(&bare, &mut memory)).what.contains("another file system"));
    assert!(memory.files.values().all(|seen| seen.absent_ns.is_none()));
}

#[test]
fn a_share_mounted_anew_is_the_same_source() {
    let (sandbox, mirror) = share();
    let mut memory = InMemory::default();
    look(mirror.path(), &mut memory).unwrap();
    drop(mirror);
    let mirror = Mirror::mount(&sandbox.path("a"), &sandbox.path("source"));
    let again = look(mirror.path(), &mut memory).unwrap();
    assert_eq!((again.files.len(), again.absent_since.len()), (2, 0));
}

#[test]
fn what_is_really_deleted_is_seen() {
    let (_sandbox, mirror) = share();
    fs::write(mirror.path().join("top"), b"x").unwrap();
    let mut memory = InMemory::default();
    look(mirror.path(), &mut memory).unwrap();
    fs::remove_dir_all(mirror.path().join("vm")).unwrap();
    let gone = look(mirror.path(), &mut memory).unwrap();
    assert_eq!((gone.files.len(), gone.absent_since.len()), (1, 2));
}
