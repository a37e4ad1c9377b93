//! The main job on folder targets, end to end: what a user sees and what lies on the targets afterwards.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::path::Path;

use offsite_tests::law::Laws;
use offsite_tests::program::Ran;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, debris, own_files, random_file, tree};

/// Bytes that a run says it sent, over all targets.
fn sent(ran: &Ran) -> u64 {
    ran.events().iter().filter(|e| e["event"] == "finished").filter_map(|e| e["sent_bytes"].as_u64()).sum()
}

fn published(ran: &Ran) -> Vec<String> {
    let mut images: Vec<String> = ran
        .events()
        .iter()
        .filter(|e| e["event"] == "published")
        .map(|e| e["image"].as_str().expect("an image").to_owned())
        .collect();
    images.sort();
    images
}

#[track_caller]
fn same(box_: &Sandbox, target: &str) {
    assert_eq!(tree(&box_.source()), tree(&box_.path(target)), "target {target}");
    assert_eq!(debris(&box_.path(target)), Vec::<std::path::PathBuf>::new(), "target {target}");
}

#[test]
fn first_run_copies_a_real_chain_to_three_folders_and_it_is_restorable() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    let before = tree(&box_.source());
    let ran = box_.run(&["a", "b", "c"]).run().expect(0);
    for target in ["a", "b", "c"] {
        same(&box_, target);
        for image in ["base.qcow2", "inc1.qcow2", "inc3.qcow2"] {
            assert_eq!(
                qemu::content(&box_.path(target), image),
                qemu::content(&box_.source(), image),
                "{image} on {target}"
            );
        }
        let chains = box_
            .offsite()
            .args(["chains", "--source", &box_.text("source"), "--to", &box_.text(target)])
            .run();
        assert_eq!(chains.code, Some(0), "{}", chains.all());
    }
    assert_eq!(before, tree(&box_.source()), "the source is only ever read");
    assert_eq!(published(&ran).len(), 12);
}

#[test]
fn a_run_without_changes_sends_nothing_and_a_new_incremental_sends_only_itself() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).run().expect(0);
    let again = box_.run(&["a"]).run().expect(0);
    assert_eq!((sent(&again), published(&again).len()), (0, 0));
    qemu::extend(&box_.source(), 3);
    let third = box_.run(&["a"]).run().expect(0);
    assert_eq!(published(&third), ["inc3.qcow2"]);
    assert_eq!(sent(&third), fs::metadata(box_.source().join("inc3.qcow2")).unwrap().len());
    same(&box_, "a");
}

#[test]
fn a_replaced_image_is_replaced_whole() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).run().expect(0);
    qemu::write(&box_.source(), "inc2.qcow2", 9 << 20, 1 << 20, 99);
    let ran = box_.run(&["a"]).run().expect(0);
    assert_eq!(published(&ran), ["inc2.qcow2"]);
    same(&box_, "a");
}

#[test]
fn a_rewritten_base_is_published_with_its_set_in_one_go() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).run().expect(0);
    fs::remove_file(box_.source().join("base.qcow2")).unwrap();
    qemu::base(&box_.source(), "base.qcow2", 16, 4, 77);
    qemu::write(&box_.source(), "inc1.qcow2", 9 << 20, 1 << 20, 78);
    box_.run(&["a"]).run().expect(0);
    same(&box_, "a");
}

#[test]
fn sync_deletes_what_is_gone_only_after_it_was_absent_in_two_scans() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 4);
    box_.run(&["a"]).args(["--sync"]).run().expect(0);
    fs::remove_file(box_.source().join("inc4.qcow2")).unwrap();
    // The first scan that misses it only remembers; with a settle time of 0 the second may follow at once.
    box_.run(&["a"]).args(["--sync"]).run();
    assert!(box_.path("a").join("inc4.qcow2").exists(), "absent in one scan only");
    box_.run(&["a"]).args(["--sync"]).run().expect(0);
    same(&box_, "a");
}

#[test]
fn sync_never_deletes_above_the_limit_without_leave() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 4);
    box_.run(&["a"]).args(["--sync"]).run().expect(0);
    for n in 2..=4 {
        fs::remove_file(box_.source().join(format!("inc{n}.qcow2"))).unwrap();
    }
    box_.run(&["a"]).args(["--sync"]).run();
    let refused = box_.run(&["a"]).args(["--sync"]).run().expect(3);
    assert!(refused.all().contains("allow-deletes"), "{}", refused.all());
    assert!(box_.path("a").join("inc4.qcow2").exists() && box_.path("a").join("inc2.qcow2").exists());
    box_.run(&["a"]).args(["--sync", "--allow-deletes"]).run().expect(0);
    same(&box_, "a");
}

