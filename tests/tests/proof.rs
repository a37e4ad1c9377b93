//! What is called restorable on a target, when something of a chain there is not what was published.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use offsite_tests::program::Ran;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

const SET: &str = "host@c_20240101_d00_00001";

fn name(n: usize) -> String {
    if n == 0 { format!("{SET}.aiv") } else { format!("{SET}_i{n:05}.aii") }
}

/// A base and increments, each with content of its own.
fn chain(dir: &Path, count: usize, seed: u64) {
    for n in 0..=count {
        random_file(&dir.join(name(n)), 5000 + n as u64, seed + n as u64);
    }
}

/// By image: what a look at the target says of it; empty for "yes".
fn lacks(box_: &Sandbox) -> Vec<(String, String)> {
    let job = [
        "chains",
        "--source",
        &box_.text("source"),
        "--to",
        &box_.text("a"),
        "--target",
        &box_.text("a"),
        "--json",
    ];
    let all = box_.offsite().args(job).run().expect(0).json();
    let sets = all["chains"][0]["sets"].as_array().unwrap().clone();
    let images = sets.iter().flat_map(|s| s["images"].as_array().unwrap().clone());
    images
        .map(|i| {
            let lack = if i["restorable"] == true {
                String::new()
            } else {
                i["missing"].as_str().unwrap().to_owned()
            };
            (i["image"].as_str().unwrap().to_owned(), lack)
        })
        .collect()
}

