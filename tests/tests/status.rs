//! What `offsite status --max-age` calls a success: a run with nothing wrong, and no set that lags.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::time::Duration;

use offsite_tests::program::Ran;
use offsite_tests::sandbox::{Sandbox, random_file};
use serde_json::Value;

fn image(box_: &Sandbox, number: u32, seed: u64) {
    let name = if number == 0 { "C-b000.spf".to_owned() } else { format!("C-b000-i{number:03}.spi") };
    random_file(&box_.source().join(name), 3000, seed);
}

fn run(box_: &Sandbox, args: &[&str]) -> Ran {
    box_.run(&["a"]).args(["--name", "job"]).args(args).run()
}

fn status(box_: &Sandbox, args: &[&str]) -> Ran {
    let job = ["status", "--source", &box_.text("source"), "--to", &box_.text("a"), "--name", "job"];
    box_.offsite().args(job).args(args).run()
}

fn target(ran: &Ran) -> Value {
    ran.json()["jobs"][0]["targets"][0].clone()
}

#[test]
fn a_run_that_held_deletions_back_is_no_success() {
    let box_ = Sandbox::new();
    for number in 0..4 {
        image(&box_, number, number.into());
    }
    run(&box_, &["--sync"]).expect(0);
    status(&box_, &["--max-age", "1h"]).expect(0);
    for number in [1, 2, 3] {
        std::fs::remove_file(box_.source().join(format!("C-b000-i{number:03}.spi"))).unwrap();
    }
    run(&box_, &["--sync"]);
    std::thread::sleep(Duration::from_millis(2100));
    run(&box_, &["--sync"]).expect(3);
    let shown = status(&box_, &["--max-age", "2s"]).expect(1);
    assert!(shown.stdout.contains("(too old)") && shown.stdout.contains("not done:"), "{}", shown.all());
    let target = target(&status(&box_, &["--json", "--max-age", "2s"]).expect(1));
    let last = &target["runs"][0];
    assert_eq!((&last["outcome"], &last["clean"]), (&"done".into(), &false.into()), "{last}");
    let told = last["wrong"]["notices"].as_array().unwrap();
    assert!(told.iter().any(|n| n["level"] == "failing" && n["code"].is_string()), "{last}");
    assert_eq!(target["too_old"], true);
    assert_ne!(target["last_success"]["run_id"], last["run_id"]);

    // The deletions are allowed: green again.
    run(&box_, &["--sync", "--allow-deletes"]).expect(0);
    status(&box_, &["--max-age", "1h"]).expect(0);
}

#[test]
fn an_image_that_fails_is_no_success_and_its_set_lags_until_it_arrives() {
    let box_ = Sandbox::new();
    image(&box_, 0, 1);
    let configured = |after: &str| {
        let text = format!(
            "[[job]]\nname = \"job\"\nsource = \"{}\"\nsettle = \"0s\"\n[[job.target]]\nname = \"x\"\nurl = \"chaos:{}\"\n\
             options = {{ fault = [{{ op = \"publish\", mode = \"error:Denied\", after = {after} }}] }}\n",
            box_.text("source"),
            box_.text("b")
        );
        std::fs::write(box_.path("offsite.toml"), text).unwrap();
        box_.offsite().args(["--config", &box_.text("offsite.toml")])
    };
    let run = |after: &str| configured(after).args(["run", "--json"]).run();
    let status = |args: &[&str]| configured("0").args(["status"]).args(args).run();
    run("1000").expect(0);
    image(&box_, 1, 2);
    std::thread::sleep(Duration::from_millis(1100));
    let failed = run("0").expect(1);
    let events = failed.events();
    let image_failed = events.iter().find(|e| e["event"] == "image-failed").unwrap();
    // The sentence that there always was, and the failure that it was made from.
    assert!(image_failed["error"].as_str().unwrap().len() > 5, "{image_failed}");
    assert_eq!(image_failed["failure"]["kind"], "backend-denied", "{image_failed}");
    assert_eq!(image_failed["failure"]["retry"], "never");
    let finished = events.iter().find(|e| e["event"] == "finished").unwrap();
    assert_eq!(finished["failure"], image_failed["failure"], "the kind is not lost on the way");

    let json = target(&status(&["--json", "--max-age", "1s"]).expect(1));
    let wrong = &json["runs"][0]["wrong"];
    assert_eq!(wrong["failure"]["kind"], "backend-denied", "{wrong}");
    assert_eq!(wrong["images"][0]["image"], "C-b000-i001.spi");
    // It lags since that run; the base alone did not.
    let set = &json["sets"][0];
    assert_eq!(set["newest"], "C-b000-i001.spi", "{json}");
    let since = set["lags_since_ns"].as_i64().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    run("0").expect(1);
    let json = target(&status(&["--json", "--max-age", "1s"]).expect(1));
    assert_eq!((&json["sets"][0]["lags_since_ns"], &json["lags"]), (&since.into(), &true.into()));
    let shown = status(&["--max-age", "1s"]).stdout;
    assert!(shown.contains("behind: the newest image of") && shown.contains("(too long)"), "{shown}");
    assert!(!status(&["--max-age", "1h"]).stdout.contains("(too long)"));

    run("1000").expect(0);
    let json = target(&status(&["--json", "--max-age", "1h"]).expect(0));
    assert_eq!(json["sets"][0]["lags_since_ns"], Value::Null, "{json}");
}

#[test]
fn a_source_that_has_produced_nothing_new_is_green() {
    let box_ = Sandbox::new();
    image(&box_, 0, 1);
    run(&box_, &[]).expect(0);
    std::thread::sleep(Duration::from_millis(1200));
    run(&box_, &[]).expect(0);
    let target = target(&status(&box_, &["--json", "--max-age", "1s"]).expect(0));
    assert_eq!((&target["lags"], &target["too_old"]), (&false.into(), &false.into()));
}