#[test]
fn an_empty_source_never_wipes_a_target() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).args(["--sync"]).run().expect(0);
    let held = tree(&box_.path("a"));
    for entry in fs::read_dir(box_.source()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for _ in 0..3 {
        let ran = box_.run(&["a"]).args(["--sync", "--allow-deletes"]).run();
        assert_ne!(ran.code, Some(0), "{}", ran.all());
        assert_eq!(tree(&box_.path("a")), held);
    }
}

#[test]
fn sync_with_filter_or_policy_is_refused() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    let ran = box_.run(&["a"]).args(["--sync", "--policy", "new-images"]).run().expect(2);
    assert!(ran.stderr.contains("sync"), "{}", ran.stderr);
    assert!(own_files(&box_.path("a")).is_empty());
}

#[test]
fn consolidated_at_the_source_replaces_the_last_then_deletes_what_it_absorbed() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    box_.run(&["a"]).args(["--sync"]).run().expect(0);
    qemu::consolidate(&box_.source(), 3);
    box_.run(&["a"]).args(["--sync"]).run();
    box_.run(&["a"]).args(["--sync", "--allow-deletes"]).run().expect(0);
    same(&box_, "a");
    assert_eq!(qemu::content(&box_.path("a"), "inc3.qcow2"), qemu::content(&box_.source(), "inc3.qcow2"));
}

/// The product's own example: the target merged 1 to 3 into 3; then 4 is created; only 4 is copied.
#[test]
fn consolidated_on_the_target_receives_only_the_next_incremental() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    box_.run(&["a"]).run().expect(0);
    qemu::consolidate(&box_.path("a"), 3);
    let merged = tree(&box_.path("a"));
    qemu::extend(&box_.source(), 4);
    let ran = box_.run(&["a"]).run().expect(0);
    assert_eq!(published(&ran), ["inc4.qcow2"], "{}", ran.stdout);
    let after = tree(&box_.path("a"));
    assert_eq!(after.len(), merged.len() + 1);
    assert!(merged.iter().all(|(path, hash)| after.get(path) == Some(hash)), "the merged image was touched");
    assert_eq!(qemu::content(&box_.path("a"), "inc4.qcow2"), qemu::content(&box_.source(), "inc4.qcow2"));
    let again = box_.run(&["a"]).run().expect(0);
    assert_eq!(published(&again).len(), 0);
}

#[test]
fn awkward_names_sizes_parts_and_side_cars_arrive_byte_for_byte() {
    let box_ = Sandbox::new();
    let dir = box_.source().join("Wöchentlich #1 100% ?").join(".hidden");
    fs::create_dir_all(&dir).unwrap();
    let long = format!("{}-b000.spf", "ü".repeat(115));
    for (i, name) in [
        "日本語 disk-b000.spf",
        "日本語 disk-b000-i001.spi",
        "日本語 disk-b000-i001.md5",
        "a b#c%41?-b000.spf",
        &long,
    ]
    .iter()
    .enumerate()
    {
        random_file(&dir.join(name), 1 + 4093 * i as u64, i as u64 + 1);
    }
    random_file(&dir.join("host@C_20260101_d00_00001.aiv"), 65_537, 50);
    random_file(&dir.join("host@C_20260101_d00_00001_i00001.aii"), 1, 51);
    qemu::chain(&box_.source(), 1);
    box_.run(&["a"]).run().expect(0);
    same(&box_, "a");
}

#[test]
fn two_thousand_small_files_arrive_and_a_second_run_sends_none() {
    let box_ = Sandbox::new();
    for set in 0..200 {
        let dir = box_.source().join(format!("set{set:03}"));
        fs::create_dir(&dir).unwrap();
        random_file(&dir.join("disk-b000.spf"), 2000, set * 10);
        for n in 1..10 {
            random_file(&dir.join(format!("disk-b000-i{n:03}.spi")), 500 + n, set * 10 + n);
        }
    }
    box_.run(&["a"]).run().expect(0);
    same(&box_, "a");
    assert_eq!(sent(&box_.run(&["a"]).run().expect(0)), 0);
}

fn lose_catalog(box_: &Sandbox) {
    fs::remove_dir_all(box_.path("state")).unwrap();
    fs::create_dir(box_.path("state")).unwrap();
}

fn lose_manifest(target: &Path) {
    fs::remove_dir_all(target.join("offsite-manifest")).unwrap();
}

