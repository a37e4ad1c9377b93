//! The harness itself: an instrument that lies would make every other test worthless.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

use offsite_tests::fuse::{Mirror, Mode};
use offsite_tests::law::Laws;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, random_file, tree};

#[test]
fn mirror_passes_counts_and_reports_changes() {
    let box_ = Sandbox::new();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("b"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    mirror.watch(move |operation, path| log.lock().unwrap().push(format!("{operation} {}", path.display())));
    fs::create_dir(box_.path("b").join("dir")).unwrap();
    random_file(&box_.path("b").join("dir/file"), 300_000, 7);
    fs::rename(box_.path("b").join("dir/file"), box_.path("b").join("dir/other")).unwrap();
    assert_eq!(mirror.written(), 300_000);
    assert_eq!(tree(&box_.path("a")), tree(&box_.path("b")));
    fs::remove_file(box_.path("b").join("dir/other")).unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        seen.contains(&"rename dir/other".to_owned()) && seen.contains(&"unlink dir/other".to_owned()),
        "{seen:?}"
    );
}

#[test]
fn mirror_fails_and_shows_an_empty_root_on_demand() {
    let box_ = Sandbox::new();
    fs::write(box_.path("a").join("file"), b"x").unwrap();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("b"));
    assert_eq!(fs::read(box_.path("b").join("file")).unwrap(), b"x");
    mirror.set(Mode::Fail(116));
    assert_eq!(
        fs::read_dir(box_.path("b")).and_then(|mut d| d.next().transpose()).unwrap_err().raw_os_error(),
        Some(116)
    );
    mirror.set(Mode::Empty);
    assert_eq!(fs::read_dir(box_.path("b")).unwrap().count(), 0);
    mirror.set(Mode::Pass);
    assert_eq!(fs::read_dir(box_.path("b")).unwrap().count(), 1);
}

/// The page cache keeps the byte as it was written; the disk beneath holds another.
#[test]
fn mirror_flips_a_byte_beneath_the_page_cache() {
    let box_ = Sandbox::new();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("b"));
    mirror.flip("file", 5000);
    let path = box_.path("b").join("file");
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(&[7; 8192]).unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(5000)).unwrap();
    let mut cached = [0];
    file.read_exact(&mut cached).unwrap();
    assert_eq!(cached, [7], "the page cache should still hold what was written");
    let on_disk = fs::read(box_.path("a").join("file")).unwrap();
    assert_eq!((on_disk[4999], on_disk[5000]), (7, 6));
    let mut direct = fs::OpenOptions::new().read(true).custom_flags(0o40000).open(&path).unwrap();
    let mut buffer = vec![0; 3 * 4096];
    let start = buffer.as_ptr().align_offset(4096);
    direct.read_exact(&mut buffer[start..start + 8192]).unwrap();
    assert_eq!(buffer[start + 5000], 6, "a direct read should see the disk");
}

#[test]
fn laws_notice_partial_foreign_and_orphaned_images() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    let laws = Laws::new().allow(&box_.source()).chain(2);
    let (source, target) = (box_.source(), box_.path("a"));
    laws.hold(&target);
    fs::copy(source.join("inc2.qcow2"), target.join("inc2.qcow2")).unwrap();
    assert_eq!(laws.broken(&target).len(), 1);
    fs::copy(source.join("base.qcow2"), target.join("base.qcow2")).unwrap();
    fs::copy(source.join("inc1.qcow2"), target.join("inc1.qcow2")).unwrap();
    laws.hold(&target);
    fs::OpenOptions::new().write(true).open(target.join("inc1.qcow2")).unwrap().set_len(1000).unwrap();
    fs::write(target.join("stranger.qcow2"), b"?").unwrap();
    assert_eq!(laws.broken(&target).len(), 2);
}

#[test]
fn only_a_declared_swap_excuses_a_parent_that_is_gone_from_its_name() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    let laws = Laws::new().allow(&box_.source()).chain(2);
    let (source, target) = (box_.source(), box_.path("a"));
    for name in ["base.qcow2", "inc2.qcow2"] {
        fs::copy(source.join(name), target.join(name)).unwrap();
    }
    let side = target.join("offsite-01234567-0123456789abcdef.old");
    fs::copy(source.join("inc1.qcow2"), &side).unwrap();
    assert_eq!(laws.broken(&target).len(), 1);
    let laws = laws.swaps();
    laws.hold(&target);
    fs::write(&side, b"not the old file").unwrap();
    assert_eq!(laws.broken(&target).len(), 1);
}

#[test]
fn consolidating_keeps_what_the_guest_sees() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    let before = qemu::content(&box_.source(), "inc3.qcow2");
    qemu::consolidate(&box_.source(), 3);
    assert_eq!(qemu::content(&box_.source(), "inc3.qcow2"), before);
    assert!(!box_.source().join("inc1.qcow2").exists());
}
