//! What a user types, and what comes back: configuration, exit codes, documents, stops.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use offsite_tests::program::{children, wait_until};
use offsite_tests::sandbox::{Sandbox, random_file, tree};
use offsite_tests::{build, qemu};
use rustix::process::Signal;

fn config(box_: &Sandbox, text: &str) -> String {
    fs::write(box_.path("offsite.toml"), text).unwrap();
    box_.text("offsite.toml")
}

fn job(name: &str, source: &str, targets: &[(&str, String)]) -> String {
    let mut text = format!("[[job]]\nname = \"{name}\"\nsource = \"{source}\"\nsettle = \"0s\"\n");
    for (name, url) in targets {
        text.push_str(&format!("[[job.target]]\nname = \"{name}\"\nurl = \"{url}\"\n"));
    }
    text
}

#[test]
fn config_validate_says_everything_at_once_and_shows_no_secret() {
    let box_ = Sandbox::new();
    fs::write(box_.path("open"), "hunter2").unwrap();
    fs::set_permissions(box_.path("open"), PermissionsExt::from_mode(0o644)).unwrap();
    let wrong = format!(
        "{}credentials = {{ password = \"hunter2\" }}\nsyncc = true\n",
        job("daily", "/backups", &[("nas", box_.text("a"))])
    );
    let ran = box_.offsite().args(["config", "validate", "--config", &config(&box_, &wrong)]).run().expect(2);
    for part in
        ["offsite.toml:8: job.daily.target.nas.credentials.password", "{ env =", ":9:", "did you mean 'sync'"]
    {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    // What only the plugin and the file system know comes once the file reads well.
    let odd = format!(
        "{}credentials = {{ password = {{ file = \"open\" }} }}\noptions = {{ colour = \"blue\" }}\n{}",
        job("daily", "/backups", &[("nas", box_.text("a"))]),
        job("other", "/backups", &[("far", "gopher://host/".to_owned())])
    );
    let ran = box_.offsite().args(["config", "validate", "--config", &config(&box_, &odd)]).run().expect(2);
    for part in [
        "offsite.toml:5: job.daily.target.nas.credentials.password",
        "everybody",
        "nas.options.colour",
        "gopher",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    assert!(!ran.all().contains("hunter2"));
    let good = job("daily", "/backups", &[("nas", box_.text("a"))]);
    box_.offsite().args(["config", "validate", "--config", &config(&box_, &good)]).run().expect(0);
}

#[test]
fn a_wrong_line_is_usage_and_touches_nothing() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    for line in [
        vec!["run", "--sorce", "x"],
        vec!["run", "--source", "source"],
        vec!["run", "nightly"],
        vec!["run", "--source", "source", "--to", "a", "--bandwidth", "quick"],
        vec!["run", "--source", "source", "--to", "ftp://me:hunter2@host/"],
        vec!["run", "--source", "source", "--to", "a", "--sync", "--policy", "new-sets"],
        vec!["status", "--source", "source", "--to", "a", "--max-age", "old"],
    ] {
        let ran = box_.offsite().args(&line).run();
        assert_eq!(ran.code, Some(2), "{line:?}: {}", ran.all());
        assert!(!ran.stderr.is_empty() && !ran.all().contains("hunter2"), "{line:?}: {}", ran.all());
    }
    assert!(tree(&box_.path("a")).is_empty());
}

#[test]
fn a_broken_job_or_target_leaves_the_others_alone_and_the_exit_code_says_so() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    fs::write(box_.path("open"), "hunter2").unwrap();
    fs::set_permissions(box_.path("open"), PermissionsExt::from_mode(0o666)).unwrap();
    let text = format!(
        "{}{}credentials = {{ password = {{ file = \"open\" }} }}\n",
        job("gone", &box_.text("no-such-folder"), &[("c", box_.text("c"))]),
        job("daily", &box_.text("source"), &[("a", box_.text("a")), ("b", box_.text("b"))])
    );
    let config = config(&box_, &text);
    let ran = box_.offsite().args(["--config", &config, "run"]).run().expect(3);
    assert!(ran.stderr.contains("gone: failed: the source does not exist"), "{}", ran.stderr);
    assert!(ran.stderr.contains("daily/b: failed") && ran.stderr.contains("everybody"), "{}", ran.stderr);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(tree(&box_.path("b")).is_empty() && tree(&box_.path("c")).is_empty());
    let only = box_.offsite().args(["--config", &config, "run", "gone"]).run().expect(1);
    assert!(!only.all().contains("daily"), "{}", only.all());
    let status = box_.offsite().args(["--config", &config, "status", "--json"]).run().expect(0).json();
    assert_eq!(status["jobs"][1]["targets"][0]["runs"][0]["outcome"], "done");
    assert_eq!(status["jobs"][1]["targets"][1]["runs"][0]["outcome"], "failed");
    assert_eq!(status["jobs"][0]["targets"][0]["last_success"], serde_json::Value::Null);
}

