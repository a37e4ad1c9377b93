//! A plugin that breaks in any operation the host calls, in the runs that call it: the other two targets finish, the
//! broken one is restarted and goes on, or ends with one clear error, and at no time is a law broken.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::path::PathBuf;

use offsite_tests::law::Laws;
use offsite_tests::program::{Offsite, Ran};
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

/// A state of the target, and the operations that a run from there calls.
struct Story {
    ops: &'static [&'static str],
    capabilities: &'static str,
    /// More lines of the broken target.
    options: &'static str,
    prepare: fn(&Sandbox, &Story),
}

const PLAIN: Story = Story { ops: &[], capabilities: "{}", options: "", prepare: |_, _| {} };

fn sandbox() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 3_000_000, 5);
    for n in 1..=4 {
        random_file(&box_.source().join(format!("disk-b000-i00{n}.spi")), 5000 + n, n);
        random_file(&box_.source().join(format!("disk-b000-i00{n}.md5")), 40, 50 + n);
        random_file(&box_.source().join(format!("disk-b000-i00{n}.bitmap")), 70, 70 + n);
    }
    box_
}

fn laws(box_: &Sandbox) -> Laws {
    let mut laws = Laws::new().allow(&box_.source()).parent("disk-b000-i001.spi", "disk-b000.spf");
    for n in 2..=4 {
        laws = laws.parent(&format!("disk-b000-i00{n}.spi"), &format!("disk-b000-i00{}.spi", n - 1));
    }
    laws
}

fn offsite(box_: &Sandbox, story: &Story, faults: &str, counters: &str) -> Offsite {
    fs::create_dir_all(box_.path("home").join(counters)).unwrap();
    let targets = ["c", "a", "b"].map(|t| box_.text(t));
    let file = format!(
        r#"
[[job]]
name = "job"
source = "{source}"
settle = "0s"

[[job.target]]
name = "broken"
url = "chaos:{c}"
sync = true
retry = {{ attempts = 7, first_wait = "10ms" }}
options = {{ fault = [{faults}], capabilities = {capabilities}, counter_dir = "{home}/{counters}" }}
{options}

[[job.target]]
name = "first"
url = "{a}"
sync = true

[[job.target]]
name = "second"
url = "{b}"
sync = true
"#,
        source = box_.text("source"),
        home = box_.text("home"),
        c = targets[0],
        a = targets[1],
        b = targets[2],
        capabilities = story.capabilities,
        options = story.options,
    );
    fs::write(box_.path("offsite.toml"), file).unwrap();
    box_.offsite()
        .args(["--config", &box_.text("offsite.toml")])
        .env("OFFSITE_HANG_SECONDS", patience(faults))
}

/// Seconds of silence after which a worker is taken for hung: short where one hangs on purpose, and otherwise as much
/// as a loaded machine may need for one fsync.
fn patience(faults: &str) -> &'static str {
    if faults.contains("hang") { "5" } else { "60" }
}

fn run(box_: &Sandbox, story: &Story, faults: &str, counters: &str) -> Ran {
    offsite(box_, story, faults, counters).args(["run", "--json"]).run()
}

/// The operations whose fault was met.
fn met(box_: &Sandbox, counters: &str, ops: &[&str]) -> Vec<bool> {
    let path = |(n, op): (usize, &&str)| box_.path("home").join(counters).join(format!("chaos-{n}-{op}"));
    let paths: Vec<PathBuf> = ops.iter().enumerate().map(path).collect();
    paths.iter().map(|p| p.exists()).collect()
}

#[track_caller]
fn others_done(box_: &Sandbox, what: &str, ran: &Ran) {
    for target in ["a", "b"] {
        assert_eq!(tree(&box_.source()), tree(&box_.path(target)), "{what}: {}", ran.all());
        assert!(debris(&box_.path(target)).is_empty(), "{what}");
    }
}

