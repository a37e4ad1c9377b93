//! The main job on every backend: the same scenarios, on a real server each, judged by what lies there afterwards.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use offsite_tests::backends::{
    Backend, Cloud, Folder, Ftp, Ftps, FtpsMlsd, S3, Sftp, Smb, WebDav, long_name,
};
use offsite_tests::law::Laws;
use offsite_tests::program::{Ran, kill_all, wait_until};
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, debris, files, random_file, tree};

/// One test per backend and scenario, named `backend::scenario`.
macro_rules! on {
    ($module:ident: $backend:ty; $scenarios:tt) => { on!(@module $module $backend; $scenarios); };
    ($module:ident: $backend:ty, $($more:ident: $backends:ty),+; $scenarios:tt) => {
        on!(@module $module $backend; $scenarios);
        on!($($more: $backends),+; $scenarios);
    };
    (@module $module:ident $backend:ty; [$($scenario:ident),* $(,)?]) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                super::$scenario::<$backend>();
            })*
        }
    };
}

on!(folder: super::Folder, sftp: super::Sftp, s3: super::S3, webdav: super::WebDav,
    ftp: super::Ftp, ftps: super::Ftps, ftps_mlsd: super::FtpsMlsd; [
    first_run_arrives_whole_and_restorable,
    a_run_without_changes_sends_nothing_and_a_new_incremental_only_itself,
    a_replaced_image_is_replaced_whole,
    a_rewritten_set_is_replaced_together,
    consolidated_at_the_source_replaces_the_last_and_deletes_the_absorbed,
    sync_deletes_what_was_absent_in_two_scans,
    consolidated_on_the_target_receives_only_the_next,
    awkward_names_arrive_byte_for_byte,
    odd_sizes_parts_and_side_cars_arrive,
    two_thousand_small_files_arrive_and_are_not_sent_again,
    killed_in_mid_file_resumes_and_leaves_no_debris,
    lost_catalog_and_manifest_cost_no_byte,
    check_proves_every_operation_and_cleans_up,
]);

// Shares refuse what Windows refuses: the awkward names of the scenario are among it.
on!(smb: super::Smb; [
    first_run_arrives_whole_and_restorable,
    a_run_without_changes_sends_nothing_and_a_new_incremental_only_itself,
    a_replaced_image_is_replaced_whole,
    a_rewritten_set_is_replaced_together,
    consolidated_at_the_source_replaces_the_last_and_deletes_the_absorbed,
    sync_deletes_what_was_absent_in_two_scans,
    consolidated_on_the_target_receives_only_the_next,
    odd_sizes_parts_and_side_cars_arrive,
    two_thousand_small_files_arrive_and_are_not_sent_again,
    killed_in_mid_file_resumes_and_leaves_no_debris,
    lost_catalog_and_manifest_cost_no_byte,
    check_proves_every_operation_and_cleans_up,
]);

// Nextcloud refuses backslashes and the longest names, as its plugin declares.
on!(cloud: super::Cloud; [
    first_run_arrives_whole_and_restorable,
    a_replaced_image_is_replaced_whole,
    sync_deletes_what_was_absent_in_two_scans,
    odd_sizes_parts_and_side_cars_arrive,
    two_thousand_small_files_arrive_and_are_not_sent_again,
    killed_in_mid_file_resumes_and_leaves_no_debris,
    lost_catalog_and_manifest_cost_no_byte,
    check_proves_every_operation_and_cleans_up,
]);

fn sent(ran: &Ran) -> u64 {
    ran.events().iter().filter(|e| e["event"] == "finished").filter_map(|e| e["sent_bytes"].as_u64()).sum()
}

fn published(ran: &Ran) -> Vec<String> {
    let events = ran.events();
    let images = events.iter().filter(|e| e["event"] == "published").filter_map(|e| e["image"].as_str());
    let mut images: Vec<String> = images.map(str::to_owned).collect();
    images.sort();
    images
}

