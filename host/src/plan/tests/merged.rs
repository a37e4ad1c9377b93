//! Merges at the source: what proves one, what only looks like it, and that nothing is deleted for the latter.

use super::sim::{World, aip, assert_restorable, path, qcow2, step, work};
use crate::chain::Span;
use crate::notice::NoticeLevel;
use crate::plan::{Action, Code, FileAction, NoticeCode, Sign};
use crate::source::Earlier;

/// Base and increments up to `last` on both sides, mirrored; then 1 and 2 go at the source.
fn two_gone(last: u64) -> World {
    let mut world = World::with_aip(last);
    world.options.sync = true;
    world.run();
    world.remove(&aip(1));
    world.remove(&aip(2));
    world
}

#[track_caller]
fn both_are_there(world: &World) {
    for n in [1, 2] {
        assert!(world.held.contains_key(&path(&aip(n))), "{n} is gone");
    }
}

#[track_caller]
fn nothing_left_to_do(world: &World) {
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}

#[test]
fn a_touch_is_no_merge() {
    let mut world = two_gone(8);
    assert_eq!(step(&world.run(), &aip(2)).code, Code::Protected, "3 needs it");
    world.touch(&aip(3), 99);
    let plan = world.run();
    assert_eq!(step(&plan, &aip(2)).proof, plan.steps.iter().position(|s| s.merge.is_some()));
    both_are_there(&world);
    assert!(
        world.plan().notices.iter().any(|n| n.code == NoticeCode::Gap),
        "a gap is told as long as it is one"
    );
    assert_eq!(world.spans.len(), 0, "3 holds what it held");
    for n in 1..=8 {
        assert_restorable(&world, &aip(n), true);
    }
    nothing_left_to_do(&world);
    assert_eq!(step(&world.plan(), &aip(2)).code, Code::Protected);
}

/// A scan missed both while 3 was still what the target has of it: they were removed, whatever 3 is now.
#[test]
fn what_was_missing_before_the_holder_changed_is_not_in_it() {
    for told in [false, true] {
        let mut world = two_gone(4);
        let recorded = world.records[&path(&aip(3))].clone();
        world.file(&aip(3), 300, 50);
        let since = world.inventory.absent_since[&path(&aip(2))];
        let earlier = Earlier { form: Some((recorded.size, recorded.source_mtime_ns)), until_ns: since + 1 };
        if told {
            world.inventory.earlier.insert(path(&aip(3)), earlier);
        }
        world.run();
        assert_eq!(world.held.contains_key(&path(&aip(2))), told);
        if told {
            both_are_there(&world);
            assert_eq!(step(&world.plan(), &aip(2)).code, Code::Protected);
        }
    }
}

/// By content, by size, by first bytes, by record: each alone.
#[test]
fn without_evidence_nothing_is_deleted_until_it_is_accepted() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 3] = [
        ("too small for what it absorbed", |w| w.file(&aip(3), 80, 50)),
        ("it begins otherwise", |w| {
            w.file(&aip(3), 300, 50);
            w.heads.insert(path(&aip(3)), [9; 16]);
        }),
        ("nothing is known of how it began", |w| {
            w.file(&aip(3), 300, 50);
            w.records.get_mut(&path(&aip(3))).unwrap().head = None;
        }),
    ];
    for (what, change) in cases {
        let mut world = two_gone(4);
        change(&mut world);
        let plan = world.run();
        assert_eq!(
            step(&plan, &aip(3)).action,
            Action::Replace,
            "{what}: the source's word for its own content"
        );
        both_are_there(&world);
        assert_restorable(&world, &aip(4), true);

        let plan = world.plan();
        assert_eq!(work(&plan), [] as [String; 0], "{what}");
        for n in [1, 2] {
            assert_eq!(step(&plan, &aip(n)).code, Code::ChangedUnproven, "{what}: {n}");
        }
        assert!(plan.notices.iter().any(|n| n.code == NoticeCode::ChangedUnproven), "{what}");

        let mut accepted = world.clone();
        accepted.accept_changed();
        let expected = [format!("delete {}", aip(2)), format!("delete {}", aip(1))];
        assert_eq!(work(&accepted.run()), expected, "{what}");
        assert_restorable(&accepted, &aip(4), true);
        nothing_left_to_do(&accepted);

        world.options.accept_unproven = true;
        assert_eq!(work(&world.run()), expected, "{what}: by the option");
    }
}

