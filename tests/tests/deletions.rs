//! What a mirror deletes by itself, and what waits for the user, with the real program on a folder.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::path::Path;

use offsite_tests::backends::{Backend, Smb};
use offsite_tests::program::Ran;
use offsite_tests::sandbox::{Sandbox, debris, own_files, random_file, tree};

fn sync(box_: &Sandbox) -> Ran {
    box_.run(&["a"]).args(["--sync"]).run()
}

fn remove(box_: &Sandbox, name: &str) {
    fs::remove_file(box_.source().join(name)).unwrap();
}

fn notices(ran: &Ran) -> Vec<String> {
    let notices = ran.events().into_iter().filter(|e| e["event"] == "notice");
    notices.map(|e| e["code"].as_str().unwrap().to_owned()).collect()
}

fn mirrored(box_: &Sandbox) {
    assert_eq!(tree(&box_.path("a")), tree(&box_.source()));
    assert_eq!(debris(&box_.path("a")), Vec::<std::path::PathBuf>::new());
}

/// `offsite target allow-deletes` for the sandbox's target.
fn allow(box_: &Sandbox, args: &[&str]) -> Ran {
    let job = ["--source", &box_.text("source"), "--to", &box_.text("a")];
    box_.offsite().args(["target", "allow-deletes"]).args(job).args(args).run()
}

fn shadow(dir: &Path, n: u64) {
    let name = if n == 0 { "C_VOL-b001".to_owned() } else { format!("C_VOL-b001-i{n:03}") };
    let kind = if n == 0 { "spf" } else { "spi" };
    random_file(&dir.join(format!("{name}.{kind}")), 2_000 + n, n);
    fs::write(dir.join(format!("{name}.md5")), format!("sum {n}")).unwrap();
}

#[test]
fn sixty_text_files_do_not_vouch_for_twelve_images() {
    let box_ = Sandbox::new();
    (0..12).for_each(|n| shadow(&box_.source(), n));
    for n in 0..60 {
        fs::write(box_.source().join(format!("note{n}.txt")), "x").unwrap();
    }
    let run = || box_.run(&["a"]).args(["--sync", "--include-other"]).run();
    run().expect(0);
    let held = tree(&box_.path("a"));
    assert_eq!(held.len(), 84);
    for entry in fs::read_dir(box_.source()).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with("txt") {
            fs::remove_file(path).unwrap();
        }
    }
    run();
    let ran = run().expect(3);
    assert!(notices(&ran).contains(&"deletes-held".to_owned()), "{}", ran.all());
    assert_eq!(tree(&box_.path("a")), held);
}

#[test]
fn the_end_of_a_host_waits_until_exactly_that_is_allowed() {
    let box_ = Sandbox::new();
    let name = |host: &str, n: u64| match n {
        0 => format!("{host}@c_20240101_d01_00001.aiv"),
        n => format!("{host}@c_20240101_d01_00001_i{n:05}.aii"),
    };
    for (host, seed) in [("web", 1), ("db", 100)] {
        (0..3).for_each(|n| random_file(&box_.source().join(name(host, n)), 3_000, seed + n));
    }
    sync(&box_).expect(0);
    (0..3).for_each(|n| remove(&box_, &name("web", n)));
    sync(&box_).expect(0);
    let ran = sync(&box_).expect(3);
    assert!(ran.all().contains("offsite target allow-deletes"), "{}", ran.all());
    assert_eq!(tree(&box_.path("a")).len(), 6);
    let plan = box_.offsite().args(["plan", "--sync", "--settle", "0", "--source", &box_.text("source")]);
    let plan = plan.args(["--to", &box_.text("a")]).run().expect(0);
    assert!(plan.stdout.contains("would have no restorable image"), "{}", plan.all());

    // Looking allows nothing.
    let shown = allow(&box_, &[]).expect(0);
    assert!(shown.stdout.contains(&name("web", 2)) && shown.stdout.contains("--all"), "{}", shown.all());
    sync(&box_).expect(3);
    allow(&box_, &["--image", &name("db", 0)]).expect(2);
    // One of them: what it builds on stays with it.
    let one = allow(&box_, &["--image", &name("web", 2), "--json"]).expect(0).json();
    assert_eq!((&one["allowed"][0], one["held"].as_array().unwrap().len()), (&name("web", 2).into(), 2));
    sync(&box_).expect(3);
    assert_eq!(tree(&box_.path("a")).len(), 5);
    allow(&box_, &["--all"]).expect(0);
    let ran = sync(&box_).expect(0);
    assert!(notices(&ran).is_empty(), "{}", ran.all());
    mirrored(&box_);
    assert!(allow(&box_, &[]).expect(0).stdout.contains("held no deletion"));
}

