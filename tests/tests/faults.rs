//! A broken plugin hurts its own target only: the other two finish untouched, and it resumes within its budget.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::time::{Duration, Instant};

use offsite_tests::program::{Offsite, Ran};
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

fn sandbox() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 9 << 20, 5);
    random_file(&box_.source().join("disk-b000-i001.spi"), 70_001, 6);
    random_file(&box_.source().join("disk-b000-i002.spi"), 1, 7);
    box_
}

/// A job file: `c` is the chaos target with these faults, `a` and `b` are folders.
fn job(box_: &Sandbox, faults: &str, capabilities: &str) -> Offsite {
    let file = format!(
        r#"
[[job]]
name = "job"
source = "{source}"
settle = "0s"

[[job.target]]
name = "broken"
url = "chaos:{c}"
retry = {{ attempts = 3, first_wait = "100ms" }}
options = {{ fault = {faults}, capabilities = {capabilities}, counter_dir = "{counters}" }}

[[job.target]]
name = "first"
url = "{a}"

[[job.target]]
name = "second"
url = "{b}"
"#,
        source = box_.text("source"),
        a = box_.text("a"),
        b = box_.text("b"),
        c = box_.text("c"),
        counters = box_.text("home"),
    );
    std::fs::write(box_.path("offsite.toml"), file).unwrap();
    box_.offsite()
        .args(["--config", &box_.text("offsite.toml"), "run", "--json"])
        .env("OFFSITE_HANG_SECONDS", "5")
}

#[track_caller]
fn others_done(box_: &Sandbox, what: &str, ran: &Ran) {
    for target in ["a", "b"] {
        assert_eq!(tree(&box_.source()), tree(&box_.path(target)), "{what}: {}", ran.all());
        assert!(debris(&box_.path(target)).is_empty(), "{what}");
    }
}

const OPERATIONS: &[&str] = &["open", "capabilities", "list", "stat", "stage", "read_staged", "publish"];

/// One fault that goes away: the worker is restarted, resumes, and the job succeeds.
fn recovers(mode: &str) {
    for operation in OPERATIONS {
        let box_ = sandbox();
        let faults = format!(r#"[{{ op = "{operation}", mode = "{mode}", times = 1 }}]"#);
        let start = Instant::now();
        let ran = job(&box_, &faults, "{}").run();
        let what = format!("{mode} at {operation}");
        others_done(&box_, &what, &ran);
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.all());
        assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{what}: {}", ran.all());
        assert!(debris(&box_.path("c")).is_empty(), "{what}");
        assert!(start.elapsed() < Duration::from_secs(60), "{what} took {:?}", start.elapsed());
    }
}

#[test]
fn a_segfault_at_each_operation_is_restarted_and_resumed() {
    recovers("segfault");
}

#[test]
fn a_plugin_that_is_broken_for_good_fails_its_own_target_only() {
    for mode in ["panic", "abort", "segfault", "error:Denied"] {
        let box_ = sandbox();
        let faults = format!(r#"[{{ op = "stage", mode = "{mode}" }}]"#);
        let ran = job(&box_, &faults, "{}").run();
        others_done(&box_, mode, &ran);
        assert_eq!(ran.code, Some(3), "{mode}: {}", ran.all());
        assert!(tree(&box_.path("c")).is_empty(), "{mode}");
    }
}

/// Lies about sizes, short writes and wrong bytes are met by the verification, whatever the plugin claims.
#[test]
fn lies_short_writes_and_wrong_bytes_are_never_published() {
    for mode in ["lie-size", "short-write", "wrong-bytes"] {
        let box_ = sandbox();
        let faults = format!(r#"[{{ op = "stage", mode = "{mode}" }}]"#);
        let ran = job(&box_, &faults, "{}").run();
        others_done(&box_, mode, &ran);
        let (source, target) = (tree(&box_.source()), tree(&box_.path("c")));
        assert!(target.iter().all(|(path, hash)| source.get(path) == Some(hash)), "{mode}: {target:?}");
        if ran.code == Some(0) {
            assert_eq!(source, target, "{mode}");
        }
        job(&box_, "[]", "{}").run().expect(0);
        assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{mode}");
    }
}

#[test]
fn a_passing_error_is_retried_and_counted() {
    for kind in ["Interrupted", "Busy", "Throttled", "TimedOut"] {
        let box_ = sandbox();
        let faults = format!(r#"[{{ op = "stage", mode = "error:{kind}", times = 2 }}]"#);
        let ran = job(&box_, &faults, "{}").run().expect(0);
        assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{kind}");
        assert!(ran.events().iter().any(|e| e["event"] == "retry"), "{kind}: {}", ran.all());
    }
}

/// Every weaker kind of server: no atomic replace, no resume, no reading of staged bytes, no conditions.
#[test]
fn weaker_capabilities_still_give_the_same_result() {
    for capabilities in [
        r#"{ replace = "none" }"#,
        r#"{ resume = "none", durable_checkpoints = false }"#,
        r#"{ resume = "offset", parallel_ranges = 1 }"#,
        r#"{ conditional_publish = false }"#,
        r#"{ staged_readable = false, replace = "none" }"#,
    ] {
        let box_ = sandbox();
        job(&box_, "[]", capabilities).run().expect(0);
        assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{capabilities}");
        random_file(&box_.source().join("disk-b000-i001.spi"), 80_000, 66);
        job(&box_, "[]", capabilities).run().expect(0);
        assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{capabilities}");
        assert!(debris(&box_.path("c")).is_empty(), "{capabilities}");
    }
}

#[test]
fn what_a_plugin_prints_is_logged_and_never_reaches_standard_output() {
    let box_ = sandbox();
    let ran = job(&box_, r#"[{ op = "list", mode = "print" }]"#, "{}").run().expect(0);
    for line in ran.stdout.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not an event: {line}");
    }
    assert!(ran.events().iter().any(|e| e["event"] == "log" && e["target"] == "broken"), "{}", ran.all());
}
