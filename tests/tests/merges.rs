//! What a backup product merges at the source, and what only looks like it: real runs on a folder.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

fn aip(n: u64) -> String {
    match n {
        0 => "srv@C_20240101_d01_00001.aiv".into(),
        n => format!("srv@C_20240101_d01_00001_i{n:05}.aii"),
    }
}

/// A closed format's file: the same first bytes in all of them.
fn image(path: &Path, size: u64, seed: u64) {
    random_file(path, size, seed);
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.write_all(b"ACME-IMAGE-00001").unwrap();
}

fn chain(box_: &Sandbox, last: u64) {
    for n in 0..=last {
        image(&box_.source().join(aip(n)), 40_000 + 10 * n, n + 1);
    }
}

fn sync(box_: &Sandbox) -> offsite_tests::program::Ran {
    box_.run(&["a"]).args(["--sync"]).run().expect(0)
}

fn remove(box_: &Sandbox, numbers: &[u64]) {
    for n in numbers {
        fs::remove_file(box_.source().join(aip(*n))).unwrap();
    }
}

fn held(box_: &Sandbox, n: u64) -> bool {
    box_.path("a").join(aip(n)).exists()
}

fn notices(ran: &offsite_tests::program::Ran, code: &str) -> Vec<String> {
    let notices = ran.events().into_iter().filter(|e| e["event"] == "notice" && e["code"] == code);
    notices.map(|e| e["text"].as_str().unwrap_or_default().to_owned()).collect()
}

fn chains(box_: &Sandbox) -> String {
    let args =
        ["chains", "--source", &box_.text("source"), "--to", &box_.text("a"), "--target", &box_.text("a")];
    box_.offsite().args(args).run().expect(0).stdout
}

/// Where a run looked in between, nothing is taken for merged at all; where none did, the transfer finds that it is none.
#[test]
fn a_touch_beside_two_removed_images_deletes_nothing() {
    for seen in [true, false] {
        let box_ = Sandbox::new();
        chain(&box_, 8);
        sync(&box_);
        remove(&box_, &[1, 2]);
        if seen {
            sync(&box_);
            sync(&box_);
        }
        let file = fs::File::options().write(true).open(box_.source().join(aip(3))).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        drop(file);
        let ran = sync(&box_);
        let told = notices(&ran, "merge-cancelled");
        if seen {
            assert_eq!(told, [] as [String; 0], "{}", ran.stdout);
        } else {
            assert!(told.len() == 1 && told[0].contains("2 images below it"), "{}", ran.stdout);
        }
        for _ in 0..2 {
            assert!(held(&box_, 1) && held(&box_, 2));
            assert!(!chains(&box_).contains("holds"), "{}", chains(&box_));
            sync(&box_);
        }
    }
}

#[test]
fn four_consolidations_in_a_row_go_on_unattended() {
    let box_ = Sandbox::new();
    chain(&box_, 2);
    sync(&box_);
    for round in 1..=4 {
        let last = 2 * round;
        for n in [last + 1, last + 2] {
            image(&box_.source().join(aip(n)), 40_000 + n, 100 * n);
        }
        sync(&box_);
        let gone: Vec<u64> = (1..last).filter(|n| box_.source().join(aip(*n)).exists()).collect();
        remove(&box_, &gone);
        image(&box_.source().join(aip(last)), 90_000 + last, 1_000 * last);
        sync(&box_);
        let ran = sync(&box_);
        assert_eq!(tree(&box_.path("a")), tree(&box_.source()), "round {round}: {}", ran.stdout);
        assert!(chains(&box_).contains(&format!("holds 1 to {last}")), "{}", chains(&box_));
        assert!(!chains(&box_).contains("no:"), "{}", chains(&box_));
    }
    assert!(debris(&box_.path("a")).is_empty());
}

#[test]
fn what_nothing_proves_is_kept_until_it_is_accepted_and_only_as_it_was() {
    let box_ = Sandbox::new();
    chain(&box_, 4);
    sync(&box_);
    remove(&box_, &[1, 2]);
    // Rewritten into something that does not begin like these images do.
    random_file(&box_.source().join(aip(3)), 90_000, 77);
    for run in ["which finds it", "which knows it"] {
        let ran = sync(&box_);
        assert_eq!(notices(&ran, "changed-unproven").len(), 1, "the run {run}: {}", ran.stdout);
    }
    assert!(held(&box_, 1) && held(&box_, 2));
    let accept = || {
        let args = ["target", "accept", "--source", &box_.text("source"), "--to", &box_.text("a")];
        box_.offsite().args(args).run().expect(0)
    };
    assert!(accept().stdout.contains(&aip(3)));
    sync(&box_);
    assert!(!held(&box_, 1) && !held(&box_, 2));
    assert_eq!(tree(&box_.path("a")), tree(&box_.source()));
    assert!(!chains(&box_).contains("no:"), "{}", chains(&box_));
    sync(&box_);
}

#[test]
fn an_empty_image_is_told_not_sent_and_replaces_nothing() {
    let box_ = Sandbox::new();
    let zst = "vzdump-qemu-100-2024_01_02-03_04_05.vma.zst";
    let path = box_.source().join(zst);
    fs::write(&path, [3; 50_000]).unwrap();
    let ran = box_.run(&["a"]).run().expect(0);
    assert!(ran.stdout.contains("not-an-image"), "such bytes are no zstd: {}", ran.stdout);
    assert!(!box_.path("a").join(zst).exists());
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all(&[0x28, 0xB5, 0x2F, 0xFD]).unwrap();
    drop(file);
    box_.run(&["a"]).run().expect(0);
    let good = tree(&box_.path("a"));
    assert_eq!(good.len(), 1);
    fs::write(&path, b"").unwrap();
    let ran = box_.run(&["a"]).run().expect(0);
    assert!(ran.stdout.contains("not-an-image"), "{}", ran.stdout);
    assert_eq!(tree(&box_.path("a")), good);
    // On the target it is damage.
    let mut bytes = vec![0x28, 0xB5, 0x2F, 0xFD];
    bytes.extend([5; 4_000]);
    fs::write(&path, &bytes).unwrap();
    box_.run(&["a"]).run().expect(0);
    fs::write(box_.path("a").join(zst), b"").unwrap();
    assert!(chains(&box_).contains("no: "), "{}", chains(&box_));
    box_.run(&["a"]).run().expect(0);
    assert_eq!(fs::read(box_.path("a").join(zst)).unwrap(), bytes);
}