/// A product that begins a set each week, adds to it and keeps `keep` sets; `offsite` runs after each backup and each
/// removal.
fn weeks(keep: u64, name: impl Fn(u64, u64) -> String) {
    let box_ = Sandbox::new();
    let quiet = || {
        let ran = sync(&box_).expect(0);
        assert_eq!(notices(&ran), Vec::<String>::new(), "{}", ran.all());
    };
    for week in 0..5 {
        for day in 0..3 {
            let path = box_.source().join(name(week, day));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            random_file(&path, 2_000, week * 10 + day);
            if day == 0 && week >= keep {
                for day in 0..3 {
                    let old = box_.source().join(name(week - keep, day));
                    fs::remove_file(&old).unwrap();
                    if old.parent() != Some(&box_.source()) && day == 2 {
                        fs::remove_dir(old.parent().unwrap()).unwrap();
                    }
                }
            }
            quiet();
        }
    }
    quiet();
    mirrored(&box_);
    assert_eq!(own_files(&box_.source()).len(), 0);
}

#[test]
fn weeks_of_rotation_need_nobody() {
    let of = |set: u64, n: u64| match n {
        0 => format!("srv@c_2024{set:04}_d01_{set:05}.aiv"),
        n => format!("srv@c_2024{set:04}_d01_{set:05}_i{n:05}.aii"),
    };
    weeks(2, of);
    weeks(1, of);
}

#[test]
fn weeks_of_rotation_with_sets_as_folders_need_nobody() {
    weeks(2, |set, n| {
        let kind = if n == 0 { "aiv" } else { "aii" };
        format!("vm/2024-{set:02}/{n:08x}-0000-4000-8000-{set:012x}_0.{kind}")
    });
}

#[test]
fn what_would_be_deleted_stays_for_as_long_as_the_user_says() {
    let box_ = Sandbox::new();
    let dump = |day: u64| format!("vzdump-qemu-100-2024_01_{day:02}-00_00_00.vma.zst");
    (1..=3).for_each(|day| random_file(&box_.source().join(dump(day)), 2_000, day));
    let run = |wait: &str| box_.run(&["a"]).args(["--sync", "--delete-after", wait]).run().expect(0);
    run("7d");
    remove(&box_, &dump(1));
    run("7d");
    run("7d");
    run("7d");
    assert_eq!(tree(&box_.path("a")).len(), 3);
    let plan = box_.offsite().args(["plan", "--sync", "--settle", "0", "--source", &box_.text("source")]);
    let plan = plan.args(["--to", &box_.text("a"), "--delete-after", "7d"]).run().expect(0);
    assert!(plan.stdout.contains("kept until 2"), "{}", plan.all());
    // It is counted from when it was first found, whatever is asked for now.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    run("1s");
    mirrored(&box_);
}

struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: &Path, size: &str) -> Self {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(path);
        assert!(mount.status().unwrap().success(), "mounting needs root");
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A target of 8 MiB that holds two backups of 3 MiB; the first is rotated out, and a new one comes.
fn full() -> (Sandbox, Tmpfs) {
    let box_ = Sandbox::new();
    let room = Tmpfs::mount(&box_.path("a"), "8m");
    for day in 1..=2 {
        dump(&box_, day, 3 << 20);
    }
    sync(&box_).expect(0);
    remove(&box_, "vzdump-qemu-100-2024_01_01-00_00_00.vma.zst");
    (box_, room)
}

fn dump(box_: &Sandbox, day: u64, size: u64) {
    let name = format!("vzdump-qemu-100-2024_01_{day:02}-00_00_00.vma.zst");
    random_file(&box_.source().join(name), size, day);
}

#[test]
fn a_full_mirror_gets_on_by_the_deletions_that_it_planned() {
    let (box_, _room) = full();
    sync(&box_).expect(0); // sees that it is gone
    dump(&box_, 3, 3 << 20);
    dump(&box_, 4, 100_000);
    let ran = sync(&box_).expect(0);
    mirrored(&box_);
    assert!(!ran.stdout.contains("image-failed"), "{}", ran.all());
}

#[test]
fn what_does_not_fit_is_told_and_what_fits_is_there() {
    let (box_, _room) = full();
    sync(&box_).expect(0);
    dump(&box_, 3, 7 << 20);
    dump(&box_, 4, 100_000);
    let ran = sync(&box_).expect(3);
    assert!(notices(&ran).contains(&"no-room".to_owned()), "{}", ran.all());
    let there: Vec<_> = tree(&box_.path("a")).into_keys().collect();
    assert_eq!(there.len(), 2, "{there:?}: the second and the fourth; the first made room in vain");
    // With a smaller one nothing is in the way.
    remove(&box_, "vzdump-qemu-100-2024_01_03-00_00_00.vma.zst");
    dump(&box_, 5, 4 << 20);
    sync(&box_).expect(0);
    mirrored(&box_);
}

#[test]
fn the_only_backup_goes_first_only_with_the_users_word() {
    let box_ = Sandbox::new();
    let _room = Tmpfs::mount(&box_.path("a"), "8m");
    dump(&box_, 1, 5 << 20);
    sync(&box_).expect(0);
    remove(&box_, "vzdump-qemu-100-2024_01_01-00_00_00.vma.zst");
    dump(&box_, 2, 5 << 20);
    sync(&box_).expect(1);
    for args in [&[][..], &["--delete-first"][..]] {
        let ran = box_.run(&["a"]).args(["--sync"]).args(args).run().expect(1);
        assert_eq!(tree(&box_.path("a")).len(), 1, "{}", ran.all());
    }
    let ran = box_.run(&["a"]).args(["--sync", "--delete-first=last"]).run().expect(0);
    assert!(notices(&ran).contains(&"delete-first".to_owned()), "{}", ran.all());
    mirrored(&box_);
}

/// Samba ignores case: what differs by case only is one file there.
#[test]
fn a_folder_renamed_by_case_is_the_same_folder_on_a_share() {
    let share = Smb::start();
    let box_ = Sandbox::new();
    for folder in ["Server1", "Other"] {
        fs::create_dir(box_.source().join(folder)).unwrap();
        (0..4).for_each(|n| shadow(&box_.source().join(folder), n));
    }
    let run = || share.reach().run(&box_).args(["--sync"]).run();
    run().expect(0);
    let held = share.look(tree);
    assert!(held.len() >= 8, "{held:?}");
    fs::rename(box_.source().join("Server1"), box_.source().join("server1")).unwrap();
    for _ in 0..3 {
        run().expect(0);
        assert_eq!(share.look(tree), held);
    }
    // What comes later goes into the folder that is there, and what goes later goes from there.
    shadow(&box_.source().join("server1"), 5);
    run().expect(0);
    let later = share.look(tree);
    assert_eq!(later.len(), held.len() + 2, "{later:?}");
    assert!(later.keys().all(|path| !path.starts_with("server1")), "{later:?}");
}