#[test]
fn without_a_recorded_digest_it_is_unproven() {
    let mut world = two_gone(4);
    world.records.get_mut(&path(&aip(3))).unwrap().blake3 = None;
    world.file(&aip(3), 300, 50);
    let plan = world.run();
    let replaced = step(&plan, &aip(3));
    assert_eq!((replaced.action, replaced.code), (Action::Replace, Code::ChangedUnproven));
    assert_eq!(replaced.merge.as_ref().unwrap().sign, Sign::Missing);
    both_are_there(&world);
    assert_eq!(step(&plan, &aip(1)).code, Code::ChangedUnproven);
}

#[test]
fn the_option_accepts_what_is_small_and_never_a_touch() {
    let mut world = two_gone(4);
    world.options.accept_unproven = true;
    world.touch(&aip(3), 50);
    world.run();
    both_are_there(&world);
    world.file(&aip(3), 80, 60);
    assert_eq!(world.run().totals.delete, 2);
}

/// Killed after the replacement: the next run knows what it holds.
#[test]
fn a_proved_merge_is_finished_by_a_later_run() {
    for timed in [false, true] {
        let name = |n: u64| match n {
            _ if !timed => aip(n),
            0 => "vm/00000000-0000-0000-0000-000000000000_0.aiv".to_owned(),
            n => format!("vm/0000000{n}-0000-0000-0000-000000000000_0.aii"),
        };
        let mut world = World::default();
        world.options.sync = true;
        for n in 0..=4 {
            world.file(&name(n), 100 + n, 10 * n as i64 + 1);
        }
        world.run();
        world.remove(&name(1));
        world.remove(&name(2));
        world.file(&name(3), 300, 35);
        let plan = world.plan();
        let first = plan.steps.iter().position(|s| s.action == Action::Replace).unwrap();
        world.carry_out(&plan, 0..=first);
        assert_restorable(&world, &name(4), true);
        let expected = [format!("delete {}", name(2)), format!("delete {}", name(1))];
        assert_eq!(work(&world.run()), expected, "timed: {timed}");
        assert_restorable(&world, &name(4), true);
        nothing_left_to_do(&world);
    }
}

#[test]
fn four_consolidations_in_a_row_go_on_unattended() {
    let shadow = |n: u64| match n {
        0 => "vol-b001.spf".to_owned(),
        n => format!("vol-b001-i{n:03}.spi"),
    };
    let macrium = |n: u64| format!("disk-{n:02}-{n:02}.mrimg");
    let names: [(&str, &dyn Fn(u64) -> String); 3] =
        [("aip", &aip), ("shadow", &shadow), ("macrium", &macrium)];
    for (what, name) in names {
        let mut world = World::default();
        world.options.sync = true;
        for n in 0..=2 {
            world.file(&name(n), 100 + n, n as i64 + 1);
        }
        world.run();
        for round in 1..=4u64 {
            let (last, next) = (2 * round, 2 * round + 1);
            // Two more, then everything up to the last but one of them is merged into it.
            world.file(&name(next), 100 + next, 100 * next as i64);
            world.file(&name(next + 1), 100 + next, 100 * next as i64 + 1);
            world.run();
            for n in 1..last {
                if world.inventory.file(&path(&name(n))).is_some() {
                    world.remove(&name(n));
                }
            }
            world.file(&name(last), 300 + last, 1_000 * last as i64);
            let plan = world.run();
            assert!(plan.totals.delete > 0, "{what} {round}: {:?}", work(&plan));
            assert!(
                plan.notices.iter().all(|n| n.level < NoticeLevel::Failing),
                "{what} {round}: {:?}",
                plan.notices
            );
            assert_restorable(&world, &name(next + 1), true);
            nothing_left_to_do(&world);
            assert_eq!(world.plan().notices, [], "{what} {round}: an ordinary merge is told of once");
            let held: Vec<_> = world.held.keys().collect();
            let source: Vec<_> = world.inventory.files.iter().map(|f| &f.path).collect();
            assert_eq!(held, source, "{what} {round}");
        }
    }
}

