//! Sources that are still being written, hang, go stale, vanish or come back empty.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::time::{Duration, Instant};

use offsite_tests::fuse::{Mirror, Mode};
use offsite_tests::program::wait_until;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, tree};

const ESTALE: i32 = 116;
const ENOTCONN: i32 = 107;
const EIO: i32 = 5;

fn mounted() -> (Sandbox, Mirror) {
    let box_ = Sandbox::new();
    fs::create_dir(box_.path("share")).unwrap();
    qemu::chain(&box_.source(), 2);
    let mirror = Mirror::mount(&box_.source(), &box_.path("share"));
    (box_, mirror)
}

fn run(box_: &Sandbox) -> offsite_tests::program::Offsite {
    box_.offsite()
        .args([
            "run",
            "--source",
            &box_.text("share"),
            "--settle",
            "0",
            "--json",
            "--sync",
            "--allow-deletes",
        ])
        .args(["--to", &box_.text("a")])
}

#[test]
fn a_stale_unreachable_or_failing_share_stops_the_job_and_touches_no_target() {
    let (box_, mirror) = mounted();
    run(&box_).run().expect(0);
    let held = tree(&box_.path("a"));
    assert_eq!(held.len(), 3);
    for errno in [ESTALE, ENOTCONN, EIO] {
        mirror.set(Mode::Fail(errno));
        let ran = run(&box_).run();
        assert_eq!(ran.code, Some(1), "errno {errno}: {}", ran.all());
        assert!(ran.all().contains("source"), "errno {errno}: {}", ran.all());
        assert_eq!(tree(&box_.path("a")), held);
    }
    mirror.set(Mode::Pass);
    run(&box_).run().expect(0);
    assert_eq!(tree(&box_.path("a")), held);
}

#[test]
fn an_empty_mount_point_is_not_an_empty_source() {
    let (box_, mirror) = mounted();
    run(&box_).run().expect(0);
    let held = tree(&box_.path("a"));
    mirror.set(Mode::Empty);
    for _ in 0..2 {
        assert_eq!(run(&box_).run().code, Some(1));
        assert_eq!(tree(&box_.path("a")), held);
    }
    drop(mirror);
    // Unmounted: the bare mount point, another device.
    for _ in 0..2 {
        let ran = run(&box_).run();
        assert_eq!(ran.code, Some(1), "{}", ran.all());
        assert_eq!(tree(&box_.path("a")), held);
    }
}

#[test]
fn a_hanging_share_is_abandoned_and_reported() {
    let (box_, mirror) = mounted();
    run(&box_).run().expect(0);
    let held = tree(&box_.path("a"));
    mirror.set(Mode::Hang);
    let start = Instant::now();
    let run = run(&box_).env("OFFSITE_HANG_SECONDS", "5").start(&box_.path("home"));
    let ran = run.wait(Duration::from_secs(60));
    assert_ne!(ran.code, Some(0));
    assert!(ran.all().contains("hang") || ran.all().contains("answer"), "{}", ran.all());
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(tree(&box_.path("a")), held);
}

#[test]
fn a_file_being_written_waits_until_it_is_left_alone() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    let growing = box_.source().join("disk-b000.spf");
    fs::write(&growing, b"begin").unwrap();
    let path = growing.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let args = ["run", "--source", &box_.text("source"), "--settle", "2", "--to", &box_.text("a")];
    box_.offsite().args(args).run().expect(0);
    assert_eq!(tree(&box_.path("a")).len(), 2, "the settled chain, without the growing file");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    writer.join().unwrap();
    box_.offsite().args(args).run().expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
}

#[test]
fn in_progress_names_and_locked_images_are_left_out() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    for name in ["vm.full.data.partial", "disk-b000.spf.tmp", "disk-b000.spwb"] {
        fs::write(box_.source().join(name), b"unfinished").unwrap();
    }
    // A live writer holds qemu's lock on the newest image.
    let mut nbd = std::process::Command::new("qemu-nbd")
        .args(["--format", "qcow2", "--persistent", "--socket", &box_.text("nbd.sock")])
        .arg(box_.source().join("inc2.qcow2"))
        .spawn()
        .expect("install it with: apt-get install qemu-utils");
    wait_until("qemu-nbd's socket", Duration::from_secs(10), || box_.path("nbd.sock").exists());
    let first = box_.run(&["a"]).run();
    nbd.kill().unwrap();
    nbd.wait().unwrap();
    assert_eq!(first.code, Some(0), "{}", first.all());
    let names: Vec<_> = tree(&box_.path("a")).into_keys().map(|p| p.to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["base.qcow2", "inc1.qcow2"]);
    box_.run(&["a"]).run().expect(0);
    assert!(box_.path("a").join("inc2.qcow2").exists());
}

#[test]
fn links_are_not_followed_out_of_the_source() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    fs::write(box_.path("secret.qcow2"), b"outside").unwrap();
    std::os::unix::fs::symlink(box_.path("secret.qcow2"), box_.source().join("link.qcow2")).unwrap();
    std::os::unix::fs::symlink(box_.path("home"), box_.source().join("dirlink")).unwrap();
    fs::copy(box_.source().join("base.qcow2"), box_.path("home").join("base.qcow2")).unwrap();
    box_.run(&["a"]).args(["--include-other"]).run().expect(0);
    assert_eq!(tree(&box_.path("a")).len(), 2);
}
