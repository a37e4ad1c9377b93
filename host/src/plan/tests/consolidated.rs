//! Consolidation on either side, with every kind of evidence, and damage that only looks like it.

use super::sim::{World, aip, assert_restorable, path, qcow2, qcow2_name, step, work};
use crate::chain::Span;
use crate::plan::{Action, Code, NoticeCode};

/// Base, 1, 2, 3 on both sides; the target consolidates 1 to 3 into 3; then 4 is created.
fn closed() -> World {
    let mut world = World::with_aip(3);
    world.run();
    world.erase(&aip(1));
    world.erase(&aip(2));
    world.write(&aip(3), "1 to 3", 300);
    world.file(&aip(4), 104, 5);
    world
}

/// The same with qcow2, whose header says it.
fn by_header() -> World {
    let mut world = World::with_qcow2(3);
    world.run();
    world.erase(&qcow2_name(1));
    world.erase(&qcow2_name(2));
    world.write(&qcow2_name(3), "1 to 3", 300);
    world.held.get_mut(&path(&qcow2_name(3))).unwrap().header =
        Some(qcow2(&qcow2_name(3), Some("base.qcow2")));
    world.put(&qcow2_name(4), 104, 5, Some(qcow2(&qcow2_name(4), Some(&qcow2_name(3)))));
    world
}

/// What offsite itself (or a manifest) knows: the record is of the consolidated file.
fn with_manifest(world: &mut World, name: &str) {
    let held = world.held[&path(name)].clone();
    let recorded = world.records.get_mut(&path(name)).unwrap();
    recorded.size = held.size;
    recorded.target_version = Some(held.version.to_string());
    world.spans.insert(path(name), Span { first: 1, last: 3 });
}

#[track_caller]
fn only_the_new_one(world: &mut World, name: fn(u64) -> String, code: Code) {
    let plan = world.run();
    assert_eq!(work(&plan), [format!("copy {}", name(4).to_lowercase())]);
    for n in [1, 2] {
        let held = if code == Code::Unproven { Code::Unproven } else { Code::Covered };
        assert_eq!(step(&plan, &name(n)).code, held);
    }
    let kept = if code == Code::Unproven { Code::Unproven } else { Code::Consolidated };
    assert_eq!(step(&plan, &name(3)).code, kept);
    assert_eq!(world.held[&path(&name(3))].content, "1 to 3", "the consolidated image is not overwritten");
    assert_restorable(world, &name(4), true);
    assert_eq!(work(&world.plan()), [] as [String; 0], "and again there is nothing to do");
}

#[test]
fn after_a_consolidation_on_the_target_only_the_new_image_is_sent_by_manifest() {
    let mut world = closed();
    with_manifest(&mut world, &aip(3));
    only_the_new_one(&mut world, aip, Code::Consolidated);
}

#[test]
fn after_a_consolidation_on_the_target_only_the_new_image_is_sent_by_header() {
    only_the_new_one(&mut by_header(), qcow2_name, Code::Consolidated);
}

#[test]
fn a_header_proves_it_with_catalog_and_manifest_lost() {
    let mut world = by_header();
    world.lose_records();
    let plan = world.run();
    assert_eq!(work(&plan), [format!("copy {}", qcow2_name(4))]);
    // The header says what it absorbed; whether it is whole, nobody here knows before the user says so.
    assert_restorable(&world, &qcow2_name(4), false);
    world.accepted.push(path(&qcow2_name(3)));
    assert_restorable(&world, &qcow2_name(4), true);
}

#[test]
fn after_a_consolidation_on_the_target_only_the_new_image_is_sent_by_catalog_unproven() {
    let mut world = closed();
    only_the_new_one(&mut world, aip, Code::Unproven);
    assert!(world.plan().notices.iter().any(|n| n.code == NoticeCode::Unproven && !n.failing()));
}

#[test]
fn an_accepted_consolidation_is_proven() {
    let mut world = closed();
    world.accepted.push(path(&aip(3)));
    only_the_new_one(&mut world, aip, Code::Consolidated);
    let mut world = closed();
    world.options.accept_unproven = true;
    only_the_new_one(&mut world, aip, Code::Consolidated);
}