#[test]
fn veeams_full_backup_takes_in_the_oldest_increment() {
    let name = |n: u64| format!("jobD2024-01-{:02}T200000.{}", n + 1, if n == 0 { "vbk" } else { "vib" });
    let mut world = World::default();
    world.options.sync = true;
    world.file("job.vbm", 9, 1);
    for n in 0..=4 {
        world.file(&name(n), if n == 0 { 1_000 } else { 100 + n }, n as i64 + 1);
    }
    world.run();
    // Every day one more, the oldest goes into the full backup.
    for day in 1..=3u64 {
        world.file(&name(4 + day), 104 + day, 50 + day as i64);
        world.remove(&name(day));
        world.file(&name(0), 1_000 + day, 500 + day as i64);
        world.file("job.vbm", 9, 600 + day as i64);
        let plan = world.run();
        assert!(work(&plan).contains(&format!("delete {}", name(day)).to_lowercase()), "{:?}", work(&plan));
        assert_restorable(&world, &name(4 + day), true);
        nothing_left_to_do(&world);
        assert_eq!(world.held.len(), world.inventory.files.len());
    }
    // Touched, or rewritten into something else: nothing is deleted.
    let before = world.clone();
    world.remove(&name(4));
    world.touch(&name(0), 900);
    world.run();
    assert!(world.held.contains_key(&path(&name(4))));
    let mut world = before;
    world.remove(&name(4));
    world.file(&name(0), 1_100, 900);
    world.heads.insert(path(&name(0)), [9; 16]);
    world.run();
    assert!(world.held.contains_key(&path(&name(4))));
    assert_eq!(step(&world.plan(), &name(4)).code, Code::ChangedUnproven);
}

#[test]
fn a_name_that_says_consolidated_must_be_able_to_hold_it() {
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    world.file("vol-b001.spf", 10, 1);
    for n in 1..=4 {
        world.file(&format!("vol-b001-i{n:03}.spi"), 100 + n, n as i64 + 1);
    }
    world.run();
    for n in 1..=3 {
        world.remove(&format!("vol-b001-i{n:03}.spi"));
    }
    world.file("vol-b001-i003-cd.spi", 20, 50);
    let plan = world.run();
    assert_eq!(work(&plan), ["copy vol-b001-i003-cd.spi"]);
    assert_eq!(step(&plan, "vol-b001-i002.spi").code, Code::ChangedUnproven);
    nothing_left_to_do(&world);
}

#[test]
fn an_empty_file_is_no_image_and_replaces_nothing() {
    let mut world = World::with_aip(2);
    world.run();
    world.at_source(&aip(1)).size = 0;
    world.at_source(&aip(1)).mtime_ns = 70;
    world.file(&aip(3), 103, 80);
    let plan = world.run();
    assert_eq!(step(&plan, &aip(1)).code, Code::NotAnImage);
    assert!(plan.notices.iter().any(|n| n.code == NoticeCode::NotAnImage));
    assert_eq!(
        work(&plan),
        [format!("copy {}", aip(3))],
        "the good copy stays, and what builds on it goes on"
    );
    assert_eq!(world.held[&path(&aip(1))].size, 101);
    assert_restorable(&world, &aip(3), true);

    // Where the target has none, nothing is sent, and nothing of what builds on it.
    let mut world = World::with_aip(2);
    world.at_source(&aip(1)).size = 0;
    let plan = world.run();
    assert_eq!(work(&plan), [format!("copy {}", aip(0))]);
    assert_eq!(step(&plan, &aip(2)).code, Code::Waiting);
    let codes: Vec<_> = plan.notices.iter().map(|n| n.code.clone()).collect();
    assert_eq!(codes, [NoticeCode::NotAnImage], "told once: {:?}", plan.notices);
    let chains = world.chains();
    let restorable: Vec<bool> = chains.sets[0].images.iter().map(|i| i.restorable).collect();
    assert_eq!(restorable, [true, false, false], "the source says so, too");

    // By its first bytes.
    let mut world = World::with_aip(2);
    world.inventory.bad.insert(path(&aip(1)), "it does not begin as its format does".into());
    assert_eq!(step(&world.plan(), &aip(1)).code, Code::NotAnImage);
}

