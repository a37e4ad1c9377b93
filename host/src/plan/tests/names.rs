//! Names and sizes that a target cannot hold.

use offsite_plugin_api::{Capabilities, NameRules, Normalisation};

use super::sim::{World, aip, path, qcow2, step, work};
use crate::plan::{Action, Code, NoticeCode};

fn with_rules(names: NameRules) -> Capabilities {
    Capabilities { names, ..Capabilities::default() }
}

fn put(world: &mut World, name: &str) {
    world.put(name, 10, 1, Some(qcow2(name, None)));
}

#[test]
fn what_a_target_cannot_hold_is_refused_before_anything_runs() {
    let rules = NameRules::default;
    let cases: [(&str, &str, Capabilities, &str); 12] = [
        (
            "character",
            "a:b.qcow2",
            with_rules(NameRules { refused: ":*".into(), ..rules() }),
            "the character ':'",
        ),
        (
            "whole name",
            "con.qcow2",
            with_rules(NameRules { refused_names: vec!["CON".into()], ..rules() }),
            "the name 'CON'",
        ),
        (
            "folder name",
            "aux/x",
            with_rules(NameRules { refused_names: vec!["AUX".into()], ..rules() }),
            "the name 'AUX'",
        ),
        (
            "ending",
            "a./x",
            with_rules(NameRules { refused_endings: ".".into(), ..rules() }),
            "at the end of 'a.'",
        ),
        ("long name", "abcdef", with_rules(NameRules { longest_name: 5, ..rules() }), "6 bytes"),
        ("long path", "abc/def", with_rules(NameRules { longest_path: 6, ..rules() }), "7 bytes"),
        (
            "large file",
            "a",
            Capabilities { largest_file: Some(9), ..Capabilities::default() },
            "up to 9 bytes",
        ),
        (
            "too many parts",
            "a",
            Capabilities {
                part_sizes: Some(offsite_plugin_api::PartSizes { smallest: 1, largest: 3, most_parts: 3 }),
                ..Capabilities::default()
            },
            "up to 9 bytes in parts",
        ),
        ("our marker", "offsite-target", Capabilities::default(), "offsite uses itself"),
        ("our marker, deeper", "sub/offsite-target", Capabilities::default(), "offsite uses itself"),
        ("our manifests", "offsite-manifest/x", Capabilities::default(), "offsite uses itself"),
        (
            "our marker in another case",
            "OFFSITE-target",
            with_rules(NameRules { case_sensitive: false, ..rules() }),
            "offsite uses itself",
        ),
    ];
    for (what, name, capabilities, reason) in cases {
        let mut world = World { capabilities, ..World::default() };
        put(&mut world, name);
        world.put("ok", 5, 1, Some(qcow2("ok", None)));
        let plan = world.plan();
        let refused = step(&plan, name);
        assert_eq!((refused.action, refused.code), (Action::Skip, Code::Refused), "{what}");
        assert!(refused.reason.contains(reason), "{what}: {}", refused.reason);
        assert_eq!(work(&plan), ["copy ok"], "{what}");
        assert!(plan.notices.iter().any(|n| n.code == NoticeCode::Refused && n.failing()), "{what}");
    }
}

#[test]
fn bytes_that_are_no_utf8_are_refused_where_the_server_wants_utf8() {
    let name = offsite_plugin_api::TargetPath::new(vec![b'a', 0xff]).unwrap();
    let mut world = World::default();
    put(&mut world, "x");
    world.inventory.files[0].path = name;
    assert_eq!(world.plan().totals.copy, 1);
    world.capabilities.names.utf8_only = true;
    let plan = world.plan();
    assert_eq!((plan.steps[0].action, plan.steps[0].code), (Action::Skip, Code::Refused));
}

#[test]
fn what_builds_on_a_refused_image_waits() {
    let mut world = World::with_aip(2);
    world.capabilities.largest_file = Some(100);
    world.at_source(&aip(1)).size = 101;
    world.at_source(&aip(2)).size = 5;
    let plan = world.plan();
    assert_eq!(work(&plan), [format!("copy {}", aip(0))]);
    assert_eq!(step(&plan, &aip(1)).code, Code::Refused);
    assert_eq!(step(&plan, &aip(2)).code, Code::Waiting);
}

#[test]
fn names_that_fall_together_are_refused() {
    let insensitive = || with_rules(NameRules { case_sensitive: false, ..NameRules::default() });
    let composed = || with_rules(NameRules { normalisation: Normalisation::Nfc, ..NameRules::default() });
    let cases = [
        ("case", insensitive(), "Base", "base", false),
        ("case beyond ASCII", insensitive(), "STRASSE-Ä", "strasse-ä", false),
        ("the Kelvin sign", insensitive(), "k", "\u{212a}", false),
        ("folders", insensitive(), "A/one", "a/two", false),
        ("a case-sensitive target", Capabilities::default(), "Base", "base", true),
        ("normalisation", composed(), "a\u{308}", "ä", false),
        ("a target that keeps bytes", Capabilities::default(), "a\u{308}", "ä", true),
        ("different names", insensitive(), "a/one", "a/two", true),
    ];
    for (what, capabilities, first, second, both) in cases {
        let mut world = World { capabilities, ..World::default() };
        put(&mut world, first);
        put(&mut world, second);
        let plan = world.plan();
        assert_eq!(plan.totals.copy, if both { 2 } else { 1 }, "{what}");
        if !both {
            let refused = plan.steps.iter().find(|s| s.code == Code::Refused).unwrap();
            assert!(refused.reason.contains("does not tell"), "{what}: {}", refused.reason);
        }
    }
}

