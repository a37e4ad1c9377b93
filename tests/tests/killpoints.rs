//! A kill at every numbered point around intents, checkpoints, publishes, swaps and manifests.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::path::{Path, PathBuf};

use offsite_tests::kill;
use offsite_tests::law::Laws;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, debris, tree};

/// A source in two states and the options of a run that takes a target from the first to the second.
struct Story {
    name: &'static str,
    url: fn(&Sandbox) -> String,
    args: &'static [&'static str],
    change: fn(&Path),
    /// The target replaces a name by the journalled swap.
    swaps: bool,
}

fn folder(box_: &Sandbox) -> String {
    box_.text("a")
}

fn command(box_: &Sandbox, story: &Story) -> offsite_tests::program::Offsite {
    box_.offsite()
        .args([
            "run",
            "--source",
            &box_.text("source"),
            "--settle",
            "0",
            "--json",
            "--to",
            &(story.url)(box_),
        ])
        .args(story.args)
}

/// The points that one whole run reaches.
fn points(story: &Story) -> Vec<(u64, String)> {
    let box_ = prepared(story);
    let log = box_.path("points");
    command(&box_, story).env("OFFSITE_KILL_LOG", &log).run().expect(0);
    kill::logged(&log)
}

fn prepared(story: &Story) -> Sandbox {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 3);
    if !story.args.is_empty() || story.name != "first run" {
        command(&box_, story).run().expect(0);
    }
    (story.change)(&box_.source());
    if story.args.contains(&"--sync") {
        // Absent once: remembered, not yet deleted.
        command(&box_, story).run().expect(0);
    }
    box_
}

fn kill_at_each(story: &Story) {
    let points = points(story);
    assert!(points.len() >= 6, "{}: only {points:?}", story.name);
    let last = kill::last(&points);
    for number in 1.. {
        let box_ = prepared(story);
        // What is visible is what the source has, or what was there before, and never without what it builds on.
        let laws = Laws::new().allow(&box_.source()).allow(&box_.path("a")).chain(3);
        let laws = if story.swaps { laws.swaps() } else { laws };
        laws.hold(&box_.path("a"));
        let log = box_.path("points");
        let killed = command(&box_, story)
            .args(["--attempts", "1"])
            .env("OFFSITE_KILL_AT", number.to_string())
            .env("OFFSITE_KILL_LOG", &log)
            .run();
        let Some(at) = kill::met(&killed, &log, number) else {
            // Which threads share an intent differs from run to run, and with it how many points there are.
            assert!(number > last * 3 / 4, "{}: nothing was killed from {number} on, of {last}", story.name);
            break;
        };
        let what = format!("{}, killed at {number} {at}", story.name);
        let broken = laws.broken(&box_.path("a"));
        assert!(broken.is_empty(), "{what}: {broken:#?}\n{}", killed.all());
        let next = command(&box_, story).run();
        assert_eq!(next.code, Some(0), "{what}\n{}", next.all());
        let ended = if story.args.contains(&"--sync") { command(&box_, story).run() } else { next };
        assert_eq!(tree(&box_.source()), tree(&box_.path("a")), "{what}\n{}", ended.all());
        assert_eq!(debris(&box_.path("a")), Vec::<PathBuf>::new(), "{what}");
    }
}

#[test]
fn first_run_survives_a_kill_at_every_point() {
    kill_at_each(&Story { name: "first run", url: folder, args: &[], change: |_| {}, swaps: false });
}

#[test]
fn replacing_run_survives_a_kill_at_every_point() {
    kill_at_each(&Story {
        name: "replaced image",
        url: folder,
        args: &[],
        change: |source| qemu::write(source, "inc2.qcow2", 9 << 20, 1 << 20, 42),
        swaps: false,
    });
}

#[test]
fn deleting_run_survives_a_kill_at_every_point() {
    kill_at_each(&Story {
        name: "deleted image",
        url: folder,
        args: &["--sync", "--allow-deletes"],
        change: |source| std::fs::remove_file(source.join("inc3.qcow2")).unwrap(),
        swaps: false,
    });
}

/// A server that cannot replace a name: the journalled swap.
#[test]
fn swapping_run_survives_a_kill_at_every_point() {
    kill_at_each(&Story {
        name: "swapped image",
        url: |box_| format!("chaos:{}", box_.text("a")),
        args: &["--option", r#"capabilities={"replace":"none"}"#],
        change: |source| qemu::write(source, "inc2.qcow2", 9 << 20, 1 << 20, 42),
        swaps: true,
    });
}
