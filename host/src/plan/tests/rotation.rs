//! Rotation is ordinary, loss is not: which deletions go unattended, and which wait for the user.

use offsite_plugin_api::TargetPath;

use super::sim::{World, aip, assert_restorable, path, step, work};
use crate::notice::NoticeCode;
use crate::plan::{Action, Code, Plan};

const SECOND: i64 = 1_000_000_000;

/// Everything that a mirror has by default.
fn mirror() -> World {
    let mut world = World::default();
    world.options.sync = true;
    world
}

fn shadow(volume: &str, base: u64, increment: u64) -> String {
    match increment {
        0 => format!("{volume}-b{base:03}.spf"),
        n => format!("{volume}-b{base:03}-i{n:03}.spi"),
    }
}

fn aip_set(host: &str, set: u64, increment: u64) -> String {
    let stem = format!("{host}@a_{:08}_d01_{set:05}", 20_240_100 + set);
    if increment == 0 { format!("{stem}.aiv") } else { format!("{stem}_i{increment:05}.aii") }
}

fn aip_folder(set: u64, increment: u64) -> String {
    let kind = if increment == 0 { "aiv" } else { "aii" };
    format!("vm/{set:04}/{:08x}-0000-0000-0000-{increment:012x}_0.{kind}", 7919 * (set * 100 + increment))
}

fn vzdump(day: u64, _: u64) -> String {
    format!("vzdump-qemu-100-2024_{:02}_{:02}-00_00_00.vma.zst", 1 + day / 28, 1 + day % 28)
}

fn images(world: &World) -> usize {
    world.held.keys().filter(|p| !p.as_bytes().ends_with(b"txt")).count()
}

#[track_caller]
fn held(plan: &Plan) -> Vec<String> {
    assert!(
        plan.notices.iter().any(|n| n.code == NoticeCode::DeletesHeld && n.failing()),
        "{:?}",
        plan.notices
    );
    plan.steps.iter().filter(|s| s.code == Code::Held).map(|s| s.image.display().into_owned()).collect()
}

#[test]
fn other_files_do_not_vouch_for_images() {
    let mut world = mirror();
    world.options.include_other = true;
    (0..12).for_each(|n| world.file(&shadow("C_VOL", 1, n), 1_000 + n, n as i64));
    (0..60).for_each(|n| world.file(&format!("{n}.txt"), 1, 1));
    world.run();
    (0..12).for_each(|n| world.remove(&shadow("C_VOL", 1, n)));
    world.options.allow_deletes = true;
    let plan = world.run();
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
    assert_eq!(held(&plan).len(), 12);
    assert_eq!(images(&world), 12);
}

#[test]
fn images_do_not_vouch_for_other_files() {
    let mut world = mirror();
    world.options.include_other = true;
    world.options.allow_deletes = true;
    world.file(&aip(0), 1, 1);
    (0..3).for_each(|n| world.file(&format!("{n}.txt"), 1, 1));
    world.run();
    (0..3).for_each(|n| world.remove(&format!("{n}.txt")));
    let plan = world.run();
    assert_eq!((plan.totals.delete, held(&plan).len()), (0, 3));
    world.allow_held();
    assert_eq!(world.run().totals.delete, 3);
    assert!(world.plan().notices.is_empty());
}

#[test]
fn images_and_other_files_are_counted_apart() {
    let mut world = mirror();
    world.options.include_other = true;
    (0..12).for_each(|n| world.file(&shadow("C_VOL", 1, n), 1_000 + n, n as i64));
    (0..60).for_each(|n| world.file(&format!("{n:02}.txt"), 1, 1));
    world.run();
    // A third of the images, fewer than a quarter of the files.
    (8..12).for_each(|n| world.remove(&shadow("C_VOL", 1, n)));
    (0..5).for_each(|n| world.remove(&format!("{n:02}.txt")));
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 5, "{:?}", work(&plan));
    assert_eq!(plan.steps.iter().filter(|s| s.code == Code::OverDeleteLimit).count(), 4);
    assert!(plan.notices[0].text.contains("4 of 12 images"), "{:?}", plan.notices);
    // And the other way round: many files are no reason to keep an image.
    (5..20).for_each(|n| world.remove(&format!("{n:02}.txt")));
    (8..11).for_each(|n| world.file(&shadow("C_VOL", 1, n), 1_000 + n, n as i64));
    let plan = world.plan();
    assert_eq!(work(&plan), ["delete c_vol-b001-i011.spi"]);
    assert!(plan.notices[0].text.contains("20 of 60 other files"), "{:?}", plan.notices);
}

