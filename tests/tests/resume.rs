//! A killed run loses nothing: what is sent again is counted at the target, not taken from our own summary.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::time::Duration;

use offsite_tests::backends::zero;
use offsite_tests::fuse::Mirror;
use offsite_tests::law::Laws;
use offsite_tests::program::{children, kill_all, wait_until};
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

fn big_source(box_: &Sandbox, mib: u64) -> Laws {
    random_file(&box_.source().join("disk-b000.spf"), mib * MIB, 5);
    random_file(&box_.source().join("disk-b000-i001.spi"), 3 * MIB + 17, 6);
    Laws::new().allow(&box_.source()).parent("disk-b000-i001.spi", "disk-b000.spf")
}

#[test]
fn kill_in_mid_file_costs_at_most_one_checkpoint_interval() {
    let box_ = Sandbox::new();
    let laws = big_source(&box_, 256);
    std::fs::create_dir(box_.path("mount")).unwrap();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("mount"));
    let total: u64 = 256 * MIB + 3 * MIB + 17;

    let run = box_.run(&["mount"]).args(["--bandwidth", "60MiB"]).start(&box_.path("home"));
    wait_until("160 MiB at the target", Duration::from_secs(60), || mirror.written() > 160 * MIB);
    kill_all(&run);
    run.wait(Duration::from_secs(10));
    laws.hold(&box_.path("a"));
    let before = mirror.written();
    assert!(before < total, "killed too late to show anything");

    box_.run(&["mount"]).run().expect(0);
    let after = mirror.written() - before;
    // What was left, plus one checkpoint interval (64 MiB), plus marker and manifest.
    assert!(after <= (total - before) + 64 * MIB + MIB, "sent {after} of {total} again after {before}");
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(debris(&box_.path("a")).is_empty());
}

/// FUSE: a sync may be answered by a file system that did not pass it on.
#[test]
fn a_hole_in_what_a_mount_had_acknowledged_is_sent_again_and_never_published() {
    let box_ = Sandbox::new();
    let laws = big_source(&box_, 192);
    std::fs::create_dir(box_.path("mount")).unwrap();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("mount"));
    let run = box_.run(&["mount"]).args(["--bandwidth", "60MiB"]).start(&box_.path("home"));
    wait_until("150 MiB at the target", Duration::from_secs(60), || mirror.written() > 150 * MIB);
    kill_all(&run);
    run.wait(Duration::from_secs(10));
    let staged: Vec<_> = debris(&box_.path("a")).into_iter().map(|p| box_.path("a").join(p)).collect();
    let lost: u64 = staged.iter().map(|path| zero(path, 16 * MIB, 24 * MIB)).sum();
    assert_eq!(lost, 8 * MIB, "{staged:?}");
    let before = mirror.written();
    box_.run(&["mount"]).run().expect(0);
    laws.hold(&box_.path("a"));
    let after = mirror.written() - before;
    assert!(after <= 192 * MIB + 4 * MIB - before + lost + 64 * MIB, "{after} MiB were sent again");
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(debris(&box_.path("a")).is_empty());
}

#[test]
fn a_killed_supervisor_leaves_no_worker_behind_and_the_next_run_goes_on() {
    let box_ = Sandbox::new();
    big_source(&box_, 64);
    let run = box_.run(&["a", "b"]).args(["--bandwidth", "8MiB"]).start(&box_.path("home"));
    wait_until("two workers", Duration::from_secs(30), || {
        run.workers().iter().filter(|(_, line)| line.contains('/')).count() >= 2
            && !debris(&box_.path("b")).is_empty()
    });
    let workers = run.workers();
    run.signal(Signal::KILL);
    wait_until("the workers' end", Duration::from_secs(10), || {
        workers.iter().all(|(pid, _)| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
    drop(run);
    box_.run(&["a", "b"]).run().expect(0);
    for target in ["a", "b"] {
        assert_eq!(tree(&box_.source()), tree(&box_.path(target)));
        assert!(debris(&box_.path(target)).is_empty());
    }
}

#[test]
fn sigterm_stops_at_a_checkpoint_and_the_next_run_resumes() {
    let box_ = Sandbox::new();
    let laws = big_source(&box_, 64);
    std::fs::create_dir(box_.path("mount")).unwrap();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("mount"));
    let run = box_.run(&["mount"]).args(["--bandwidth", "16MiB"]).start(&box_.path("home"));
    wait_until("24 MiB at the target", Duration::from_secs(60), || mirror.written() > 24 * MIB);
    run.signal(Signal::TERM);
    let stopped = run.wait(Duration::from_secs(20));
    assert_ne!(stopped.code, Some(0));
    let before = mirror.written();
    laws.hold(&box_.path("a"));
    box_.run(&["mount"]).run().expect(0);
    let total = 64 * MIB + 3 * MIB + 17;
    // A clean stop checkpoints: nothing beyond what was in flight (a few blocks per stream) is sent twice.
    let after = mirror.written() - before;
    assert!(after <= (total - before) + 20 * MIB, "sent {after} after {before} of {total}");
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(debris(&box_.path("a")).is_empty());
}

#[test]
fn a_source_rewritten_between_runs_with_its_mtime_kept_is_not_mixed() {
    let box_ = Sandbox::new();
    big_source(&box_, 64);
    let path = box_.source().join("disk-b000.spf");
    let mtime = std::fs::metadata(&path).unwrap().modified().unwrap();
    let run = box_.run(&["a"]).args(["--bandwidth", "16MiB"]).start(&box_.path("home"));
    wait_until("staged bytes", Duration::from_secs(60), || {
        debris(&box_.path("a"))
            .iter()
            .any(|p| std::fs::metadata(box_.path("a").join(p)).is_ok_and(|m| m.len() > 0))
    });
    std::thread::sleep(Duration::from_secs(2));
    kill_all(&run);
    run.wait(Duration::from_secs(10));
    random_file(&path, 64 * MIB, 999);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    box_.run(&["a"]).run().expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(debris(&box_.path("a")).is_empty());
}

#[test]
fn two_runs_on_one_target_are_refused() {
    let box_ = Sandbox::new();
    big_source(&box_, 64);
    let run = box_.run(&["a"]).args(["--bandwidth", "8MiB"]).start(&box_.path("home"));
    wait_until("staged bytes", Duration::from_secs(60), || !debris(&box_.path("a")).is_empty());
    let second = box_.run(&["a"]).run();
    assert_eq!(second.code, Some(1), "{}", second.all());
    assert!(second.all().contains("already") || second.all().contains("lock"), "{}", second.all());
    drop(run);
    assert!(children(std::process::id()).len() <= 1);
}

#[test]
fn a_real_chain_killed_at_many_moments_ends_whole() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 4);
    let laws = Laws::new().allow(&box_.source()).chain(4);
    for round in 0..12u64 {
        let run = box_.run(&["a"]).args(["--bandwidth", "4MiB"]).start(&box_.path("home"));
        std::thread::sleep(Duration::from_millis(60 + 110 * round));
        kill_all(&run);
        run.wait(Duration::from_secs(10));
        laws.hold(&box_.path("a"));
    }
    box_.run(&["a"]).run().expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(debris(&box_.path("a")).is_empty());
}