#[test]
fn a_lost_catalog_a_lost_manifest_and_both_cost_no_byte_sent_again() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    box_.run(&["a"]).run().expect(0);
    assert!(box_.path("a").join("offsite-manifest").is_dir());

    lose_catalog(&box_);
    assert_eq!(sent(&box_.run(&["a"]).run().expect(0)), 0, "catalog lost");
    same(&box_, "a");

    lose_manifest(&box_.path("a"));
    assert_eq!(sent(&box_.run(&["a"]).run().expect(0)), 0, "manifest lost");
    assert!(box_.path("a").join("offsite-manifest").is_dir(), "the manifest is written again");

    lose_catalog(&box_);
    lose_manifest(&box_.path("a"));
    assert_eq!(sent(&box_.run(&["a"]).run().expect(0)), 0, "both lost");
    same(&box_, "a");
}

/// With no record left, a file that is there is believed only after it was read back.
#[test]
fn with_everything_lost_a_damaged_file_is_found_and_sent_again() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).run().expect(0);
    lose_catalog(&box_);
    lose_manifest(&box_.path("a"));
    let path = box_.path("a").join("inc1.qcow2");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    box_.run(&["a"]).run().expect(0);
    same(&box_, "a");
}

#[test]
fn a_filter_leaves_incrementals_out_and_says_why() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).args(["--kind", "base"]).run().expect(0);
    assert_eq!(tree(&box_.path("a")).len(), 1);
    let plan = box_
        .offsite()
        .args(["plan", "--json", "--settle", "0", "--kind", "base", "--source", &box_.text("source")])
        .args(["--to", &box_.text("a")])
        .run()
        .expect(0)
        .json();
    let steps = plan["jobs"][0]["targets"][0]["steps"].as_array().expect("steps").clone();
    assert_eq!(plan["version"], 1);
    assert!(
        steps.iter().any(|s| s["image"] == "inc1.qcow2" && s["action"] == "skip" && s["code"] == "filtered")
    );
}

#[test]
fn a_sub_folder_is_found_again_and_nothing_is_copied_beside_it() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    box_.run(&["a"]).args(["--subfolder", "{job}-{date}"]).run().expect(0);
    let held = tree(&box_.path("a"));
    let folders = |image: &str| {
        held.keys().filter(|p| p.ends_with(image)).map(|p| p.parent().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((held.len(), folders("base.qcow2").len()), (3, 1));
    assert_ne!(folders("base.qcow2"), [Path::new("")], "in a sub-folder");
    let again = box_.run(&["a"]).args(["--subfolder", "{job}-{date}"]).run().expect(0);
    assert_eq!((sent(&again), published(&again).len()), (0, 0), "{}", again.all());
    assert_eq!(tree(&box_.path("a")), held);
    // Its next incremental goes where the set is, and so does what is known only from the manifest.
    lose_catalog(&box_);
    qemu::extend(&box_.source(), 3);
    let third = box_.run(&["a"]).args(["--subfolder", "{job}-{date}"]).run().expect(0);
    assert_eq!(published(&third), ["inc3.qcow2"], "{}", third.all());
    assert!(box_.path("a").join(&folders("base.qcow2")[0]).join("inc3.qcow2").exists());
}

#[test]
fn plan_changes_nothing_anywhere() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    let plan = box_
        .offsite()
        .args(["plan", "--json", "--settle", "0", "--source", &box_.text("source"), "--to", &box_.text("a")])
        .run()
        .expect(0)
        .json();
    let steps = plan["jobs"][0]["targets"][0]["steps"].as_array().expect("steps").clone();
    let copies: Vec<_> = steps.iter().filter(|s| s["action"] == "copy").map(|s| s["image"].clone()).collect();
    assert_eq!(copies, ["base.qcow2", "inc1.qcow2", "inc2.qcow2"]);
    assert!(steps.iter().all(|s| s["reason"].as_str().is_some_and(|r| !r.is_empty())));
    assert_eq!(fs::read_dir(box_.path("a")).unwrap().count(), 0);
}

#[test]
fn a_missing_marker_where_the_catalog_knows_the_target_is_refused() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    box_.run(&["a"]).run().expect(0);
    // The share is not mounted: what is there is another, empty folder.
    fs::rename(box_.path("a"), box_.path("elsewhere")).unwrap();
    fs::create_dir(box_.path("a")).unwrap();
    let ran = box_.run(&["a"]).run().expect(1);
    assert!(ran.all().contains("mount"), "{}", ran.all());
    assert_eq!(fs::read_dir(box_.path("a")).unwrap().count(), 0, "nothing is written into the empty folder");
}