#[test]
fn of_three_sets_the_oldest_goes_without_asking() {
    type Name = fn(u64, u64) -> String;
    let names: [(Name, u64); 4] =
        [(|s, i| aip_set("srv", s, i), 3), (|s, i| shadow("C_VOL", s, i), 3), (aip_folder, 3), (vzdump, 1)];
    for (name, length) in names {
        let mut world = mirror();
        let mut clock = 0;
        for set in 1..=3 {
            for image in 0..length {
                clock += 1;
                world.file(&name(set, image), 100 + clock, clock as i64);
            }
        }
        world.run();
        (0..length).for_each(|image| world.remove(&name(1, image)));
        let plan = world.run();
        assert_eq!(plan.totals.delete, length, "{plan:#?}");
        assert!(plan.steps.iter().filter(|s| s.action == Action::Delete).all(|s| s.code == Code::Rotated));
        assert!(plan.notices.is_empty(), "{:?}", plan.notices);
        assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate));
    }
}

/// Six sets on both sides, of which the first `gone` go at once at the source.
fn many_gone(name: fn(u64, u64) -> String, gone: u64) -> World {
    let mut world = mirror();
    for set in 1..=6 {
        (0..3).for_each(|n| world.file(&name(set, n), 100 + n, (10 * set + n) as i64));
    }
    world.run();
    for set in 1..=gone {
        (0..3).for_each(|n| world.remove(&name(set, n)));
    }
    world
}

#[test]
fn more_sets_than_stay_are_asked_about_where_only_time_says_that_they_follow_one_another() {
    for (gone, asked) in [(3, false), (4, true), (5, true)] {
        let mut world = many_gone(aip_folder, gone);
        let plan = world.plan();
        let over = plan.notices.iter().any(|n| n.code == NoticeCode::OverDeleteLimit);
        assert_eq!(
            (plan.totals.delete, over),
            (if asked { 0 } else { 3 * gone }, asked),
            "{:?}",
            plan.notices
        );
        world.options.allow_deletes = true;
        assert_eq!(world.plan().totals.delete, 3 * gone);
        world.options.allow_deletes = false;
        world.options.max_delete = 0.9;
        assert_eq!(world.plan().totals.delete, 3 * gone, "as many as the user lets go unasked");
    }
    // Names that say which set is the newer one prove it.
    assert_eq!(many_gone(|s, i| aip_set("srv", s, i), 5).plan().totals.delete, 15);
    // What went one after the other, and had to wait for something else, is no mass.
    let mut world = many_gone(aip_folder, 5);
    for (path, since) in &mut world.inventory.absent_since {
        *since -= i64::from(path.as_bytes()["vm/000".len()]);
    }
    assert_eq!(world.plan().totals.delete, 15);
}

#[test]
fn a_set_that_this_run_leaves_unproven_takes_no_place() {
    let mut world = mirror();
    (0..3).for_each(|n| world.file(&aip_set("srv", 1, n), 100 + n, n as i64));
    (0..5).for_each(|n| world.file(&aip_set("srv", 2, n), 200 + n, 100 + n as i64));
    world.run();
    (0..3).for_each(|n| world.remove(&aip_set("srv", 1, n)));
    (1..3).for_each(|n| world.remove(&aip_set("srv", 2, n)));
    // Too small to hold what lay between.
    world.file(&aip_set("srv", 2, 3), 50, 200);
    let plan = world.plan();
    assert_eq!(step(&plan, &aip_set("srv", 2, 3)).code, Code::ChangedUnproven);
    assert_eq!(plan.totals.delete, 0, "{:?}", work(&plan));
}