fn said(ran: &Ran, event: &str) -> Vec<String> {
    let of = |e: &&serde_json::Value| e["event"] == event;
    ran.events().iter().filter(of).map(|e| e["image"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn all_restorable(box_: &Sandbox) {
    for (image, lack) in lacks(box_) {
        assert_eq!(lack, "", "{image}");
    }
}

/// The last run did nothing.
#[track_caller]
fn skips_only(box_: &Sandbox) {
    let ran = box_.run(&["a"]).run().expect(0);
    for event in ["published", "deleted", "image_failed"] {
        assert_eq!(said(&ran, event), Vec::<String>::new(), "{}", ran.all());
    }
    assert_eq!(debris(&box_.path("a")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_base_cut_to_nothing_is_named_and_put_right() {
    let box_ = Sandbox::new();
    chain(&box_.source(), 2, 1);
    box_.run(&["a"]).run().expect(0);
    all_restorable(&box_);
    fs::File::options().write(true).open(box_.path("a").join(name(0))).unwrap().set_len(0).unwrap();
    for (image, lack) in lacks(&box_) {
        assert!(lack.contains("is empty") && lack.contains(&name(0)), "{image}: {lack}");
    }
    box_.run(&["a"]).run().expect(0);
    all_restorable(&box_);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    skips_only(&box_);
}

/// Without sync the old increments stay on the target, now upon the new base.
#[test]
fn a_chain_begun_anew_under_the_same_names_is_not_mixed_with_the_old_one() {
    let box_ = Sandbox::new();
    chain(&box_.source(), 3, 1);
    box_.run(&["a"]).run().expect(0);
    for n in 0..=3 {
        fs::remove_file(box_.source().join(name(n))).unwrap();
    }
    chain(&box_.source(), 1, 100);
    box_.run(&["a"]).run().expect(0);
    let lacks = lacks(&box_);
    assert_eq!((&*lacks[0].1, &*lacks[1].1), ("", ""), "{lacks:?}");
    for (image, lack) in &lacks[2..] {
        assert!(lack.contains("is another one") && lack.contains(&name(1)), "{image}: {lack}");
    }
    skips_only(&box_);
}

#[test]
fn a_rewritten_base_under_an_increment_that_stayed_is_told_until_it_is_accepted() {
    let box_ = Sandbox::new();
    chain(&box_.source(), 1, 1);
    box_.run(&["a"]).run().expect(0);
    random_file(&box_.source().join(name(0)), 7000, 50);
    box_.run(&["a"]).run().expect(0);
    assert!(lacks(&box_)[1].1.contains("is another one"), "{:?}", lacks(&box_));
    let job = ["--source", &box_.text("source"), "--to", &box_.text("a")];
    let plan = box_.offsite().args(["plan", "--settle", "0"]).args(job).run();
    assert!(plan.stdout.contains("another one than it was published upon"), "{}", plan.all());
    skips_only(&box_);
    box_.offsite().args(["target", "accept", "--image", &name(1)]).args(job).run().expect(0);
    all_restorable(&box_);
    skips_only(&box_);
}

#[test]
fn a_middle_image_that_is_gone_from_both_sides_is_missed_where_time_orders_a_set() {
    let box_ = Sandbox::new();
    let names = ["B.aiv", "C.aii", "A.aii"].map(|n| format!("01234567-89ab-cdef-0123-456789abcdef_{n}"));
    for (n, name) in names.iter().enumerate() {
        let file = box_.source().join(name);
        random_file(&file, 4000, n as u64);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + n as u64);
        fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    }
    box_.run(&["a"]).run().expect(0);
    all_restorable(&box_);
    for at in [box_.source(), box_.path("a")] {
        fs::remove_file(at.join(&names[1])).unwrap();
    }
    for _ in 0..2 {
        let lacks = lacks(&box_);
        let of = |n: usize| lacks.iter().find(|(image, _)| *image == names[n]).unwrap().1.clone();
        assert_eq!(of(0), "");
        assert!(of(2).contains(&names[1]), "{lacks:?}");
        let ran = box_.run(&["a"]).run().expect(0);
        assert!(
            ran.events().iter().any(|e| e["code"] == "not-restorable"),
            "told in every run: {}",
            ran.all()
        );
    }
}

/// The same names and sizes, older content; killed at every point of the run that puts it right.
#[test]
fn a_seeded_target_with_older_content_is_never_called_restorable_before_it_is() {
    let prepared = || {
        let box_ = Sandbox::new();
        chain(&box_.source(), 2, 1);
        chain(&box_.path("a"), 2, 70);
        box_
    };
    let box_ = prepared();
    let log = box_.path("points");
    box_.run(&["a"]).env("OFFSITE_KILL_LOG", &log).run().expect(0);
    let points = fs::read_to_string(&log).unwrap().lines().count();
    assert!(points > 8, "{points}");
    all_restorable(&box_);
    for at in (1..=points).step_by(2) {
        let box_ = prepared();
        let killed = box_.run(&["a"]).args(["--attempts", "1"]).env("OFFSITE_KILL_AT", at.to_string()).run();
        assert_ne!(killed.code, Some(0), "killed at {at}");
        let (there, source) = (tree(&box_.path("a")), tree(&box_.source()));
        let mut whole = true;
        let mut lacks = lacks(&box_);
        lacks.sort();
        for (n, (image, lack)) in lacks.iter().enumerate() {
            assert_eq!(*image, name(n));
            whole &= there[Path::new(image)] == source[Path::new(image)];
            assert!(!lack.is_empty() || whole, "killed at {at}: {image} is called restorable");
        }
        box_.run(&["a"]).run().expect(0);
        assert_eq!(tree(&box_.path("a")), source, "killed at {at}");
        all_restorable(&box_);
        skips_only(&box_);
    }
}

#[test]
fn a_seeded_target_that_is_the_source_is_adopted_and_restorable() {
    let box_ = Sandbox::new();
    chain(&box_.source(), 3, 1);
    chain(&box_.path("a"), 3, 1);
    let ran = box_.run(&["a"]).run().expect(0);
    let sent: u64 = ran.events().iter().filter_map(|e| e["sent_bytes"].as_u64()).sum();
    assert_eq!(sent, 0, "{}", ran.all());
    all_restorable(&box_);
    skips_only(&box_);
}

/// Every image is hashed at the source, and none is read back from the target, which would not let it be.
#[test]
fn a_chmod_at_the_source_reads_nothing_from_the_target() {
    let box_ = Sandbox::new();
    qemu::chain(&box_.source(), 2);
    let url = format!("chaos:{}", box_.text("a"));
    let run = |faults: &str| {
        box_.offsite()
            .args(["run", "--source", &box_.text("source"), "--settle", "0", "--json", "--to", &url])
            .args(["--option", &format!("fault={faults}")])
            .run()
    };
    run("[]").expect(0);
    for file in fs::read_dir(box_.source()).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let ran = run(r#"[{"op":"get","mode":"error:Unsupported","after":1}]"#).expect(0);
    assert_eq!(said(&ran, "published").len(), 3, "compared: {}", ran.all());
    assert_eq!(said(&ran, "skipped"), Vec::<String>::new(), "{}", ran.all());
    let told = |event: &str| ran.events().into_iter().filter(|e| e["event"] == event).collect::<Vec<_>>();
    assert!(told("published").iter().all(|e| e["unchanged"] == true), "not sent: {}", ran.all());
    assert_eq!(told("finished")[0]["unchanged"], 3, "{}", ran.all());
    let ran = run("[]").expect(0);
    assert!(said(&ran, "published").is_empty(), "{}", ran.all());
}

/// As an archived storage class (the first two reads are those of the claim): it is there, listed, and cannot be read.
#[test]
fn an_image_that_cannot_be_read_back_holds_itself_and_not_what_comes_after_it() {
    let box_ = Sandbox::new();
    chain(&box_.source(), 2, 1);
    let url = format!("chaos:{}", box_.text("a"));
    for n in 0..2 {
        fs::copy(box_.source().join(name(n)), box_.path("a").join(name(n))).unwrap();
    }
    let run = |faults: &str| {
        box_.offsite()
            .args(["run", "--source", &box_.text("source"), "--settle", "0", "--json", "--to", &url])
            .args(["--option", &format!("fault={faults}")])
            .run()
    };
    let ran = run(r#"[{"op":"get","mode":"error:Unsupported","after":2}]"#).expect(0);
    assert_eq!(said(&ran, "published"), [name(2)], "{}", ran.all());
    assert_eq!(said(&ran, "skipped").len(), 2, "{}", ran.all());
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    let notice = ran.events().into_iter().find(|e| e["code"] == "unreadable-target");
    assert!(notice.is_some(), "{}", ran.all());
    let ran = run("[]").expect(0);
    assert_eq!(said(&ran, "published"), [name(0), name(1)], "{}", ran.all());
    assert!(said(&run("[]").expect(0), "published").is_empty());
}
