//! A file that the target keeps locked: a deletion waits until the lock ends, and says so.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use offsite_tests::program::{Ran, wait_until};
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

const LAST: &str = "disk-b000-i004.spi";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn run(box_: &Sandbox, faults: &str) -> Ran {
    let file = format!(
        r#"
[[job]]
name = "job"
source = "{}"
settle = "0s"
[[job.target]]
name = "locked"
url = "chaos:{}"
sync = true
options = {{ fault = [{faults}], capabilities = {{ retention = true }}, counter_dir = "{}" }}
"#,
        box_.text("source"),
        box_.text("c"),
        box_.text("home"),
    );
    fs::write(box_.path("offsite.toml"), file).unwrap();
    box_.offsite().args(["--config", &box_.text("offsite.toml"), "run", "--json"]).run()
}

/// The last of five images is gone at the source, which was seen once.
fn gone() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 5000, 1);
    for n in 1..=4 {
        random_file(&box_.source().join(format!("disk-b000-i00{n}.spi")), 500, n + 1);
    }
    run(&box_, "").expect(0);
    fs::remove_file(box_.source().join(LAST)).unwrap();
    run(&box_, "").expect(0);
    box_
}

#[track_caller]
fn waits(box_: &Sandbox, ran: Ran) {
    let ran = ran.expect(0);
    let skipped = ran.events().into_iter().find(|e| e["event"] == "skipped" && e["image"] == LAST);
    assert_eq!(skipped.unwrap()["code"], "retained", "{}", ran.all());
    assert!(box_.path("c").join(LAST).exists());
}

#[test]
fn a_deletion_waits_until_the_lock_ends() {
    let box_ = gone();
    let until = now() + 5;
    let facts = format!(r#"{{"{LAST}": {{"retention": {{"mode": "compliance", "until": {until}}}}}}}"#);
    fs::write(box_.path("home").join("chaos-facts.json"), facts).unwrap();
    waits(&box_, run(&box_, ""));
    wait_until("the lock's end", Duration::from_secs(20), || now() > until);
    run(&box_, "").expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("c")));
}

#[test]
fn a_lock_that_no_listing_shows_is_a_wait_and_no_failure() {
    let box_ = gone();
    waits(&box_, run(&box_, r#"{ op = "delete", mode = "error:Retained", times = 1 }"#));
    run(&box_, r#"{ op = "delete", mode = "error:Retained", times = 1 }"#).expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("c")));
    assert!(debris(&box_.path("c")).is_empty());
}
