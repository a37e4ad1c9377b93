//! One process per target: its priority, its title, what `status` shows of it, and how it ends.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::time::Duration;

use offsite_tests::program::{Running, wait_until};
use offsite_tests::sandbox::{Sandbox, random_file, tree};

fn job(box_: &Sandbox) {
    let target = |name: &str, folder: &str, priority: &str| {
        format!(
            "[[job.target]]\nname = \"{name}\"\nurl = \"{}\"\npriority = \"{priority}\"\nbandwidth = \"4MiB\"\n\n",
            box_.text(folder)
        )
    };
    let text = format!(
        "[[job]]\nname = \"nightly\"\nsource = \"{}\"\nsettle = \"0s\"\n\n{}{}{}",
        box_.text("source"),
        target("attic", "a", "low"),
        target("bank", "b", "normal"),
        target("cellar", "c", "high"),
    );
    std::fs::write(box_.path("offsite.toml"), text).unwrap();
}

fn started() -> (Sandbox, Running) {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 40 << 20, 5);
    job(&box_);
    let run = box_
        .offsite()
        .args(["--config", &box_.text("offsite.toml"), "run", "--json"])
        .start(&box_.path("home"));
    wait_until("three workers that copy", Duration::from_secs(30), || {
        run.stdout().lines().filter(|l| l.contains("\"progress\"")).count() >= 6
            && run.workers().iter().filter(|(_, line)| line.contains("nightly/")).count() == 3
    });
    (box_, run)
}

fn nice(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live worker");
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(16)?.parse().ok())
        .expect("a nice value")
}

fn io_class(pid: u32) -> String {
    let output = std::process::Command::new("ionice").args(["-p", &pid.to_string()]).output();
    let output = output.expect("install it with: apt-get install util-linux");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn each_worker_has_its_targets_priority_and_title() {
    let (_box, run) = started();
    let workers = run.workers();
    let pid = |name: &str| {
        let found = workers.iter().find(|(_, line)| line.contains(&format!("nightly/{name}")));
        found.unwrap_or_else(|| panic!("no worker titled nightly/{name}: {workers:?}")).0
    };
    assert!(nice(pid("attic")) >= 10, "low: nice {}", nice(pid("attic")));
    assert_eq!(nice(pid("bank")), 0);
    assert!(nice(pid("cellar")) <= 0);
    let (low, normal, high) = (io_class(pid("attic")), io_class(pid("bank")), io_class(pid("cellar")));
    assert!(low.contains("idle") || low.contains("prio 7"), "{low}");
    assert_ne!(low, normal);
    assert!(high.contains("best-effort: prio 0") || high != low, "{high}");
    // `top -c` and `ps` show the same line.
    let ps = std::process::Command::new("ps")
        .args(["-o", "args=", "-p", &pid("bank").to_string()])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&ps.stdout).contains("offsite: nightly/bank"), "{ps:?}");
}

#[test]
fn status_shows_running_jobs_from_another_terminal_and_the_last_success_afterwards() {
    let (box_, run) = started();
    let status = |args: &[&str]| {
        box_.offsite().args(["--config", &box_.text("offsite.toml"), "status", "--json"]).args(args).run()
    };
    let live = status(&[]).json();
    let text = live.to_string();
    assert!(text.contains("\"running\"") && text.contains("bank"), "{text}");
    let never = status(&["--max-age", "26h"]);
    assert_eq!(never.code, Some(1), "no success yet: {}", never.all());
    run.wait(Duration::from_secs(60)).expect(0);
    status(&["--max-age", "26h"]).expect(0);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(status(&["--max-age", "1s"]).code, Some(1));
    assert_eq!(tree(&box_.source()), tree(&box_.path("c")));
}

#[test]
fn no_secret_and_no_option_reaches_a_process_list() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 16 << 20, 5);
    let text = format!(
        "[[job]]\nname = \"nightly\"\nsource = \"{}\"\nsettle = \"0s\"\n[[job.target]]\nname = \"x\"\nurl = \"chaos:{}\"\n\
         bandwidth = \"4MiB\"\ncredentials = {{ password = {{ env = \"THE_SECRET\" }} }}\n",
        box_.text("source"),
        box_.text("a")
    );
    std::fs::write(box_.path("offsite.toml"), text).unwrap();
    let secret = "correct-horse-battery-staple";
    let run = box_
        .offsite()
        .args(["--config", &box_.text("offsite.toml"), "run", "--json", "-v"])
        .env("THE_SECRET", secret)
        .start(&box_.path("home"));
    wait_until("a worker", Duration::from_secs(30), || run.stdout().contains("\"progress\""));
    for (pid, line) in run.workers() {
        assert!(!line.contains(secret), "{line}");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains(secret), "in the worker's environment");
    }
    let ran = run.wait(Duration::from_secs(60)).expect(0);
    assert!(!ran.all().contains(secret));
    for file in walk(&box_.path("state")).into_iter().chain(walk(&box_.path("a"))) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", file.display());
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