#[test]
fn a_set_that_only_time_orders_is_consolidated_by_the_catalog_too() {
    let name = |n: u64| {
        let kind = if n == 0 { "aiv" } else { "aii" };
        format!("vm/0000000{n}-0000-0000-0000-000000000000_0.{kind}")
    };
    let mut world = World::default();
    for n in 0..=3 {
        world.file(&name(n), 100 + n, n as i64 + 1);
    }
    world.run();
    world.erase(&name(1));
    world.erase(&name(2));
    world.write(&name(3), "1 to 3", 300);
    world.file(&name(4), 104, 5);
    only_the_new_one(&mut world, name, Code::Unproven);
}

#[test]
fn damage_is_copied_again() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, &[&str]); 5] = [
        (
            "1 and 2 gone beside an unchanged 3",
            |w| {
                w.erase(&aip(1));
                w.erase(&aip(2));
            },
            &["copy 1", "copy 2"],
        ),
        (
            "3 changed, but 1 is still there: the run is not contiguous",
            |w| {
                w.erase(&aip(1));
                w.write(&aip(3), "?", 300);
            },
            &["copy 1", "replace 3"],
        ),
        (
            "the base changed as well",
            |w| {
                w.erase(&aip(1));
                w.erase(&aip(2));
                w.write(&aip(3), "?", 300);
                w.write(&aip(0), "?", 5);
            },
            &["replace 0", "copy 1", "copy 2", "replace 3"],
        ),
        ("3 changed alone", |w| w.write(&aip(3), "?", 300), &["replace 3"]),
        (
            "the source's 3 is another one since",
            |w| {
                w.erase(&aip(1));
                w.erase(&aip(2));
                w.write(&aip(3), "?", 300);
                w.at_source(&aip(3)).mtime_ns = 77;
            },
            &["copy 1", "copy 2", "replace 3"],
        ),
    ];
    for (what, change, expected) in cases {
        let mut world = World::with_aip(3);
        world.run();
        change(&mut world);
        let named = |n: &str| {
            let (action, n) = n.split_once(' ').unwrap();
            format!("{action} {}", aip(n.parse().unwrap()))
        };
        let plan = world.run();
        assert_eq!(work(&plan), expected.iter().map(|e| named(e)).collect::<Vec<_>>(), "{what}");
        assert_restorable(&world, &aip(3), true);
        assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate), "{what}");
    }
}

#[test]
fn a_changed_image_whose_header_is_not_recognised_any_more_is_damage() {
    let mut world = by_header();
    world.held.get_mut(&path("3.qcow2")).unwrap().header = None;
    let plan = world.run();
    assert_eq!(work(&plan), ["copy 1.qcow2", "copy 2.qcow2", "replace 3.qcow2", "copy 4.qcow2"]);
}

#[test]
fn a_branch_from_within_the_span_needs_what_was_merged() {
    let mut world = by_header();
    world.put("2b.qcow2", 50, 9, Some(qcow2("2b.qcow2", Some("2.qcow2"))));
    let plan = world.run();
    let sent: Vec<_> = ["1.qcow2", "2.qcow2"].into_iter().map(|n| step(&plan, n).action).collect();
    assert_eq!(sent, [Action::Copy, Action::Copy]);
    assert_eq!(step(&plan, "3.qcow2").code, Code::Consolidated);
    assert_restorable(&world, "2b.qcow2", true);
    assert_restorable(&world, "4.qcow2", true);
}

#[test]
fn a_consolidated_image_under_its_own_name_covers_the_numbers_it_holds() {
    let name = |n: u64| match n {
        0 => "vol-b001.spf".to_owned(),
        n => format!("vol-b001-i{n:03}.spi"),
    };
    let mut world = World::default();
    for n in 0..=3 {
        world.file(&name(n), 10 + n, n as i64 + 1);
    }
    world.run();
    for n in 1..=3 {
        world.erase(&name(n));
    }
    world.write("vol-b001-i003-cd.spi", "1 to 3", 30);
    world.file(&name(4), 14, 5);
    let plan = world.run();
    assert_eq!(work(&plan), [format!("copy {}", name(4))]);
    for n in 1..=3 {
        assert_eq!(step(&plan, &name(n)).code, Code::Covered, "{n}");
    }
    assert_restorable(&world, &name(4), true);
}

