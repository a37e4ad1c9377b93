//! Two places of a job that are one, or lie within each other, whatever they are called: refused before anything runs.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::process::Command;

use offsite_tests::program::Ran;
use offsite_tests::sandbox::{Sandbox, files, random_file};

fn sandbox() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 5000, 1);
    box_
}

/// One error that names both places, as a configuration error; nothing was made.
#[track_caller]
fn refused(box_: &Sandbox, ran: Ran, says: &str, folders: &[&str]) {
    let ran = ran.expect(2);
    let told: Vec<&str> = ran.stdout.lines().filter(|l| l.contains("\"job-failed\"")).collect();
    assert_eq!(told.len(), 1, "{}", ran.all());
    assert!(told[0].contains(says), "{says}: {}", ran.all());
    for folder in folders {
        assert!(files(&box_.path(folder)).is_empty(), "{folder} was touched");
    }
}

#[test]
fn one_folder_under_two_names_is_refused() {
    let box_ = sandbox();
    std::os::unix::fs::symlink(box_.path("a"), box_.path("link")).unwrap();
    fs::create_dir(box_.path("a b")).unwrap();
    for (first, second, says) in [
        (box_.text("a"), box_.text("link"), "the same place as the target"),
        (box_.text("a"), format!("file://{}", box_.text("a")), "the same place as the target"),
        (box_.text("a b"), format!("file:{}/a%20b", box_.text(".")), "the same place as the target"),
        (box_.text("a"), format!("folder:{}/sub", box_.text("link")), "inside the target"),
        (format!("{}/sub", box_.text("a")), box_.text("link"), "around the target"),
        (format!("{}/new", box_.text("source")), box_.text("b"), "inside the source"),
    ] {
        let ran = box_.run(&[]).args(["--to", &first, "--to", &second]).run();
        refused(&box_, ran, says, &["a", "a b", "b"]);
    }
}

#[test]
fn a_bind_mount_is_seen_through() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: mounting needs root");
        return;
    }
    let box_ = sandbox();
    fs::create_dir(box_.source().join("deep")).unwrap();
    let mount = |from: String, to: String| {
        let done = Command::new("mount").args(["--bind", &from, &to]).status().unwrap();
        assert!(done.success(), "mount --bind {from} {to}");
    };
    struct Unmount(String);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").args(["-l", &self.0]).status();
        }
    }
    mount(box_.text("a"), box_.text("b"));
    let _b = Unmount(box_.text("b"));
    refused(&box_, box_.run(&["a", "b"]).run(), "the same place as the target", &["a"]);
    // What is above the mount point says nothing of where its content is.
    mount(format!("{}/deep", box_.text("source")), box_.text("c"));
    let _c = Unmount(box_.text("c"));
    refused(&box_, box_.run(&["c"]).run(), "inside the source", &["c"]);
}

#[test]
fn one_place_behind_a_server_is_refused_by_its_identity() {
    let box_ = sandbox();
    let chaos = |path: String| format!("chaos:{path}");
    for (first, second, says) in [
        (chaos(box_.text("a")), chaos(format!("{}/../a", box_.text("b"))), "the same place as the target"),
        (chaos(box_.text("a")), chaos(format!("{}/sub", box_.text("a"))), "inside the target"),
    ] {
        let run = |more: &[&str]| {
            let to = ["--to", &first, "--to", &second, "--to", &box_.text("b")];
            box_.run(&[]).args(to).args(more).run()
        };
        refused(&box_, run(&[]), says, &["a", "b"]);
        let plan =
            ["plan", "--source", &box_.text("source"), "--settle", "0", "--to", &first, "--to", &second];
        let plan = box_.offsite().args(plan).run().expect(2);
        assert!(plan.stderr.contains(says), "{}", plan.all());
    }
    // A settle time is not waited for to say so.
    let start = std::time::Instant::now();
    let to = ["--to", &chaos(box_.text("a")), "--to", &chaos(format!("{}/../a", box_.text("b")))];
    let slow = ["run", "--source", &box_.text("source"), "--settle", "60", "--json"];
    refused(&box_, box_.offsite().args(slow).args(to).run(), "the same place as", &["a"]);
    assert!(start.elapsed().as_secs() < 30);
}

#[test]
fn a_plugin_that_cannot_tell_its_place_holds_nobody_up() {
    let box_ = sandbox();
    let file = format!(
        r#"
[[job]]
name = "job"
source = "{source}"
settle = "0s"
target = [
  {{ name = "mute", url = "chaos:{a}", options = {{ counter_dir = "{home}", fault = [
    {{ op = "identity", mode = "hang-uncancellable", times = 1 }} ] }} }},
  {{ name = "other", url = "chaos:{b}" }},
]
"#,
        source = box_.text("source"),
        a = box_.text("a"),
        b = box_.text("b"),
        home = box_.text("home"),
    );
    fs::write(box_.path("offsite.toml"), file).unwrap();
    let run = box_.offsite().args(["--config", &box_.text("offsite.toml"), "run", "--json"]);
    run.env("OFFSITE_HANG_SECONDS", "5").run().expect(0);
    for target in ["a", "b"] {
        assert!(box_.path(target).join("disk-b000.spf").exists(), "{target}");
    }
    assert_eq!(
        fs::read(box_.path("home").join("chaos-0-identity")).unwrap().len(),
        2,
        "once to compare, once to open"
    );
}