/// Weeks of a product that begins a set each week, adds to it each day, and keeps `keep` sets.
fn weeks(name: impl Fn(u64, u64) -> String, days: u64, keep: u64, run_every: u64) {
    let mut world = mirror();
    for day in 0..70 {
        let (set, image) = (day / days, day % days);
        world.inventory.scanned_ns = (day as i64 + 1) * 86_400 * SECOND;
        world.now_ns = world.inventory.scanned_ns;
        world.file(&name(set, image), 100 + day, world.now_ns - 3_600 * SECOND);
        if image == 0 && set >= keep {
            for image in 0..days {
                world.remove(&name(set - keep, image));
                let since = world.now_ns - 60 * SECOND;
                world.inventory.absent_since.insert(path(&name(set - keep, image)), since);
            }
        }
        if day % run_every == 0 {
            let plan = world.run();
            assert!(plan.notices.is_empty(), "day {day}: {:?}", plan.notices);
            let view = world.view();
            let whole = view.chains().sets.iter().flat_map(|s| &s.images).filter(|i| i.restorable).count();
            assert!(whole > 0, "day {day}");
        }
    }
    world.run();
    world.run();
    let here: Vec<&TargetPath> = world.inventory.files.iter().map(|f| &f.path).collect();
    assert_eq!(world.held.keys().collect::<Vec<_>>(), here, "what retention removed is gone from the target");
}

#[test]
fn weeks_of_rotation_need_nobody() {
    for keep in [1, 2, 5] {
        for run_every in [1, 3] {
            weeks(|s, i| aip_set("srv", s, i), 7, keep, run_every);
            weeks(|s, i| shadow("C_VOL", s, i), 7, keep, run_every);
            weeks(aip_folder, 7, keep, run_every);
            weeks(vzdump, 1, keep, run_every);
            weeks(|s, i| format!("vm/2024-{s:02}/vda.{}.data", full_or(i)), 7, keep, run_every);
            weeks(|s, _| format!("{:016X}-00-00.mrimg", 7919 * (s + 1)), 1, keep, run_every);
        }
    }
}

fn full_or(image: u64) -> String {
    if image == 0 { "full".into() } else { format!("inc.virtnbdbackup.{image}") }
}

/// Hosts `a` and `b` on both sides.
fn two_hosts() -> World {
    let mut world = mirror();
    world.options.max_delete = 1.0;
    for host in ["a", "b"] {
        (0..3).for_each(|n| world.file(&aip_set(host, 1, n), 100 + n, n as i64));
    }
    world.run();
    world
}

#[test]
fn the_end_of_a_host_waits_for_the_user() {
    let mut world = two_hosts();
    world.options.allow_deletes = true;
    (0..3).for_each(|n| world.remove(&aip_set("a", 1, n)));
    let plan = world.run();
    assert_eq!((plan.totals.delete, held(&plan).len()), (0, 3), "{:?}", work(&plan));
    assert!(plan.notices[0].text.contains("offsite target allow-deletes"), "{:?}", plan.notices);
    assert_eq!(held(&world.run()).len(), 3, "it stays so");
    world.allow_held();
    assert_eq!(work(&world.run()), [2, 1, 0].map(|n| format!("delete {}", aip_set("a", 1, n))));
    assert!(world.plan().notices.is_empty());
}

#[test]
fn emptied_bit_by_bit_the_last_image_is_held_all_the_same() {
    let mut world = two_hosts();
    for n in [2, 1] {
        world.remove(&aip_set("a", 1, n));
        assert_eq!(work(&world.run()), [format!("delete {}", aip_set("a", 1, n))]);
    }
    world.remove(&aip_set("a", 1, 0));
    assert_eq!(held(&world.run()), [aip_set("a", 1, 0)]);
    assert_restorable(&world, &aip_set("a", 1, 0), true);
}

