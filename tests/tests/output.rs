//! Whoever reads the output, or does not: the replication goes on, and nothing that was told is lost.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use offsite_tests::program::{built, wait_until};
use offsite_tests::sandbox::{Sandbox, random_file};

const IMAGES: usize = 400;

fn sandbox() -> Sandbox {
    let box_ = Sandbox::new();
    for n in 0..IMAGES {
        random_file(
            &box_.source().join(format!("a-disk-with-a-rather-long-name-{n:04}-b000.spf")),
            100,
            n as u64,
        );
    }
    box_
}

fn copied(box_: &Sandbox, target: &str) -> bool {
    let names = std::fs::read_dir(box_.path(target)).unwrap().flatten().map(|e| e.file_name());
    names.filter(|n| n.to_string_lossy().ends_with(".spf")).count() == IMAGES
}

/// With standard output and error in pipes that hold some 64 KiB.
fn unread(box_: &Sandbox, more: &[&str]) -> Child {
    Command::new(built().join("offsite"))
        .args(["--state-dir", &box_.text("state"), "run", "--json", "--settle", "0"])
        .args(["--source", &box_.text("source"), "--to", &box_.text("a"), "--to", &box_.text("b")])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn output_that_nobody_reads_holds_no_target_up_and_is_all_there_when_somebody_does() {
    let box_ = sandbox();
    let mut run = unread(&box_, &[]);
    for target in ["a", "b"] {
        wait_until(target, Duration::from_secs(60), || copied(&box_, target));
    }
    assert!(run.try_wait().unwrap().is_none(), "what it told does not fit the pipe");
    let mut text = String::new();
    run.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0), "{text}");
    assert_eq!(text.matches("\"published\"").count(), 2 * IMAGES);
    assert_eq!(text.matches("\"finished\"").count(), 2);
}

#[test]
fn a_signal_ends_a_run_whose_output_nobody_reads() {
    let box_ = sandbox();
    let mut run = unread(&box_, &[]);
    wait_until("the copies", Duration::from_secs(60), || copied(&box_, "a") && copied(&box_, "b"));
    let pid = rustix::process::Pid::from_raw(run.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_until("its end", Duration::from_secs(20), || run.try_wait().unwrap().is_some());
}

#[test]
fn a_plan_says_what_it_waits_for() {
    let box_ = sandbox();
    let plan = ["plan", "--source", &box_.text("source"), "--to", &box_.text("a"), "--json", "--settle", "1"];
    let ran = box_.offsite().args(plan).run().expect(0);
    assert!(ran.stderr.contains("waiting up to 1 s for new files to settle"), "{}", ran.stderr);
    assert_eq!(ran.json()["jobs"][0]["targets"][0]["steps"].as_array().unwrap().len(), IMAGES);
}