#[test]
fn a_target_claimed_by_another_installation_is_refused_until_taken_over() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    box_.run(&["a"]).run().expect(0);
    let marker = box_.path("a").join("offsite-target");
    let text = fs::read_to_string(&marker).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["installation"] = "ffffffffffffffff".into();
    fs::write(&marker, value.to_string()).unwrap();
    let ran = box_.run(&["a"]).run().expect(1);
    assert!(ran.all().contains("take-over"), "{}", ran.all());
    box_.offsite()
        .args(["target", "take-over", "--source", &box_.text("source"), "--to", &box_.text("a")])
        .run()
        .expect(0);
    box_.run(&["a"]).run().expect(0);
}

#[test]
fn a_second_state_directory_is_a_second_writer_until_it_takes_over() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    box_.run(&["a"]).run().expect(0);
    let held = tree(&box_.path("a"));
    // Another user of this machine: same installation, same job, another catalog and another lock.
    fs::rename(box_.path("state"), box_.path("first")).unwrap();
    fs::create_dir(box_.path("second")).unwrap();
    std::os::unix::fs::symlink(box_.path("second"), box_.path("state")).unwrap();
    qemu::extend(&box_.source(), 2);
    let refused = box_.run(&["a"]).run().expect(1);
    assert!(refused.all().contains("state directory"), "{}", refused.all());
    assert_eq!(tree(&box_.path("a")), held);
    let arguments = ["target", "take-over", "--source", &box_.text("source"), "--to", &box_.text("a")];
    box_.offsite().args(arguments).run().expect(0);
    let ran = box_.run(&["a"]).run().expect(0);
    assert_eq!(published(&ran), ["inc2.qcow2"], "what is there is adopted");
}

#[test]
fn targets_inside_around_or_equal_to_the_source_are_refused() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    fs::create_dir(box_.source().join("inner")).unwrap();
    std::os::unix::fs::symlink(box_.source(), box_.path("alias")).unwrap();
    for target in ["source", "source/inner", "alias", "alias/inner", ""] {
        let ran = box_.run(&[target]).run().expect(2);
        assert!(ran.all().contains("source"), "{target}: {}", ran.all());
    }
    let twice = box_.run(&["a", "a"]).run().expect(2);
    assert!(twice.all().contains("same place"), "{}", twice.all());
    let four = box_.run(&["a", "b", "c", "home"]).run().expect(2);
    assert!(four.all().contains("second job"), "{}", four.all());
    assert_eq!(tree(&box_.source()).len(), 2);
}

#[test]
fn every_instant_of_a_first_run_and_a_replacing_run_keeps_the_laws() {
    use offsite_tests::fuse::Mirror;
    use std::sync::{Arc, Mutex};
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    let laws = Laws::new().allow(&box_.source()).chain(3);
    fs::create_dir(box_.path("mount")).unwrap();
    let broken = Arc::new(Mutex::new(Vec::new()));
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("mount"));
    let watch = |laws: Laws| {
        let (broken, backing) = (broken.clone(), box_.path("a"));
        mirror.watch(move |operation, path| {
            let mut found = laws.broken(&backing);
            if !found.is_empty() {
                found.insert(0, format!("after {operation} {}", path.display()));
                broken.lock().unwrap().extend(found);
            }
        });
    };
    watch(laws.clone());
    box_.run(&["mount"]).run().expect(0);
    assert_eq!(*broken.lock().unwrap(), Vec::<String>::new());
    qemu::write(&box_.source(), "inc2.qcow2", 9 << 20, 1 << 20, 42);
    watch(laws.allow(&box_.source()));
    box_.run(&["mount"]).run().expect(0);
    assert_eq!(*broken.lock().unwrap(), Vec::<String>::new());
    same(&box_, "a");
}

/// A share that another user mounted refuses to set times, a gateway tells no sizes, an old one syncs no directories.
#[test]
fn a_file_system_that_lacks_much_still_gets_its_images_and_the_check_says_what_it_lacks() {
    use offsite_tests::fuse::{Mirror, Mode};
    let box_ = Sandbox::new();
    fs::create_dir(box_.path("mount")).unwrap();
    let mirror = Mirror::mount(&box_.path("a"), &box_.path("mount"));
    mirror.set(Mode::Poor);
    fs::create_dir(box_.source().join("set")).unwrap();
    random_file(&box_.source().join("set/disk-b000.spf"), 9 << 20, 1);
    random_file(&box_.source().join("set/disk-b000-i001.spi"), 100_000, 2);
    let ran = box_.run(&["mount"]).run().expect(0);
    assert_eq!(published(&ran).len(), 2);
    same(&box_, "a");
    assert_eq!(sent(&box_.run(&["mount"]).run().expect(0)), 0);
    let check = box_
        .offsite()
        .args(["check", "--source", &box_.text("source"), "--to", &box_.text("mount")])
        .run()
        .expect(0);
    assert!(check.stdout.contains("cannot set the time"), "{}", check.all());
}