#[test]
fn consolidated_at_the_source_replaces_the_last_then_deletes_highest_first() {
    let mut world = World::with_aip(4);
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.run();
    world.remove(&aip(1));
    world.remove(&aip(2));
    world.file(&aip(3), 300, 50);
    let plan = world.run();
    assert_eq!(
        work(&plan),
        [format!("replace {}", aip(3)), format!("delete {}", aip(2)), format!("delete {}", aip(1))]
    );
    assert_eq!(step(&plan, &aip(3)).span, Some(Span { first: 1, last: 3 }));
    assert_restorable(&world, &aip(4), true);
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn consolidated_at_the_source_without_sync_keeps_what_was_absorbed() {
    let mut world = World::with_aip(4);
    world.run();
    world.remove(&aip(1));
    world.remove(&aip(2));
    world.file(&aip(3), 300, 50);
    let plan = world.run();
    assert_eq!(work(&plan), [format!("replace {}", aip(3))]);
    assert_eq!(step(&plan, &aip(2)).code, Code::Kept);
    assert_restorable(&world, &aip(4), true);
}

#[test]
fn images_absorbed_by_a_verified_span_do_not_count_against_the_limit() {
    // By header: 1 and 2 of five images go, more than a quarter.
    let mut world = World::with_qcow2(4);
    world.options.sync = true;
    world.run();
    world.remove("1.qcow2");
    world.remove("2.qcow2");
    world.put("3.qcow2", 300, 50, Some(qcow2("3.qcow2", Some("base.qcow2"))));
    let plan = world.run();
    assert_eq!(work(&plan), ["replace 3.qcow2", "delete 2.qcow2", "delete 1.qcow2"]);
    assert_restorable(&world, "4.qcow2", true);

    // A closed format shows nothing; what its transfer proves does not count either.
    let mut world = World::with_aip(4);
    world.options.sync = true;
    world.run();
    world.remove(&aip(1));
    world.remove(&aip(2));
    world.file(&aip(3), 300, 50);
    let plan = world.run();
    assert_eq!(
        work(&plan),
        [format!("replace {}", aip(3)), format!("delete {}", aip(2)), format!("delete {}", aip(1))]
    );
    assert_restorable(&world, &aip(4), true);
}

#[test]
fn consolidated_at_the_source_under_a_new_name() {
    let mut world = World::default();
    world.options.sync = true;
    world.file("vol-b001.spf", 10, 1);
    for n in 1..=4 {
        world.file(&format!("vol-b001-i{n:03}.spi"), 10 + n, n as i64 + 1);
    }
    world.run();
    for n in 1..=3 {
        world.remove(&format!("vol-b001-i{n:03}.spi"));
    }
    world.file("vol-b001-i003-cd.spi", 30, 50);
    let plan = world.run();
    let expected = [
        "copy vol-b001-i003-cd.spi",
        "delete vol-b001-i003.spi",
        "delete vol-b001-i002.spi",
        "delete vol-b001-i001.spi",
    ];
    assert_eq!(work(&plan), expected);
    assert_restorable(&world, "vol-b001-i004.spi", true);
}

#[test]
fn beneath_a_source_file_that_is_no_image_the_targets_consolidation_is_kept() {
    let mut world = closed();
    with_manifest(&mut world, &aip(3));
    world.at_source(&aip(3)).size = 0;
    world.at_source(&aip(3)).mtime_ns = 70;
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(3)).code, Code::NotAnImage);
    assert_eq!([1, 2].map(|n| step(&plan, &aip(n)).code), [Code::Covered; 2]);
}

#[test]
fn a_branch_that_lies_on_the_target_needs_what_was_merged_beneath_it() {
    let mut world = World::with_qcow2(3);
    world.put("2b.qcow2", 50, 9, Some(qcow2("2b.qcow2", Some("2.qcow2"))));
    world.run();
    world.erase("1.qcow2");
    world.erase("2.qcow2");
    world.write("3.qcow2", "1 to 3", 300);
    world.held.get_mut(&path("3.qcow2")).unwrap().header = Some(qcow2("3.qcow2", Some("base.qcow2")));
    let plan = world.run();
    assert_eq!(work(&plan), ["copy 1.qcow2", "copy 2.qcow2"]);
    assert_restorable(&world, "2b.qcow2", true);
}

#[test]
fn what_builds_on_an_unproven_consolidation_is_told_so_where_the_source_lost_what_that_holds() {
    let mut world = closed();
    world.remove(&aip(1));
    world.remove(&aip(2));
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(3)).code, Code::Unproven);
    assert!(step(&plan, &aip(4)).reason.contains("unproven"), "{}", step(&plan, &aip(4)).reason);
}