#[test]
fn a_folder_is_not_emptied_because_there_is_another() {
    let name = |host: &str, n: u64| {
        format!("{host}/{n:08}-0000-0000-0000-000000000000_0.ai{}", ["v", "i"][n.min(1) as usize])
    };
    for (one, other) in [("paris", "rome"), ("srv1", "srv2")] {
        let mut world = mirror();
        world.options.max_delete = 1.0;
        // Both go on side by side.
        for n in 0..3 {
            world.file(&name(one, n), 100, 10 * n as i64 + 1);
            world.file(&name(other, n), 100, 10 * n as i64 + 2);
        }
        world.run();
        (0..3).for_each(|n| world.remove(&name(one, n)));
        let plan = world.run();
        assert_eq!((plan.totals.delete, held(&plan).len()), (0, 3), "{one}: {:?}", work(&plan));
    }
}

#[test]
fn what_was_allowed_is_that_and_nothing_else() {
    let mut world = two_hosts();
    (0..3).for_each(|n| world.remove(&aip_set("a", 1, n)));
    world.run();
    world.allow_held();
    // Another content under the same name.
    let record = world.records.get_mut(&path(&aip_set("a", 1, 0))).unwrap();
    record.blake3 = Some([7; 32]);
    let plan = world.run();
    assert_eq!(held(&plan), [aip_set("a", 1, 0)]);
    assert_eq!(plan.totals.delete, 2);

    // The source has it again: the word is spent.
    let mut world = two_hosts();
    (0..3).for_each(|n| world.remove(&aip_set("a", 1, n)));
    world.run();
    world.allow_held();
    (0..3).for_each(|n| world.file(&aip_set("a", 1, n), 100 + n, n as i64));
    world.run();
    assert!(world.deletes.allowed.is_empty());
    (0..3).for_each(|n| world.remove(&aip_set("a", 1, n)));
    assert_eq!(world.run().totals.delete, 0);
}

/// The old set of `a` is gone, a new one begins.
fn next_set() -> World {
    let mut world = two_hosts();
    (0..3).for_each(|n| world.remove(&aip_set("a", 1, n)));
    world.file(&aip_set("a", 2, 0), 100, 100);
    world
}

#[test]
fn an_old_set_goes_after_the_new_one_is_published_and_not_if_that_fails() {
    let world = next_set();
    let plan = world.plan();
    assert_eq!(plan.totals.delete, 3, "{:?}", work(&plan));
    let copied = plan.steps.iter().position(|s| s.action == Action::Copy).unwrap();
    for deletion in plan.steps.iter().filter(|s| s.action == Action::Delete) {
        assert!(deletion.after.contains(&copied), "{deletion:?}");
    }
    assert!(plan.notices.is_empty());
}

#[test]
fn an_old_set_stays_while_the_new_one_is_not_whole() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, &str); 7] = [
        ("being written", |w| w.unsettle(&aip_set("a", 2, 0)), "takes its place"),
        (
            "being written under another name",
            |w| {
                let name = format!("{}.tmp", aip_set("a", 2, 0));
                w.remove(&aip_set("a", 2, 0));
                w.file(&name, 1, 100);
                w.unsettle(&name);
            },
            "takes its place",
        ),
        (
            "its increment is being written",
            |w| {
                w.file(&aip_set("a", 2, 1), 1, 101);
                w.unsettle(&aip_set("a", 2, 1));
            },
            "takes its place",
        ),
        (
            "an increment without its base",
            |w| {
                w.remove(&aip_set("a", 2, 0));
                w.file(&aip_set("a", 2, 1), 1, 101);
            },
            "takes its place",
        ),
        ("too large", |w| w.capabilities.largest_file = Some(10), "takes its place"),
        (
            "its folder cannot be read",
            |w| w.inventory.unreadable.push((TargetPath::root(), "EIO".into())),
            "could not be read",
        ),
        (
            "a file of the old one turns up unfinished",
            |w| {
                w.inventory.unsettled.push(crate::source::Unsettled {
                    path: path(&aip_set("a", 1, 3)),
                    reason: "still being written".into(),
                    cause: crate::source::Cause::Unsettled,
                });
            },
            "a file of its set",
        ),
    ];
    for (what, change, reason) in cases {
        let mut world = next_set();
        change(&mut world);
        let plan = world.plan();
        assert_eq!(plan.totals.delete, 0, "{what}: {:?}", work(&plan));
        let old = step(&plan, &aip_set("a", 1, 0));
        assert_eq!(old.code, Code::Protected, "{what}");
        assert!(old.reason.contains(reason), "{what}: {}", old.reason);
        assert!(
            !plan.notices.iter().any(|n| n.code == NoticeCode::DeletesHeld),
            "{what}: {:?}",
            plan.notices
        );
    }
}