/// Each operation fails once in this way, one after the other, all in one run.
fn breaks(story: &Story, modes: &[&str]) {
    for mode in modes {
        for ops in story.ops.chunks(5) {
            let box_ = sandbox();
            let mut laws = laws(&box_);
            (story.prepare)(&box_, story);
            laws = laws.allow(&box_.source());
            let faults: Vec<String> =
                ops.iter().map(|op| format!(r#"{{ op = "{op}", mode = "{mode}", times = 1 }}"#)).collect();
            let ran = run(&box_, story, &faults.join(", "), "faults");
            let what = format!("{mode} at {ops:?}");
            assert!(
                met(&box_, "faults", ops).iter().all(|met| *met),
                "{what}: not all were called: {}",
                ran.all()
            );
            others_done(&box_, &what, &ran);
            laws.hold(&box_.path("c"));
            if ran.code != Some(0) {
                assert_eq!(ran.code, Some(3), "{what}: {}", ran.all());
                let ends =
                    ran.events().into_iter().filter(|e| e["event"] == "finished" && e["target"] == "broken");
                let errors: Vec<_> = ends.filter_map(|e| e["error"].as_str().map(str::to_owned)).collect();
                assert_eq!(errors.len(), 1, "{what}: one error: {}", ran.all());
                run(&box_, story, "", "none").expect(0);
            }
            // A deletion that was put off is made up for.
            if tree(&box_.source()) != tree(&box_.path("c")) {
                run(&box_, story, "", "none").expect(0);
            }
            assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{what}: {}", ran.all());
            assert!(debris(&box_.path("c")).is_empty(), "{what}: {:?}", debris(&box_.path("c")));
        }
    }
}

const ENDS: &[&str] = &["abort", "panic", "hang-uncancellable"];

const FIRST_RUN: &[&str] = &[
    "open",
    "identity",
    "capabilities",
    "invoke",
    "get",
    "stat",
    "list",
    "space",
    "list_staged",
    "stage",
    "read_staged",
    "publish",
    "close",
];

#[test]
fn in_a_first_run() {
    breaks(&Story { ops: FIRST_RUN, ..PLAIN }, &["abort", "panic"]);
}

#[test]
fn hanging_in_a_first_run() {
    breaks(&Story { ops: FIRST_RUN, ..PLAIN }, &["hang-uncancellable"]);
}

#[test]
fn where_only_sizes_are_compared() {
    breaks(&Story { ops: &["stat_staged"], options: "verify = \"size\"", ..PLAIN }, ENDS);
}

#[test]
fn where_the_server_gives_the_digest() {
    let story = Story { ops: &["digest"], capabilities: r#"{ digests = ["blake3"] }"#, ..PLAIN };
    breaks(&story, ENDS);
    breaks(&story, &["wrong-bytes"]);
}

#[test]
fn while_deleting_an_image_of_several_files() {
    let prepare = |box_: &Sandbox, story: &Story| {
        run(box_, story, "", "none").expect(0);
        for end in ["spi", "md5", "bitmap"] {
            fs::remove_file(box_.source().join(format!("disk-b000-i004.{end}"))).unwrap();
        }
        // Absent once: remembered, not yet deleted.
        run(box_, story, "", "none").expect(0);
    };
    breaks(&Story { ops: &["delete", "delete_batch"], prepare, ..PLAIN }, ENDS);
}

#[test]
fn while_replacing_by_a_swap() {
    let prepare = |box_: &Sandbox, story: &Story| {
        run(box_, story, "", "none").expect(0);
        random_file(&box_.source().join("disk-b000-i004.spi"), 6000, 99);
    };
    let capabilities = r#"{ replace = "none" }"#;
    breaks(&Story { ops: &["rename", "publish", "delete"], capabilities, prepare, ..PLAIN }, ENDS);
}

#[test]
fn while_dropping_what_nobody_resumes() {
    let prepare = |box_: &Sandbox, story: &Story| {
        let gone = box_.source().join("gone-b000.spf");
        random_file(&gone, 5000, 33);
        let publish = r#"{ op = "publish", mode = "error:Denied", after = 1 }"#;
        run(box_, story, publish, "before").expect(3);
        assert!(!debris(&box_.path("c")).is_empty(), "something is staged");
        fs::remove_file(&gone).unwrap();
        for target in ["a", "b"] {
            fs::remove_file(box_.path(target).join("gone-b000.spf")).unwrap();
        }
    };
    breaks(&Story { ops: &["discard"], prepare, ..PLAIN }, ENDS);
}

#[test]
fn while_resuming() {
    let prepare = |box_: &Sandbox, story: &Story| {
        // All bytes are staged, and the proof of them fails for want of a connection.
        let cut = r#"{ op = "read_staged", mode = "error:Unreachable", after = 1 }"#;
        run(box_, story, cut, "before").expect(3);
        assert!(!debris(&box_.path("c")).is_empty(), "something is staged");
    };
    breaks(&Story { ops: &["stat_staged", "read_staged", "publish"], prepare, ..PLAIN }, ENDS);
}

#[test]
fn while_adopting_what_is_there() {
    let prepare = |box_: &Sandbox, story: &Story| {
        run(box_, story, "", "none").expect(0);
        fs::remove_dir_all(box_.path("state")).unwrap();
        fs::create_dir(box_.path("state")).unwrap();
        fs::remove_dir_all(box_.path("c").join("offsite-manifest")).unwrap();
    };
    let story = Story { ops: &["get", "list", "stat"], prepare, ..PLAIN };
    breaks(&story, ENDS);
    breaks(&Story { ops: &["get"], ..story }, &["wrong-bytes", "short-write", "lie-size"]);
}

#[test]
fn lies_about_sizes_and_short_answers_are_never_believed() {
    for (op, mode) in [
        ("list", "lie-size"),
        ("stat", "lie-size"),
        ("stat_staged", "lie-size"),
        ("publish", "lie-size"),
        ("read_staged", "short-write"),
        ("read_staged", "wrong-bytes"),
        ("get", "short-write"),
    ] {
        let box_ = sandbox();
        let story = if op == "stat_staged" { Story { options: "verify = \"size\"", ..PLAIN } } else { PLAIN };
        let ran = run(&box_, &story, &format!(r#"{{ op = "{op}", mode = "{mode}" }}"#), "faults");
        let what = format!("{mode} at {op}");
        others_done(&box_, &what, &ran);
        laws(&box_).hold(&box_.path("c"));
        run(&box_, &story, "", "none");
        let last = run(&box_, &story, "", "none").expect(0);
        assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{what}: {}", last.all());
        assert!(debris(&box_.path("c")).is_empty(), "{what}");
    }
}

#[test]
fn a_check_that_breaks_fails_its_own_target_with_one_error() {
    for op in ["check", "capabilities", "space", "close"] {
        for mode in ["abort", "panic", "hang-uncancellable"] {
            let box_ = sandbox();
            let fault = format!(r#"{{ op = "{op}", mode = "{mode}" }}"#);
            let ran = offsite(&box_, &PLAIN, &fault, "faults").args(["check", "--json"]).run();
            let targets = ran.json()["targets"].as_array().unwrap().clone();
            let good = |name: &str| targets.iter().any(|t| t["target"] == name && t["passed"] == true);
            assert!(good("first") && good("second"), "{op} {mode}: {}", ran.all());
            assert!(matches!(ran.code, Some(0 | 3)), "{op} {mode}: {}", ran.all());
            assert!(op != "check" || !good("broken"), "{op} {mode}: {}", ran.all());
        }
    }
}

/// What the contract says of them: the host has no use for them yet.
#[test]
fn some_operations_are_for_later() {
    let later = ["copy", "make_dir", "set_attributes"];
    let box_ = sandbox();
    let story = Story { capabilities: r#"{ replace = "none" }"#, ..PLAIN };
    let faults: Vec<String> =
        later.iter().map(|op| format!(r#"{{ op = "{op}", mode = "slow:0" }}"#)).collect();
    for _ in 0..2 {
        run(&box_, &story, &faults.join(", "), "faults").expect(0);
        random_file(&box_.source().join("disk-b000-i004.spi"), 6000, 99);
    }
    assert_eq!(met(&box_, "faults", &later), [false; 3]);
}
