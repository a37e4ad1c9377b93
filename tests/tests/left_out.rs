//! What the source holds and is not replicated is told, and what nobody wants replicated is not waited for.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;

use offsite_tests::fuse::Mirror;
use offsite_tests::program::Ran;
use offsite_tests::qemu;
use offsite_tests::sandbox::{Sandbox, random_file, tree};

fn notices(ran: &Ran, code: &str) -> Vec<String> {
    let events = ran.events().into_iter().filter(|e| e["event"] == "notice" && e["code"] == code);
    events
        .map(|e| format!("{} {}", e["level"].as_str().unwrap_or("?"), e["text"].as_str().unwrap()))
        .collect()
}

#[test]
fn a_folder_that_became_a_link_is_told_and_nothing_of_it_is_deleted() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b001.spf"), 4000, 1);
    fs::create_dir(box_.source().join("in")).unwrap();
    random_file(&box_.source().join("in/disk-b002.spf"), 3 << 20, 2);
    let run = || box_.run(&["a"]).args(["--sync", "--allow-deletes"]).run().expect(0);
    run();
    let held = tree(&box_.path("a"));
    fs::rename(box_.source().join("in"), box_.path("moved")).unwrap();
    symlink(box_.path("moved"), box_.source().join("in")).unwrap();
    for _ in 0..3 {
        let ran = run();
        let told = notices(&ran, "symlink-replaced");
        assert_eq!(told.len(), 1, "{}", ran.all());
        assert!(told[0].starts_with("warning 'in'") && told[0].contains("1 file (3.0 MiB)"), "{told:?}");
        assert!(told[0].contains("in/disk-b002.spf"), "{told:?}");
        assert_eq!(tree(&box_.path("a")), held);
    }
}

#[test]
fn a_source_of_images_that_nobody_knows_is_no_success() {
    let box_ = Sandbox::new();
    for (name, size) in [("a.vhdx", 2 << 20), ("b.vmdk", 1 << 20), ("c.bak", 500)] {
        random_file(&box_.source().join(name), size, 1);
    }
    let ran = box_.run(&["a"]).run().expect(3);
    let told = notices(&ran, "nothing-recognised");
    assert!(told[0].contains("3 files (3.0 MiB), 'a.vhdx' for one"), "{told:?}");
    assert!(notices(&ran, "image-like-unrecognised")[0].starts_with("warning "), "{}", ran.all());
    box_.run(&["a"]).args(["--include-other"]).run().expect(0);
    assert_eq!(tree(&box_.path("a")), tree(&box_.source()));
    // Small files are no images that were missed.
    let small = Sandbox::new();
    random_file(&small.source().join("readme.txt"), 500, 1);
    small.run(&["a"]).run().expect(0);
}

#[test]
fn what_no_format_knows_is_told_beside_what_is_replicated_until_it_is_ignored() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b001.spf"), 4000, 1);
    random_file(&box_.source().join("strange.name"), 13 << 20, 2);
    random_file(&box_.source().join("vm.vhdx"), 2000, 2);
    fs::create_dir(box_.source().join("old")).unwrap();
    random_file(&box_.source().join("old/x.dat"), 2000, 3);
    let ran = box_.run(&["a"]).args(["--sync"]).run().expect(0);
    let unknown = notices(&ran, "unrecognised");
    assert!(unknown.len() == 1 && unknown[0].contains("1 file (13.0 MiB), 'strange.name'"), "{unknown:?}");
    assert!(unknown[0].starts_with("info "), "{unknown:?}");
    let like = notices(&ran, "image-like-unrecognised");
    assert_eq!(like.len(), 2, "{like:?}");
    assert!(like.iter().all(|text| text.starts_with("warning ")), "{like:?}");
    assert!(like[0].contains("'vm.vhdx' for one") && like[1].contains("'old' for one"), "{like:?}");
    let ignore = ["--ignore", "strange.*", "--ignore", "*.vhdx", "--ignore", "old"];
    let ran = box_.run(&["a"]).args(["--sync"]).args(ignore).run().expect(0);
    assert!(!ran.stdout.contains("\"notice\""), "{}", ran.all());
}

