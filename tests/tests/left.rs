//! An image that changes while it is replicated is left for the next run: told, no failure, not forgotten.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::time::Duration;

use offsite_tests::law::Laws;
use offsite_tests::program::wait_until;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

#[test]
fn an_image_that_changed_meanwhile_is_left_for_the_next_run_with_what_comes_after_it() {
    let box_ = Sandbox::new();
    let base = box_.source().join("disk-b000.spf");
    random_file(&base, 6 << 20, 1);
    random_file(&box_.source().join("disk-b000-i001.spi"), 1000, 2);
    random_file(&box_.source().join("other-b000.spf"), 1000, 3);
    let name = ["--name", "job"];
    let mut run = box_.run(&["a"]).args(name).args(["--bandwidth", "2MiB"]).start(&box_.path("home"));
    wait_until("bytes of the base", Duration::from_secs(30), || {
        run.stdout().lines().any(|l| l.contains("\"image\":\"disk-b000.spf\""))
    });
    std::thread::sleep(Duration::from_millis(300));
    random_file(&base, 6 << 20, 4);
    wait_until("the end", Duration::from_secs(60), || run.finished());
    let ran = run.wait(Duration::from_secs(1)).expect(0);
    let skipped: Vec<_> = ran.events().into_iter().filter(|e| e["event"] == "skipped").collect();
    let code = |image: &str| skipped.iter().find(|e| e["image"] == image).map(|e| e["code"].clone());
    assert_eq!(code("disk-b000.spf").unwrap(), "changed-meanwhile", "{}", ran.all());
    assert_eq!(code("disk-b000-i001.spi").unwrap(), "waits-for-changed", "{}", ran.all());
    assert!(!ran.stdout.contains("image-failed"), "{}", ran.all());
    let finished = ran.events().into_iter().find(|e| e["event"] == "finished").unwrap();
    assert_eq!(
        (&finished["outcome"], &finished["left"], &finished["failed"]),
        (&"done".into(), &2.into(), &0.into())
    );
    Laws::new().allow(&box_.source()).parent("disk-b000-i001.spi", "disk-b000.spf").hold(&box_.path("a"));
    assert!(box_.path("a").join("other-b000.spf").exists(), "another image is not held up");
    let job = ["--source", &box_.text("source"), "--to", &box_.text("a"), "--name", "job"];
    let left = |json: serde_json::Value| json["jobs"][0]["targets"][0]["left"].as_array().unwrap().len();
    assert_eq!(left(box_.offsite().args(["status", "--json"]).args(job).run().json()), 2);
    let shown = box_.offsite().args(["status"]).args(job).run().stdout;
    assert!(shown.contains("left for the next run: disk-b000.spf, still being written in 1 run"), "{shown}");
    let human = box_.run(&["a"]).args(name).run().expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")), "{}", human.all());
    assert!(debris(&box_.path("a")).is_empty());
    assert_eq!(left(box_.offsite().args(["status", "--json"]).args(job).run().json()), 0);
}
