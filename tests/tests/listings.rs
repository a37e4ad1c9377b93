//! Listings that leave published files out, and a name that somebody else took: what is there is not taken for lost, what
//! cannot be known is told, and the rest goes on.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::fs;

use offsite_tests::program::Ran;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

const BASE: &str = "disk-b000.spf";

fn increment(number: u8) -> String {
    format!("disk-b000-i{number:03}.spi")
}

/// Base and two increments.
fn source() -> Sandbox {
    let box_ = Sandbox::new();
    random_file(&box_.source().join(BASE), 70_000, 1);
    for number in 1..=2 {
        random_file(&box_.source().join(increment(number)), 20_000, number.into());
    }
    box_
}

/// A mirror whose listing is met by `mode` every time; "" for none.
fn run(box_: &Sandbox, mode: &str) -> Ran {
    let fault = format!(r#"fault=[{{"op":"list","mode":"{mode}"}}]"#);
    let command =
        box_.run(&[]).args(["--to", &format!("chaos:{}", box_.text("a")), "--sync", "--max-delete", "100%"]);
    if mode.is_empty() { command.run() } else { command.args(["--option", &fault]).run() }
}

/// Images published by this run.
fn published(ran: &Ran) -> Vec<String> {
    let events = ran.events().into_iter();
    let of = |e: serde_json::Value| {
        (e["event"] == "image-done").then(|| e["image"].as_str().unwrap_or("").to_owned())
    };
    events.filter_map(of).collect()
}

#[test]
fn what_a_listing_leaves_out_is_neither_damaged_nor_sent_again_nor_deleted() {
    for mode in ["hide", "skip"] {
        let box_ = source();
        run(&box_, "").expect(0);
        let before = tree(&box_.path("a"));
        random_file(&box_.source().join(increment(3)), 20_000, 3);
        for _ in 0..2 {
            let next = run(&box_, mode).expect(0);
            assert!(!next.all().contains("damaged"), "{mode}: {}", next.all());
            assert!(next.all().contains("is not whole"), "{mode}: it should be told: {}", next.all());
        }
        assert_eq!(
            tree(&box_.source()),
            tree(&box_.path("a")),
            "{mode}: the new image goes on, upon what is there"
        );
        for (path, hash) in before {
            assert_eq!(tree(&box_.path("a")).get(&path), Some(&hash), "{mode}");
        }
        assert!(debris(&box_.path("a")).is_empty(), "{mode}: no second copy is staged");
        // Gone at the source: it stays while the listing is not whole.
        fs::remove_file(box_.source().join(increment(3))).unwrap();
        for _ in 0..3 {
            run(&box_, mode);
        }
        assert!(box_.path("a").join(increment(3)).exists(), "{mode}: nothing is deleted");
        for _ in 0..2 {
            run(&box_, "").expect(0);
        }
        assert_eq!(tree(&box_.source()), tree(&box_.path("a")), "{mode}: as soon as it is whole again");
    }
}

#[test]
fn what_is_not_known_to_be_there_waits_and_is_told() {
    let box_ = source();
    run(&box_, "").expect(0);
    fs::remove_file(box_.path("a").join(increment(2))).unwrap();
    random_file(&box_.source().join(increment(3)), 20_000, 3);
    random_file(&box_.source().join("other-b000.spf"), 20_000, 4);
    let next = run(&box_, "skip").expect(3);
    assert!(next.all().contains("not listed by the target, and whether it still has"), "{}", next.all());
    let there = tree(&box_.path("a"));
    assert!(
        there.contains_key(std::path::Path::new("other-b000.spf")),
        "others go on: {:?}",
        published(&next)
    );
    assert!(
        !there.contains_key(std::path::Path::new(&increment(3))),
        "nothing is published upon what may be gone"
    );
    // The way out: a listing that is whole shows that it is gone, and it is sent again.
    run(&box_, "").expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
}

#[test]
fn a_directory_with_an_images_name_holds_that_image_and_goes_on_when_it_is_moved_away() {
    let box_ = source();
    let taken = box_.path("a").join(increment(1));
    fs::create_dir(&taken).unwrap();
    let folder = || box_.run(&["a"]).args(["--attempts", "1"]).run();
    assert!(folder().all().contains("move it away"), "the run that meets it says what to do");
    for number in 1..=3 {
        random_file(&box_.source().join(format!("other{number}-b000.spf")), 20_000, number);
        let next = folder();
        assert_ne!(next.code, Some(0), "what waits is not green: {}", next.all());
        assert!(next.all().contains("move it away"), "{}", next.all());
        let there = tree(&box_.path("a"));
        let other = format!("other{number}-b000.spf");
        assert!(there.contains_key(std::path::Path::new(&other)), "the others go on: {}", next.all());
        assert!(!there.contains_key(std::path::Path::new(&increment(2))), "its descendants wait");
    }
    fs::remove_dir(&taken).unwrap();
    folder().expect(0);
    assert_eq!(tree(&box_.source()), tree(&box_.path("a")));
    assert!(debris(&box_.path("a")).is_empty());
}