/// Source and target hold the same, and nothing is left of how it came there.
#[track_caller]
fn same(box_: &Sandbox, backend: &impl Backend) {
    let (there, left) = backend.look(|dir| (tree(dir), debris(dir)));
    assert_eq!(tree(&box_.source()), there);
    assert_eq!((left, backend.unfinished()), (Vec::<PathBuf>::new(), 0), "debris");
}

fn chain<B: Backend>(images: u8) -> (Sandbox, B) {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), images);
    (box_, B::start())
}

fn first_run_arrives_whole_and_restorable<B: Backend>() {
    let (box_, backend) = chain::<B>(3);
    let before = tree(&box_.source());
    let ran = backend.reach().run(&box_).run().expect(0);
    assert_eq!(published(&ran), ["base.qcow2", "inc1.qcow2", "inc2.qcow2", "inc3.qcow2"]);
    same(&box_, &backend);
    let there = backend.look(|dir| qemu::content(dir, "inc3.qcow2"));
    assert_eq!(there, qemu::content(&box_.source(), "inc3.qcow2"));
    assert_eq!(before, tree(&box_.source()), "the source is only ever read");
}

fn a_run_without_changes_sends_nothing_and_a_new_incremental_only_itself<B: Backend>() {
    let (box_, backend) = chain::<B>(2);
    let reach = backend.reach();
    reach.run(&box_).run().expect(0);
    let again = reach.run(&box_).run().expect(0);
    assert_eq!((sent(&again), published(&again).len()), (0, 0), "{}", again.all());
    qemu::extend(&box_.source(), 3);
    let third = reach.run(&box_).run().expect(0);
    assert_eq!(published(&third), ["inc3.qcow2"]);
    assert_eq!(sent(&third), fs::metadata(box_.source().join("inc3.qcow2")).unwrap().len());
    same(&box_, &backend);
}

fn a_replaced_image_is_replaced_whole<B: Backend>() {
    let (box_, backend) = chain::<B>(2);
    let reach = backend.reach();
    reach.run(&box_).run().expect(0);
    qemu::write(&box_.source(), "inc2.qcow2", 9 << 20, 1 << 20, 99);
    let ran = reach.run(&box_).run().expect(0);
    assert_eq!(published(&ran), ["inc2.qcow2"]);
    same(&box_, &backend);
}

fn a_rewritten_set_is_replaced_together<B: Backend>() {
    let (box_, backend) = chain::<B>(2);
    let reach = backend.reach();
    reach.run(&box_).run().expect(0);
    fs::remove_file(box_.source().join("base.qcow2")).unwrap();
    qemu::base(&box_.source(), "base.qcow2", 16, 4, 77);
    qemu::write(&box_.source(), "inc1.qcow2", 9 << 20, 1 << 20, 78);
    reach.run(&box_).run().expect(0);
    same(&box_, &backend);
}

fn consolidated_at_the_source_replaces_the_last_and_deletes_the_absorbed<B: Backend>() {
    let (box_, backend) = chain::<B>(3);
    let reach = backend.reach();
    reach.run(&box_).args(["--sync"]).run().expect(0);
    qemu::consolidate(&box_.source(), 3);
    reach.run(&box_).args(["--sync"]).run();
    reach.run(&box_).args(["--sync", "--allow-deletes"]).run().expect(0);
    same(&box_, &backend);
    let there = backend.look(|dir| qemu::content(dir, "inc3.qcow2"));
    assert_eq!(there, qemu::content(&box_.source(), "inc3.qcow2"));
}

fn sync_deletes_what_was_absent_in_two_scans<B: Backend>() {
    let (box_, backend) = chain::<B>(4);
    let reach = backend.reach();
    reach.run(&box_).args(["--sync"]).run().expect(0);
    fs::remove_file(box_.source().join("inc4.qcow2")).unwrap();
    reach.run(&box_).args(["--sync"]).run();
    assert!(backend.look(|dir| dir.join("inc4.qcow2").exists()), "absent in one scan only");
    reach.run(&box_).args(["--sync"]).run().expect(0);
    same(&box_, &backend);
}

