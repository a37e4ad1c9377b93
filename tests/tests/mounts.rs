//! File systems mounted inside the source: one that is not there, or another one in its place, deletes nothing.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::os::unix::fs::MetadataExt;

use offsite_tests::fuse::Mirror;
use offsite_tests::mounts::{Disk, Mount};
use offsite_tests::program::Ran;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, random_file, tree};

fn sync(box_: &Sandbox) -> Ran {
    box_.run(&["a"]).args(["--name", "job", "--sync", "--allow-deletes"]).run()
}

fn notices(ran: &Ran, code: &str) -> Vec<String> {
    let events = ran.events().into_iter().filter(|e| e["event"] == "notice" && e["code"] == code);
    events
        .map(|e| format!("{} {}", e["level"].as_str().unwrap_or("?"), e["text"].as_str().unwrap()))
        .collect()
}

fn chain(dir: &std::path::Path, name: &str) {
    random_file(&dir.join(format!("{name}-b001.spf")), 40_000, 1);
    random_file(&dir.join(format!("{name}-b001-i001.spi")), 30_000, 2);
}

#[test]
fn a_disk_that_did_not_come_back_is_no_deletion_whatever_number_the_other_one_has() {
    let box_ = Sandbox::new();
    let (one, two) = (Disk::new(box_.path("one.img")), Disk::new(box_.path("two.img")));
    let (x, y) = (box_.source().join("x"), box_.source().join("y"));
    let mounts = (one.mount(&x), two.mount(&y));
    chain(&box_.source(), "root");
    chain(&x, "x");
    chain(&y, "y");
    sync(&box_).expect(0);
    let held = tree(&box_.path("a"));
    assert_eq!(held.len(), 6);
    let number = fs::metadata(&x).unwrap().dev();
    drop(mounts);
    let only = two.mount(&y);
    assert_eq!(
        fs::metadata(&y).unwrap().dev(),
        number,
        "the story needs the number to be given to the other disk"
    );
    for _ in 0..3 {
        let ran = sync(&box_).expect(0);
        assert_eq!(tree(&box_.path("a")), held, "{}", ran.all());
        let told = notices(&ran, "mount-missing");
        assert_eq!(told.len(), 1, "{}", ran.all());
        assert!(told[0].starts_with("warning at 'x'") && told[0].contains("2 files (68.4 KiB)"), "{told:?}");
        assert!(told[0].contains("offsite source accept x"), "{told:?}");
    }
    // With the memory lost, the records of the target still say where the files lay.
    for file in fs::read_dir(box_.path("state").join("job")).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("job.db") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    for _ in 0..3 {
        let ran = sync(&box_).expect(0);
        assert_eq!(tree(&box_.path("a")), held, "{}", ran.all());
        assert_eq!(notices(&ran, "mount-missing").len(), 1, "{}", ran.all());
    }
    // Mounted again, what is deleted there is deleted on the target.
    let again = one.mount(&x);
    fs::remove_file(x.join("x-b001-i001.spi")).unwrap();
    sync(&box_).expect(0);
    sync(&box_).expect(0);
    assert_eq!(tree(&box_.path("a")), tree(&box_.source()));
    drop((again, only));
}

#[test]
fn another_disk_is_told_until_it_is_accepted() {
    let box_ = Sandbox::new();
    let (one, two) = (Disk::new(box_.path("one.img")), Disk::new(box_.path("two.img")));
    let x = box_.source().join("x");
    let first = one.mount(&x);
    chain(&box_.source(), "root");
    chain(&x, "old");
    sync(&box_).expect(0);
    drop(first);
    let _second = two.mount(&x);
    chain(&x, "new");
    for _ in 0..3 {
        let ran = sync(&box_).expect(0);
        assert_eq!(notices(&ran, "mount-changed").len(), 1, "{}", ran.all());
        assert_eq!(
            tree(&box_.path("a")).len(),
            6,
            "what is new is copied, what is old is kept: {}",
            ran.all()
        );
    }
    let source = box_.text("source");
    // With all that the run's own line has.
    let accept =
        ["source", "accept", "x", "--source", &source, "--name", "job", "--to", &box_.text("a"), "--sync"];
    let accepted = box_.offsite().args(accept).args(["--settle", "0"]).run().expect(0);
    assert!(accepted.stdout.contains("2 files"), "{}", accepted.all());
    let ran = sync(&box_).expect(0);
    assert!(notices(&ran, "mount-changed").is_empty(), "{}", ran.all());
    assert_eq!(tree(&box_.path("a")).len(), 6, "an absence needs two scans");
    // Nothing there takes the old volume's place: its last images wait for the user.
    sync(&box_).expect(3);
    assert_eq!(tree(&box_.path("a")).len(), 6);
    let target = box_.text("a");
    let allow = ["target", "allow-deletes", "--all", "--source", &source, "--to", &target, "--name", "job"];
    box_.offsite().args(allow).run().expect(0);
    sync(&box_).expect(0);
    assert_eq!(tree(&box_.path("a")), tree(&box_.source()));
    let nowhere = ["source", "accept", "/", "--source", &source, "--name", "job"];
    box_.offsite().args(nowhere).run().expect(2);
}

#[test]
fn a_bind_mount_that_is_gone_is_no_deletion() {
    let box_ = Sandbox::new();
    fs::create_dir(box_.path("elsewhere")).unwrap();
    chain(&box_.path("elsewhere"), "far");
    chain(&box_.source(), "root");
    let bound = Mount::bind(&box_.path("elsewhere"), &box_.source().join("in"));
    sync(&box_).expect(0);
    let held = tree(&box_.path("a"));
    assert_eq!(held.len(), 4);
    drop(bound);
    for _ in 0..3 {
        let ran = sync(&box_).expect(0);
        assert_eq!(tree(&box_.path("a")), held, "{}", ran.all());
        assert_eq!(notices(&ran, "mount-missing").len(), 1, "{}", ran.all());
    }
}

#[test]
fn a_share_that_numbers_everything_anew_is_neither_read_nor_waited_for_again() {
    let box_ = Sandbox::new();
    fs::create_dir(box_.path("share")).unwrap();
    qemu::chain(&box_.source(), 3);
    let run = || {
        let command =
            box_.offsite().args(["run", "--source", &box_.text("share"), "--settle", "0", "--json"]);
        command.args(["--to", &box_.text("a"), "--sync"]).run().expect(0)
    };
    let mirror = Mirror::mount(&box_.source(), &box_.path("share"));
    run();
    drop(mirror);
    let held = tree(&box_.path("a"));
    for mount in 1..4 {
        let mirror = Mirror::mount(&box_.source(), &box_.path("share"));
        mirror.number_anew(mount);
        let ran = run();
        assert_eq!(mirror.bytes_read(), 0, "not even a header: {}", ran.all());
        assert_eq!(tree(&box_.path("a")), held);
    }
}