#[test]
fn an_ignored_image_stays_on_the_target_also_when_it_is_gone() {
    let box_ = Sandbox::new();
    for name in ["disk-b001.spf", "disk-b001-i001.spi", "other-b001.spf", "other-b002.spf"] {
        random_file(&box_.source().join(name), 4000, 1);
    }
    let config = box_.path("offsite.toml");
    let write = |ignore: &str| {
        let text = format!(
            "[[job]]\nname = \"j\"\nsource = {:?}\nsettle = 0\n{ignore}\n[[job.target]]\nurl = {:?}\nsync = true\n\
             max_delete = 1.0\n",
            box_.source(),
            box_.path("a")
        );
        fs::write(&config, text).unwrap();
    };
    let config_ = config.to_string_lossy().into_owned();
    let run = || box_.offsite().args(["run", "--json", "--config", &config_]).run().expect(0);
    write("");
    run();
    write("ignore = [\"disk-*\"]");
    fs::remove_file(box_.source().join("disk-b001-i001.spi")).unwrap();
    fs::remove_file(box_.source().join("other-b001.spf")).unwrap();
    for _ in 0..3 {
        run();
    }
    let left: Vec<_> = tree(&box_.path("a")).into_keys().map(|p| p.to_string_lossy().into_owned()).collect();
    assert!(
        left.contains(&"disk-b001.spf".into()) && left.contains(&"disk-b001-i001.spi".into()),
        "{left:?}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_of_its_image_only() {
    for (errno, word) in [(5, "Input/output error"), (13, "Permission denied")] {
        let box_ = Sandbox::new();
        fs::create_dir(box_.path("share")).unwrap();
        qemu::chain(&box_.source(), 2);
        random_file(&box_.source().join("disk-b001.spf"), 4000, 1);
        random_file(&box_.source().join("disk-b001-i001.spi"), 4000, 1);
        let mirror = Mirror::mount(&box_.source(), &box_.path("share"));
        let base =
            fs::read_dir(box_.source()).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
        let mut images: Vec<String> = base.filter(|name| name.ends_with(".qcow2")).collect();
        images.sort();
        let run = || {
            let command =
                box_.offsite().args(["run", "--source", &box_.text("share"), "--settle", "0", "--json"]);
            command.args(["--to", &box_.text("a")]).run()
        };
        mirror.refuse_open("base.qcow2", errno);
        let ran = run().expect(3);
        let failed: Vec<_> = ran.events().into_iter().filter(|e| e["event"] == "image-failed").collect();
        assert!(failed.len() == 1 && failed[0]["image"] == "base.qcow2", "{}", ran.all());
        assert!(failed[0]["error"].as_str().unwrap().contains(word), "{failed:?}");
        let end = ran.events().into_iter().find(|e| e["event"] == "finished").unwrap();
        assert_eq!((&end["failed"], &end["outcome"]), (&1.into(), &"done".into()), "{end}");
        assert_eq!(end["left"], 2, "its increments wait for it: {end}");
        assert!(box_.path("a/disk-b001-i001.spi").exists(), "other sets go on");
        // What is known by its name is not opened to be known, and yet must be readable.
        mirror.refuse_open("disk-b001.spf", errno);
        random_file(&box_.source().join("disk-b001.spf"), 5000, 7);
        let ran = run().expect(3);
        assert!(ran.stdout.contains("unreadable-file"), "{}", ran.all());
    }
}

#[test]
fn a_file_that_another_program_has_to_itself_waits() {
    let box_ = Sandbox::new();
    fs::create_dir(box_.path("share")).unwrap();
    random_file(&box_.source().join("disk-b001.spf"), 4000, 1);
    random_file(&box_.source().join("other-b001.spf"), 4000, 1);
    let mirror = Mirror::mount(&box_.source(), &box_.path("share"));
    mirror.refuse_open("disk-b001.spf", 16); // EBUSY: how CIFS tells a sharing violation
    let command = box_.offsite().args(["run", "--source", &box_.text("share"), "--settle", "0", "--json"]);
    let ran = command.args(["--to", &box_.text("a")]).run().expect(0);
    let end = ran.events().into_iter().find(|e| e["event"] == "finished").unwrap();
    assert_eq!((&end["failed"], &end["left"]), (&0.into(), &1.into()), "{}", ran.all());
    assert!(box_.path("a/other-b001.spf").exists());
}

#[test]
fn a_growing_log_that_nobody_asked_for_is_not_left() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b001.spf"), 4000, 1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let log = box_.source().join("service.log");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let mut file = fs::File::options().append(true).create(true).open(&log).unwrap();
                file.write_all(b"line\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let run = |more: &[&str]| {
            let source = box_.text("source");
            let command = box_.offsite().args(["run", "--source", &source, "--settle", "1", "--json"]);
            let ran = command.args(["--to", &box_.text("a")]).args(more).run().expect(0);
            let end = ran.events().into_iter().find(|e| e["event"] == "finished").unwrap();
            end["left"].as_u64().unwrap()
        };
        let left = [run(&[]), run(&["--include-other"]), run(&["--include-other", "--exclude", "*.log"])];
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(left, [0, 1, 0]);
    });
}