#[test]
fn what_is_no_business_of_the_set_does_not_keep_it() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 4] = [
        ("another folder", |w| w.inventory.unreadable.push((path("elsewhere"), "EIO".into()))),
        ("another host's increment", |w| {
            w.file(&aip_set("b", 1, 3), 1, 1);
            w.unsettle(&aip_set("b", 1, 3));
        }),
        ("a lock on another host's image", |w| {
            w.remove(&aip_set("b", 1, 2));
            w.held.get_mut(&path(&aip_set("b", 1, 2))).unwrap().retention = Some(5_000);
        }),
        ("another host's end", |w| {
            (0..3).for_each(|n| w.remove(&aip_set("b", 1, n)));
            // What vouches for the source.
            w.file(&aip_set("c", 1, 0), 1, 1);
        }),
    ];
    for (what, change) in cases {
        let mut world = next_set();
        if what == "another host's end" {
            world.file(&aip_set("c", 1, 0), 1, 1);
            world.run();
            for n in 0..3 {
                world.file(&aip_set("a", 1, n), 100 + n, n as i64);
            }
            world.run();
            (0..3).for_each(|n| world.remove(&aip_set("a", 1, n)));
        }
        change(&mut world);
        let plan = world.plan();
        let gone = plan.steps.iter().filter(|s| s.code == Code::Rotated).count();
        assert_eq!(gone, 3, "{what}: {plan:#?}");
    }
}

#[test]
fn a_side_car_of_the_set_goes_with_the_whole_set_only() {
    let mut world = mirror();
    world.options.max_delete = 1.0;
    let name = |day: u64, kind: &str| format!("JobD2024-01-{day:02}T220000.{kind}");
    for file in [name(1, "vbk"), name(2, "vib"), "Job.vbm".into(), "OtherD2024-01-01T220000.vbk".into()] {
        world.file(&file, 10, 1);
    }
    world.run();
    for file in [name(1, "vbk"), name(2, "vib"), "Job.vbm".into()] {
        world.remove(&file);
    }
    assert_eq!(work(&world.run()), [] as [String; 0], "held, all of it");
    world.allow_held();
    let plan = world.run();
    assert_eq!(plan.totals.delete, 3, "{plan:#?}");
}

#[test]
fn what_an_image_that_cannot_be_copied_yet_may_hold_stays() {
    let mut world = mirror();
    world.options.max_delete = 1.0;
    (0..=3).for_each(|n| world.file(&aip_set("srv", 1, n), 1_000 + n, n as i64 + 1));
    world.run();
    // 3 was merged into 4, and 4 waits: its parent may lie in the folder that cannot be read.
    world.remove(&aip_set("srv", 1, 3));
    world.file(&aip_set("srv", 1, 4), 2_000, 9);
    world.inventory.unreadable.push((path("elsewhere"), "EIO".into()));
    let plan = world.run();
    assert_eq!(work(&plan), [] as [String; 0]);
    let kept = step(&plan, &aip_set("srv", 1, 3));
    assert!(kept.reason.contains(&aip_set("srv", 1, 4)), "{}", kept.reason);
}