#[test]
fn what_was_emptied_or_beheaded_on_the_target_is_damage_and_sent_again() {
    let emptied: fn(&mut World) = |w| w.write(&aip(3), "", 0);
    let beheaded: fn(&mut World) = |w| {
        w.write(&aip(3), "?", 300);
        w.bad.insert(path(&aip(3)), "it does not begin as it did".into());
    };
    for change in [emptied, beheaded] {
        let mut world = World::with_aip(3);
        world.run();
        world.erase(&aip(1));
        world.erase(&aip(2));
        change(&mut world);
        assert_restorable(&world, &aip(3), false);
        let plan = world.run();
        let expected = ["copy 1", "copy 2", "replace 3"].map(|e| {
            let (action, n) = e.split_once(' ').unwrap();
            format!("{action} {}", aip(n.parse().unwrap()))
        });
        assert_eq!(work(&plan), expected);
    }
    // A full backup that nothing builds on, too.
    let mut world = World::default();
    let zst = "vzdump-qemu-100-2024_01_02-03_04_05.vma.zst";
    world.file(zst, 1_000, 1);
    world.run();
    world.write(zst, "", 0);
    assert_restorable(&world, zst, false);
    assert_eq!(work(&world.run()), [format!("replace {zst}")]);
    assert_restorable(&world, zst, true);
}

#[test]
fn doubt_passes_on_to_what_builds_on_it() {
    let mut world = World::with_aip(3);
    world.run();
    world.erase(&aip(1));
    world.erase(&aip(2));
    world.write(&aip(3), "1 to 3", 300);
    world.file(&aip(4), 104, 5);
    world.file(&aip(5), 105, 6);
    let plan = world.run();
    assert!(step(&plan, &aip(5)).reason.contains("unproven"), "{}", step(&plan, &aip(5)).reason);
    let unproven = |world: &World| -> Vec<bool> {
        world.view().chains().sets[0].images.iter().map(|i| i.unproven).collect()
    };
    assert_eq!(unproven(&world), [false, true, true, true]);
    world.accepted.push(path(&aip(3)));
    assert_eq!(unproven(&world), [false; 4]);
    assert_eq!(world.view().chains().sets[0].images[1].span, Some(Span { first: 1, last: 3 }));
}

/// A mode that changed, say: the time of the content did not.
#[test]
fn what_only_may_have_changed_is_compared_and_no_merge() {
    let mut world = two_gone(4);
    world.at_source(&aip(3)).ctime_ns = 99;
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(3)).merge, None);
    assert_eq!([1, 2].map(|n| step(&plan, &aip(n)).code), [Code::Protected; 2]);
    // Nor is what was damaged on the target, and is sent again.
    let mut world = two_gone(4);
    world.write(&aip(3), "?", 50);
    let plan = world.run();
    assert_eq!(work(&plan), [format!("replace {}", aip(3))]);
    assert_eq!(step(&plan, &aip(3)).merge, None);
    both_are_there(&world);
}

#[test]
fn a_merged_image_that_may_have_changed_is_compared() {
    let mut world = two_gone(4);
    world.file(&aip(3), 300, 50);
    world.run();
    nothing_left_to_do(&world);
    world.at_source(&aip(3)).ctime_ns = 99;
    let compared = world.plan();
    let files: Vec<_> = step(&compared, &aip(3)).files.iter().map(|f| f.action).collect();
    assert_eq!(files, [FileAction::Adopt]);
}

#[test]
fn an_unproven_merge_is_not_recorded_as_one() {
    let mut world = two_gone(4);
    world.file(&aip(3), 80, 50);
    let plan = world.plan();
    assert_eq!(step(&plan, &aip(3)).code, Code::ChangedUnproven);
    assert!(!step(&plan, &aip(3)).merged, "what builds on it was not published upon this");
    assert_eq!(step(&plan, &aip(3)).span, None);
}

#[test]
fn where_the_sources_own_chain_leads_elsewhere_it_is_no_merge() {
    let mut world = World::with_qcow2(3);
    world.options.sync = true;
    world.options.max_delete = 0.0;
    world.run();
    world.remove("1.qcow2");
    world.remove("2.qcow2");
    world.put("other.qcow2", 10, 40, Some(qcow2("other.qcow2", Some("base.qcow2"))));
    world.put("3.qcow2", 300, 50, Some(qcow2("3.qcow2", Some("other.qcow2"))));
    let plan = world.plan();
    assert_eq!(step(&plan, "3.qcow2").merge, None);
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
}