#[test]
fn plan_and_chains_give_their_documents() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    let line = ["--source", &box_.text("source"), "--to", &box_.text("a"), "--settle", "0", "--json"]
        .map(str::to_owned);
    let plan = box_.offsite().args(["plan"]).args(&line).run().expect(0).json();
    assert_eq!(plan["version"], 1);
    let target = &plan["jobs"][0]["targets"][0];
    assert_eq!(target["url"], box_.text("a").as_str());
    let step = &target["steps"][1];
    assert_eq!((&step["action"], &step["image"]), (&"copy".into(), &"inc1.qcow2".into()));
    assert!(
        step["bytes"].as_u64().unwrap() > 0 && step["code"] == "new" && step["reason"].is_string(),
        "{step}"
    );
    assert!(plan["jobs"][0]["job"].is_string() && target["target"].is_string());
    assert_eq!(fs::read_dir(box_.path("state")).unwrap().count(), 0, "a plan remembers nothing");
    box_.offsite().args(["run"]).args(&line).run().expect(0);
    fs::remove_file(box_.path("a").join("inc1.qcow2")).unwrap();
    let target = box_.text("a");
    let chains = box_.offsite().args(["chains", "--target", &target]).args(&line).run().expect(0).json();
    let sets = chains["chains"][0]["sets"].as_array().unwrap();
    let image = |name: &str| {
        let all = sets.iter().flat_map(|set| set["images"].as_array().unwrap());
        all.into_iter().find(|image| image["image"] == name).unwrap_or_else(|| panic!("no {name}: {chains}"))
    };
    assert_eq!(image("base.qcow2")["restorable"], true);
    assert_eq!(image("inc2.qcow2")["restorable"], false);
    assert!(image("inc2.qcow2")["missing"].as_str().is_some_and(|m| m.contains("inc1")), "{chains}");
}

#[test]
fn the_order_of_targets_on_the_line_changes_nothing() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 1);
    box_.run(&["a", "b"]).run().expect(0);
    let ran = box_.run(&["b", "a"]).run().expect(0);
    for finished in ran.events().iter().filter(|e| e["event"] == "finished") {
        assert_eq!(finished["sent_bytes"], 0, "{finished}");
    }
    box_.run(&["c"]).run().expect(0);
}

#[test]
fn a_second_signal_stops_at_once_and_leaves_no_worker() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 64 << 20, 3);
    let run = box_.run(&["a", "b"]).args(["--bandwidth", "1MiB"]).start(&box_.path("home"));
    wait_until("workers that copy", Duration::from_secs(60), || {
        run.stdout().matches("\"progress\"").count() > 4 && run.workers().len() == 2
    });
    let workers = run.workers();
    let start = Instant::now();
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    let ran = run.wait(Duration::from_secs(30));
    assert_eq!(ran.code, Some(1), "{}", ran.all());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(
        workers.iter().all(|(pid, _)| !fs::exists(format!("/proc/{pid}/status")).unwrap()),
        "{workers:?}"
    );
    assert!(!children(std::process::id()).iter().any(|(_, line)| line.contains("offsite: ")));
}

#[test]
fn the_readmes_first_command_does_what_it_says() {
    let readme = fs::read_to_string(build::repository().join("README.md")).unwrap();
    let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let words: Vec<&str> = block.split_whitespace().collect();
    let at = words.iter().position(|w| *w == "target/debug/offsite").unwrap();
    let box_ = Sandbox::new();
    let words: Vec<String> = words[at + 1..]
        .iter()
        .filter(|w| !matches!(**w, "--state-dir" | "target/first/state"))
        .map(|w| match *w {
            "tests/fixtures/chain" => build::repository().join(w).to_string_lossy().into_owned(),
            "target/first/copy" => box_.text("new"),
            w => w.to_owned(),
        })
        .collect();
    let ran = box_.offsite().args(&words).run().expect(0);
    assert!(ran.stdout.contains("4 images published"), "{}", ran.all());
    assert_eq!(tree(&build::repository().join("tests/fixtures/chain")), tree(&box_.path("new")));
}