/// The product's own example: the target merged 1 to 3 into 3; then 4 is created; only 4 is copied.
fn consolidated_on_the_target_receives_only_the_next<B: Backend>() {
    let (box_, backend) = chain::<B>(3);
    let reach = backend.reach();
    reach.run(&box_).run().expect(0);
    backend.change(|dir| qemu::consolidate(dir, 3));
    let merged = backend.look(tree);
    qemu::extend(&box_.source(), 4);
    let ran = reach.run(&box_).run().expect(0);
    assert_eq!(published(&ran), ["inc4.qcow2"], "{}", ran.stdout);
    let (after, content) = backend.look(|dir| (tree(dir), qemu::content(dir, "inc4.qcow2")));
    assert_eq!(after.len(), merged.len() + 1);
    assert!(merged.iter().all(|(path, hash)| after.get(path) == Some(hash)), "the merged image was touched");
    assert_eq!(content, qemu::content(&box_.source(), "inc4.qcow2"));
    assert_eq!(published(&reach.run(&box_).run().expect(0)).len(), 0);
}

fn awkward_names_arrive_byte_for_byte<B: Backend>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    let folders =
        ["plain", "Wöchentlich #1 100% ?", ".hidden/..more", "a+b&c=d;e,f", "日本語 \"x\" <y> 'z'", "tail. "];
    for (n, folder) in folders.iter().enumerate() {
        let dir = box_.source().join(folder);
        fs::create_dir_all(&dir).unwrap();
        let long = [long_name("", "-b000.spf", 255), long_name(".e\u{301}", "-b000.spf", 254)];
        let names =
            ["a b#c%41?-b000.spf", "x+y&z=1;%2F@~!$-b000.spf", "..-b000.spf", "back\\slash *|:-b000.spf"];
        for (i, name) in names.iter().copied().chain(long.iter().map(String::as_str)).enumerate() {
            random_file(&dir.join(name), 100 + i as u64, (n * 10 + i) as u64);
        }
    }
    let reach = backend.reach();
    reach.run(&box_).run().expect(0);
    same(&box_, &backend);
    let again = reach.run(&box_).run().expect(0);
    assert_eq!((sent(&again), published(&again).len()), (0, 0), "{}", again.all());
}

fn odd_sizes_parts_and_side_cars_arrive<B: Backend>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    let sizes = [1, 4095, 4096, 65_537, (1 << 20) - 1, (5 << 20) + 3, (16 << 20) + 1];
    for (i, size) in sizes.into_iter().enumerate() {
        random_file(&box_.source().join(format!("s{i}-b000.spf")), size, i as u64 + 1);
    }
    let increment =
        ["disk-b000-i001.spi", "disk-b000-i001.md5", "disk-b000.spf", "disk-b000.sp1", "disk-b000.md5"];
    for (i, name) in increment.iter().enumerate() {
        random_file(&box_.source().join(name), 3000 + i as u64, 40 + i as u64);
    }
    random_file(&box_.source().join("host@C_20260101_d00_00001.aiv"), 65_537, 50);
    random_file(&box_.source().join("host@C_20260101_d00_00001_i00001.aii"), 1, 51);
    // An empty file is no image, but may be anything else.
    random_file(&box_.source().join("empty.txt"), 0, 52);
    let reach = backend.reach();
    reach.run(&box_).args(["--include-other"]).run().expect(0);
    same(&box_, &backend);
    random_file(&box_.source().join("disk-b000-i001.md5"), 32, 60);
    reach.run(&box_).args(["--include-other"]).run().expect(0);
    same(&box_, &backend);
}