#[test]
fn what_is_on_the_target_keeps_its_name() {
    let mut world = World {
        capabilities: with_rules(NameRules { case_sensitive: false, ..NameRules::default() }),
        ..World::default()
    };
    world.write("BASE", "somebody's", 99);
    put(&mut world, "base");
    let plan = world.plan();
    assert_eq!(step(&plan, "base").code, Code::Refused, "it would overwrite 'BASE'");
}

#[test]
fn a_server_that_decomposes_names_is_no_reason_to_send_twice() {
    let mut world = World {
        capabilities: with_rules(NameRules { normalisation: Normalisation::Nfd, ..NameRules::default() }),
        ..World::default()
    };
    put(&mut world, "ä");
    let plan = world.run();
    assert_eq!(step(&plan, "ä").files[0].target, path("a\u{308}"));
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 1, "{:?}", plan.steps);
    assert_eq!(step(&plan, "ä").code, Code::UpToDate);
}

/// A mirror of two servers' images on a target that ignores case; then one folder is renamed by case at the source.
#[test]
fn a_rename_by_case_is_no_deletion_and_no_new_image() {
    let insensitive = NameRules { case_sensitive: false, ..NameRules::default() };
    let composed = NameRules { normalisation: Normalisation::Nfc, ..NameRules::default() };
    let decomposed = NameRules { normalisation: Normalisation::Nfd, ..NameRules::default() };
    let cases = [
        ("case", insensitive.clone(), "Server1", "server1"),
        ("case beyond ASCII", insensitive.clone(), "Büro", "BÜRO"),
        ("normalisation where case is ignored", insensitive, "Bu\u{308}ro", "Büro"),
        ("composed", composed, "Bu\u{308}ro", "Büro"),
        ("decomposed", decomposed, "Büro", "Bu\u{308}ro"),
    ];
    for (what, rules, before, now) in cases {
        let mut world = World { capabilities: with_rules(rules), ..World::default() };
        world.options.sync = true;
        world.options.max_delete = 1.0;
        for n in 0..=2 {
            world.file(&format!("{before}/{}", aip(n)), 100 + n, n as i64 + 1);
            world.file(&format!("other/{}", aip(n)), 100 + n, n as i64 + 1);
        }
        world.run();
        let held: Vec<_> = world.held.keys().cloned().collect();
        for n in 0..=2 {
            world.remove(&format!("{before}/{}", aip(n)));
            world.file(&format!("{now}/{}", aip(n)), 100 + n, n as i64 + 1);
        }
        assert_eq!(work(&world.run()), [] as [String; 0], "{what}");
        assert_eq!(world.held.keys().cloned().collect::<Vec<_>>(), held, "{what}: as the target spells it");
        assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate), "{what}");

        // What comes later goes into the folder that is there; what goes, goes from there.
        world.file(&format!("{now}/{}", aip(3)), 103, 9);
        let plan = world.run();
        let copied = step(&plan, &format!("{now}/{}", aip(3)));
        assert_eq!(
            copied.files[0].target.parent(),
            held[held.len() - 1]
                .parent()
                .filter(|_| before > "other")
                .or(held[0].parent().filter(|_| before < "other")),
            "{what}"
        );
        world.remove(&format!("{now}/{}", aip(3)));
        assert_eq!(world.run().totals.delete, 1, "{what}");
        assert_eq!(world.held.keys().cloned().collect::<Vec<_>>(), held, "{what}");
        assert!(world.plan().steps.iter().all(|s| s.code == Code::UpToDate), "{what}");
    }
}

#[test]
fn a_file_that_is_written_under_another_spelling_is_not_gone() {
    let mut world = World {
        capabilities: with_rules(NameRules { case_sensitive: false, ..NameRules::default() }),
        ..World::default()
    };
    world.options.sync = true;
    world.options.max_delete = 1.0;
    for name in ["Server1.qcow2", "other.qcow2"] {
        put(&mut world, name);
    }
    world.run();
    world.remove("Server1.qcow2");
    put(&mut world, "server1.qcow2");
    world.unsettle("server1.qcow2");
    assert_eq!(world.run().totals.delete, 0);
}

#[test]
fn other_files_and_whole_names_are_refused_like_images() {
    let mut world = World::default();
    world.options.include_other = true;
    ["clock$.sys", "large.bin"].iter().for_each(|name| world.file(name, 5_000, 1));
    world.capabilities =
        with_rules(NameRules { refused_names: vec!["CLOCK$.SYS".into()], ..NameRules::default() });
    assert_eq!(work(&world.plan()), ["copy large.bin"]);
    world.capabilities.largest_file = Some(1_000);
    assert_eq!(work(&world.plan()), [] as [String; 0]);
}