/// The target has 1 to 3 in 3, as its manifest says.
fn merged_on_the_target() -> World {
    let mut world = World::with_aip(4);
    world.options.sync = true;
    world.run();
    world.erase(&aip(1));
    world.erase(&aip(2));
    world.write(&aip(3), "1 to 3", 300);
    let version = world.held[&path(&aip(3))].version.to_string();
    let recorded = world.records.get_mut(&path(&aip(3))).unwrap();
    (recorded.size, recorded.target_version) = (300, Some(version));
    world.spans.insert(path(&aip(3)), Span { first: 1, last: 3 });
    world
}

#[test]
fn both_sides_merged_the_same() {
    let merged = || {
        let mut world = merged_on_the_target();
        world.remove(&aip(1));
        world.remove(&aip(2));
        world.file(&aip(3), 310, 50);
        world
    };
    let sign = |world: &World| step(&world.plan(), &aip(3)).merge.as_ref().map(|m| m.sign);
    let mut world = merged();
    assert_eq!(sign(&world), Some(Sign::Head));
    assert_eq!(step(&world.plan(), &aip(3)).parent, Some(path(&aip(0))), "what it builds on is the merge's");
    world.records.get_mut(&path(&aip(3))).unwrap().blake3 = None;
    assert_eq!(sign(&world), Some(Sign::Missing));
    // The source only wrote 3 again, and has 1 and 2.
    let mut world = merged_on_the_target();
    world.file(&aip(3), 103, 50);
    let plan = world.plan();
    let three = step(&plan, &aip(3));
    assert_eq!((three.merge.as_ref(), three.span), (None, None));
}

#[test]
fn a_full_backup_takes_in_only_what_its_product_merges_like_that() {
    let merge = |world: &World, name: &str| step(&world.plan(), name).merge.clone();
    // ActiveImage does not.
    let mut world = World::with_aip(3);
    world.options.sync = true;
    world.run();
    world.remove(&aip(1));
    world.file(&aip(0), 1_000, 50);
    assert_eq!(merge(&world, &aip(0)), None);
    // Veeam does, from the oldest on, while newer ones stay.
    let name = |n: u64, kind: &str| format!("jobD2024-01-{n:02}T200000.{kind}");
    let mut world = World::default();
    world.options.sync = true;
    world.file(&name(1, "vbk"), 1_000, 1);
    (2..=4).for_each(|n| world.file(&name(n, "vib"), 100, n as i64));
    world.run();
    world.remove(&name(2, "vib"));
    world.file(&name(1, "vbk"), 1_010, 50);
    assert!(merge(&world, &name(1, "vbk")).is_some());
    (3..=4).for_each(|n| world.remove(&name(n, "vib")));
    assert_eq!(merge(&world, &name(1, "vbk")), None, "all of them went");
    // Increments that run backwards are not taken in.
    let mut world = World::default();
    world.options.sync = true;
    world.file(&name(4, "vbk"), 1_000, 1);
    (1..=3).for_each(|n| world.file(&name(n, "vrb"), 100, n as i64));
    world.run();
    world.remove(&name(3, "vrb"));
    world.file(&name(4, "vbk"), 1_010, 50);
    assert_eq!(merge(&world, &name(4, "vbk")), None);
}

#[test]
fn a_name_alone_does_not_vouch_for_what_is_too_small() {
    let mut world = World::default();
    world.options.sync = true;
    world.options.max_delete = 1.0;
    let names = ["vol-b001.spf", "vol-b001-i001.spi", "vol-b001-i003-cd.spi", "vol-b001-i004.spi"];
    names.iter().for_each(|name| world.file(name, 100, 1));
    world.run();
    world.remove("vol-b001-i001.spi");
    world.file("vol-b001-i003-cd.spi", 5, 50);
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
    assert_eq!(step(&plan, "vol-b001-i001.spi").code, Code::ChangedUnproven);
}

#[test]
fn what_only_a_manifest_says_is_merged_counts_against_the_limit() {
    let mut world = two_gone(4);
    world.file(&aip(3), 300, 50);
    let plan = world.plan();
    let first = plan.steps.iter().position(|s| s.action == Action::Replace).unwrap();
    world.carry_out(&plan, 0..=first);
    world.absorbed.clear();
    let plan = world.plan();
    assert_eq!([1, 2].map(|n| step(&plan, &aip(n)).code), [Code::OverDeleteLimit; 2]);
    world.options.max_delete = 0.5;
    assert_eq!(world.plan().totals.delete, 2);
}