fn two_thousand_small_files_arrive_and_are_not_sent_again<B: Backend>() {
    let box_ = Sandbox::new();
    let backend = B::start();
    for set in 0..50 {
        let dir = box_.source().join(format!("set{set:03}"));
        fs::create_dir(&dir).unwrap();
        random_file(&dir.join("disk-b000.spf"), 2000, set * 100);
        for n in 1..40 {
            random_file(&dir.join(format!("disk-b000-i{n:03}.spi")), 500 + n, set * 100 + n);
        }
    }
    let reach = backend.reach();
    let first = reach.run(&box_).run().expect(0);
    assert_eq!(published(&first).len(), 2000);
    same(&box_, &backend);
    assert_eq!(sent(&reach.run(&box_).run().expect(0)), 0);
}

/// Killed by SIGKILL, all of it, in the middle of a file.
fn killed_in_mid_file_resumes_and_leaves_no_debris<B: Backend>() {
    const MIB: u64 = 1 << 20;
    let box_ = Sandbox::new();
    let backend = B::start();
    random_file(&box_.source().join("disk-b000.spf"), 64 * MIB, 5);
    random_file(&box_.source().join("disk-b000-i001.spi"), MIB + 17, 6);
    let laws = Laws::new().allow(&box_.source()).parent("disk-b000-i001.spi", "disk-b000.spf");
    let reach = backend.reach();
    let run = reach.run(&box_).args(["--bandwidth", "20MiB", "--streams", "2"]).start(&box_.path("home"));
    // Parts of 16 MiB are acknowledged as wholes, two at once.
    wait_until("a third of it is sent", Duration::from_secs(60), || progress(&run.stdout()) > 20 * MIB);
    kill_all(&run);
    run.wait(Duration::from_secs(10));
    backend.look(|dir| laws.hold(dir));
    assert_eq!(backend.look(tree).len(), 0, "killed too late to show anything");
    reach.run(&box_).run().expect(0);
    same(&box_, &backend);
}

/// What the last progress event says was done.
fn progress(stdout: &str) -> u64 {
    let events = stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    events
        .filter(|e| e["event"] == "progress")
        .filter_map(|e| e["done_bytes"].as_u64())
        .next_back()
        .unwrap_or(0)
}

fn lose_catalog(box_: &Sandbox) {
    fs::remove_dir_all(box_.path("state")).unwrap();
    fs::create_dir(box_.path("state")).unwrap();
}

fn lose_manifest(target: &Path) {
    fs::remove_dir_all(target.join("offsite-manifest")).unwrap();
}

fn lost_catalog_and_manifest_cost_no_byte<B: Backend>() {
    let (box_, backend) = chain::<B>(3);
    let reach = backend.reach();
    let resent = || sent(&reach.run(&box_).run().expect(0));
    resent();
    lose_catalog(&box_);
    assert_eq!(resent(), 0, "catalog lost");
    same(&box_, &backend);
    backend.change(lose_manifest);
    assert_eq!(resent(), 0, "manifest lost");
    assert!(backend.look(|dir| dir.join("offsite-manifest").is_dir()), "the manifest is written again");
    lose_catalog(&box_);
    backend.change(lose_manifest);
    assert_eq!(resent(), 0, "both lost");
    same(&box_, &backend);
    // With no record left, a file that is there is believed only after it was read back.
    lose_catalog(&box_);
    backend.change(|dir| {
        lose_manifest(dir);
        let mut bytes = fs::read(dir.join("inc1.qcow2")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(dir.join("inc1.qcow2"), bytes).unwrap();
    });
    assert!(resent() > 0, "a damaged image must be sent again");
    same(&box_, &backend);
}

fn check_proves_every_operation_and_cleans_up<B: Backend>() {
    let (box_, backend) = chain::<B>(1);
    let before = backend.look(files);
    let report = backend.reach().check(&box_).run().expect(0);
    for step in ["reach", "list", "write", "read", "delete"] {
        assert!(report.stdout.contains(step), "no step '{step}' in {}", report.stdout);
    }
    assert_eq!(backend.look(files), before, "the check left something");
    assert_eq!(backend.unfinished(), 0);
}
