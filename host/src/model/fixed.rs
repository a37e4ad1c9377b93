//! Stories that were seen to happen, each told in full. Every one stands for a kind; the random stories look for the
//! others of its kind.

use super::drive::Play;
use super::products::Family::{self, Aip18, Aip22, Macrium, Shadow, Veeam, Vzdump};
use super::story::Event::{self, *};
use super::story::{Fault, MachineSetup, Setup, Story, TargetSetup};
use super::target::Nature;
use crate::plan::DeleteFirst;

const RUN: Event = Run(Fault::None);

fn machine(family: Family, increments: usize) -> MachineSetup {
    MachineSetup { family, mounted: false, renumbers: false, coarse: false, increments }
}

fn mounted(family: Family, increments: usize) -> MachineSetup {
    MachineSetup { mounted: true, ..machine(family, increments) }
}

fn target(sync: bool) -> TargetSetup {
    let nature = Nature { atomic: true, versions: true, coarse: false, folds: false };
    TargetSetup {
        nature,
        sync,
        include_other: false,
        max_delete: 0.25,
        filter: false,
        delete_after: 0,
        delete_first: DeleteFirst::No,
    }
}

fn world(machines: &[MachineSetup], target: TargetSetup) -> Play {
    with(machines, target, 0, 0)
}

fn with(machines: &[MachineSetup], target: TargetSetup, settle: u64, others: usize) -> Play {
    let setup = Setup { machines: machines.to_vec(), targets: vec![target], settle, others };
    Play::new(&Story { setup, events: Vec::new() })
}

fn named(play: &Play, part: &str) -> Vec<String> {
    play.there(0).into_iter().filter(|name| name.contains(part)).collect()
}

mod deletions {
    use super::*;

    #[test]
    fn other_files_do_not_vouch_for_images() {
        let target = TargetSetup { include_other: true, ..target(true) };
        let mut play = with(&[machine(Shadow, 11)], target, 0, 60);
        play.tell(&[RUN, RemoveAll(0), RUN, RUN]).keeps_the_laws();
    }

    /// Images of three sets at most, a week each, a run a day.
    fn weeks(family: Family) {
        let mut play = world(&[machine(family, 0), machine(Aip18, 2)], target(true));
        play.tell(&[RUN]);
        for week in 0..8 {
            for _ in 0..6 {
                play.tell(&[Wait(1440), Backup(0), RUN]);
            }
            play.tell(&[Wait(1440), NewSet(0)]);
            if week >= 2 {
                play.tell(&[Expire(0)]);
            }
            play.tell(&[RUN]);
        }
        play.tell(&[Wait(1440), RUN, Wait(1440), RUN]).keeps_the_laws();
        assert_eq!(play.failing(), [""; 0], "{}", play.log());
        let sets = play.world().machines[0].sets.len();
        let images = play.world().images(0).len();
        assert!(sets == 3 && named(&play, "m0/").len() == images, "{}", play.log());
        play.ends_well();
    }

    #[test]
    fn weeks_of_rotation_pass_without_a_notice() {
        weeks(Aip18);
    }

    #[test]
    fn weeks_of_rotation_of_folders_pass_without_a_notice() {
        weeks(Aip22);
    }

    #[test]
    fn a_touch_is_no_merge() {
        let mut play = world(&[machine(Aip18, 8)], target(true));
        play.tell(&[
            RUN,
            Remove { machine: 0, from: 1, count: 2 },
            RUN,
            RUN,
            Touch { machine: 0, image: 1 },
            RUN,
            RUN,
        ]);
        play.ends_well();
    }

    #[test]
    fn garbage_is_no_merge() {
        let mut play = world(&[machine(Aip18, 3)], target(true));
        let broken = [Remove { machine: 0, from: 1, count: 2 }, Garble { machine: 0, image: 1 }];
        play.tell(&[RUN]).tell(&broken).tell(&[RUN, RUN, RUN]).keeps_the_laws();
        assert_eq!(named(&play, "_i0000").len(), 2, "the garbage itself is no image: {}", play.log());
    }

    fn four_merges(family: Family) {
        let mut play = world(&[machine(family, 3)], target(true));
        play.tell(&[RUN]);
        for _ in 0..4 {
            play.tell(&[Merge { machine: 0, skip: 0, count: 2 }, RUN, RUN, Backup(0), RUN]);
        }
        play.tell(&[Wait(100), RUN, RUN]).keeps_the_laws();
        assert_eq!(play.failing(), [""; 0], "{}", play.log());
        let images = play.world().images(0).len();
        assert_eq!(named(&play, "m0/").len(), images, "{}", play.log());
        play.ends_well();
    }

    #[test]
    fn activeimage_merges_four_times_without_a_question() {
        four_merges(Aip18);
    }

    #[test]
    fn shadowprotect_merges_four_times_without_a_question() {
        four_merges(Shadow);
    }

    #[test]
    fn macrium_merges_four_times_without_a_question() {
        four_merges(Macrium);
    }

    #[test]
    fn overlays_are_merged_four_times_without_a_question() {
        four_merges(Family::Qcow);
    }

    /// A look between the two tells them apart: the holder was as before when they were gone already.
    #[test]
    fn what_was_removed_before_a_merge_is_not_in_it() {
        for family in [Veeam, Aip18, Macrium, Shadow] {
            let mut play = world(&[machine(family, 5)], target(true));
            let (from, skip) = if family == Veeam { (2, 0) } else { (1, 0) };
            play.tell(&[RUN, Remove { machine: 0, from, count: 2 }, RUN, RUN]);
            play.tell(&[Merge { machine: 0, skip, count: 2 }, RUN, RUN, RUN]).keeps_the_laws();
            play.ends_well();
        }
    }

    #[test]
    fn what_was_there_after_a_merge_is_not_in_it() {
        for family in [Veeam, Aip18, Macrium, Shadow] {
            let mut play = world(&[machine(family, 5)], target(true));
            let from = if family == Veeam { 1 } else { 2 };
            play.tell(&[RUN, Merge { machine: 0, skip: 2, count: 2 }, RUN, RUN]);
            play.tell(&[Remove { machine: 0, from, count: 1 }, RUN, RUN, RUN]).keeps_the_laws();
            play.ends_well();
        }
    }

    #[test]
    fn a_file_system_with_anothers_number_is_not_the_other() {
        let mut play = world(&[mounted(Aip18, 2), mounted(Aip18, 2), machine(Aip18, 9)], target(true));
        play.tell(&[RUN, MountAs { machine: 0, other: 1 }, RUN, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn what_is_not_mounted_is_not_deleted_after_the_observations_are_lost() {
        let mut play = world(&[mounted(Aip18, 2), machine(Aip18, 9)], target(true));
        play.tell(&[RUN, LoseJob, Unmount(0), RUN, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn what_is_not_mounted_is_not_deleted_after_everything_is_lost() {
        let mut play = world(&[mounted(Aip18, 2), machine(Aip18, 9)], target(true));
        play.tell(&[RUN, LoseJob, LoseCatalog(0), Unmount(0), RUN, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn nothing_goes_while_its_successor_is_being_written() {
        let mut play = with(&[machine(Vzdump, 0), machine(Aip18, 9)], target(true), 60, 0);
        play.tell(&[RUN, NewSet(0), Writing { machine: 0, image: 1 }, Expire(0), RUN, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn nothing_goes_while_its_successor_cannot_be_read() {
        let mut play = world(&[machine(Aip18, 1), machine(Aip18, 9)], target(true));
        play.tell(&[RUN, NewSet(0), Lock { machine: 0, image: 2 }, Expire(0), RUN, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn a_rename_by_case_is_no_deletion_where_case_is_ignored() {
        let folds = TargetSetup { nature: Nature { folds: true, ..target(true).nature }, ..target(true) };
        let mut play = world(&[machine(Aip18, 2), machine(Aip18, 20)], folds);
        play.tell(&[RUN, Recase(0), RUN, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn what_comes_back_in_time_lives_on() {
        for killed in (0..14).map(Fault::Kill).chain([Fault::None]) {
            let later = TargetSetup { delete_after: 7 * 24 * 3600, max_delete: 1.0, ..target(true) };
            let mut play = world(&[machine(Aip18, 3), machine(Aip18, 9)], later);
            let hide = Remove { machine: 0, from: 3, count: 1 };
            play.tell(&[RUN, hide, RUN, RUN, Wait(6 * 1440), PutBack(0), Run(killed), hide, RUN, RUN]);
            play.tell(&[Wait(2 * 1440), RUN, RUN]).keeps_the_laws();
            if killed == Fault::None {
                assert_eq!(named(&play, "i00003").len(), 2, "{}", play.log());
            }
            play.tell(&[Wait(6 * 1440), RUN, RUN]).keeps_the_laws();
            assert_eq!(named(&play, "i00003").len(), 1, "it goes in the end: {}", play.log());
        }
    }

    #[test]
    fn room_is_made_only_where_another_set_stays() {
        for first in [DeleteFirst::Proved, DeleteFirst::Last] {
            let target = TargetSetup { delete_first: first, ..target(true) };
            let mut play = world(&[machine(Vzdump, 1), machine(Aip18, 9)], target);
            play.tell(&[RUN, Backup(0), Expire(0), Expire(0), RUN, Room(0, 10), RUN, RUN]);
            play.ends_well();
        }
    }

    #[test]
    fn a_chain_goes_on_under_a_name_of_another_case() {
        let folds = TargetSetup { nature: Nature { folds: true, ..target(true).nature }, ..target(true) };
        for family in [Veeam, Shadow, Aip18] {
            let mut play = world(&[machine(family, 3), machine(Aip18, 20)], folds);
            let above = [Remove { machine: 0, from: 2, count: 2 }, RUN, RUN, Look, Backup(0), RUN, RUN];
            play.tell(&[RUN, Recase(0), Backup(0)]).tell(&above);
            play.ends_well();
            // The base goes, and what was made last needs it.
            let mut play = world(&[machine(family, 0), machine(Aip18, 20)], folds);
            let base = [Remove { machine: 0, from: 1, count: 1 }, Recase(0), RUN, RUN, RUN, Look];
            play.tell(&[NewSet(0), RUN, Backup(0)]).tell(&base);
            play.ends_well();
        }
    }

    /// A rename is no absence, although the old name is missed twice.
    #[test]
    fn a_merge_after_a_rename_by_case_is_believed_when_two_scans_saw_it() {
        let folds = TargetSetup { nature: Nature { folds: true, ..target(true).nature }, ..target(true) };
        for step in 1..25 {
            let mut play = world(&[machine(Veeam, 2)], folds);
            let fails = Run(Fault::Fail(step, false));
            play.tell(&[RUN, Recase(0), fails, Merge { machine: 0, skip: 0, count: 2 }, RUN, RUN]);
            play.ends_well();
        }
    }

    #[test]
    fn a_touch_makes_no_set_the_newer_one() {
        let mut play = world(&[machine(Family::Qcow, 1)], target(true));
        let gone = [Remove { machine: 0, from: 2, count: 1 }, Touch { machine: 0, image: 0 }];
        play.tell(&[NewSet(0), RUN]).tell(&gone).tell(&[RUN, RUN, RUN]);
        play.ends_well();
        // Nothing of it is as old as it was; with a settle time, one run sees the touch and misses the other set twice.
        for settle in [0, 60] {
            let mut play = with(&[machine(Family::Qcow, 0)], target(true), settle, 0);
            let gone = [Remove { machine: 0, from: 1, count: 1 }, Touch { machine: 0, image: 0 }];
            play.tell(&[NewSet(0), RUN]).tell(&gone).tell(&[RUN, RUN, RUN]);
            play.ends_well();
        }
    }

    #[test]
    fn a_full_mirror_gets_on() {
        let mut play = world(&[machine(Vzdump, 3), machine(Aip18, 9)], target(true));
        play.tell(&[RUN, Expire(0), RUN, Room(0, 150), Backup(0), Backup(0), RUN, RUN, RUN]).keeps_the_laws();
        let there = named(&play, "m0/");
        assert!(
            there.len() == 5 && !there[0].contains("01_02") && there[4].contains("01_07"),
            "{}",
            play.log()
        );
    }
}

mod proofs {
    use super::*;

    #[test]
    fn a_truncated_base_is_shown() {
        let mut play = world(&[machine(Aip18, 3)], target(false));
        play.tell(&[RUN, Truncate { target: 0, file: 0 }, Look]).keeps_the_laws();
        play.tell(&[RUN]).ends_well();
    }

    #[test]
    fn a_chain_begun_anew_does_not_pass_for_the_old_one() {
        let mut play = world(&[machine(Aip18, 3)], target(false));
        play.tell(&[RUN, Restart(0), RUN, Look, Backup(0), RUN, Look]);
        play.ends_well();
    }

    #[test]
    fn a_merge_in_a_chain_begun_anew_holds_nothing_of_the_old_one() {
        for family in [Macrium, Aip18, Shadow] {
            let mut play = world(&[machine(family, 4)], target(true));
            let again = [Restart(0), Backup(0), Backup(0), Backup(0)];
            play.tell(&[RUN]).tell(&again).tell(&[Merge { machine: 0, skip: 1, count: 2 }, RUN, Look, RUN]);
            play.ends_well();
        }
    }

    #[test]
    fn what_builds_on_a_file_that_is_no_image_is_not_said_to_build_on_the_targets() {
        for family in [Macrium, Aip18, Shadow] {
            let mut play = world(&[machine(family, 1)], target(false));
            play.tell(&[RUN, Restart(0), Backup(0), Zero { machine: 0, image: 0 }, RUN, Look]).ends_well();
            let mut play = world(&[machine(family, 0)], target(false));
            play.tell(&[RUN, Restart(0), Zero { machine: 0, image: 0 }, Backup(0), RUN, Look]).ends_well();
        }
    }

    #[test]
    fn an_empty_file_replaces_no_image_that_somebody_put_there() {
        let target = TargetSetup { include_other: true, ..target(false) };
        let mut play = world(&[machine(Family::Qcow, 1)], target);
        play.tell(&[Seed(0), Zero { machine: 0, image: 0 }, RUN, RUN]).ends_well();
    }

    #[test]
    fn what_others_change_is_not_restorable_under_a_merges_name_either() {
        for file in 0..6 {
            let mut play = world(&[machine(Shadow, 3)], target(true));
            play.tell(&[Merge { machine: 0, skip: 0, count: 3 }, RUN, Overwrite { target: 0, file }, Look]);
            play.tell(&[RUN]).ends_well();
        }
    }

    #[test]
    fn what_was_merged_before_a_chain_began_anew_holds_nothing_of_it() {
        for sync in [false, true] {
            let mut play = world(&[machine(Shadow, 3)], target(sync));
            play.tell(&[Merge { machine: 0, skip: 0, count: 3 }, RUN, Restart(0), Backup(0), RUN, Look]);
            play.tell(&[RUN, Look]).ends_well();
        }
    }

    #[test]
    fn a_middle_image_gone_from_both_sides_is_missed() {
        let mut play = world(&[machine(Aip22, 4)], target(false));
        let both = [Remove { machine: 0, from: 2, count: 1 }, DeleteThere { target: 0, file: 2 }];
        play.tell(&[RUN]).tell(&both).tell(&[Look, RUN, Look]).keeps_the_laws();
    }

    #[test]
    fn what_a_full_backup_took_in_is_not_shown_beside_it() {
        let mut play = world(&[machine(Veeam, 4)], target(false));
        let merge = Merge { machine: 0, skip: 0, count: 2 };
        play.tell(&[RUN, merge, merge, RUN, Look, RUN, Look]).ends_well();
    }

    #[test]
    fn an_empty_archive_is_no_image() {
        let mut play = world(&[machine(Vzdump, 0)], target(false));
        play.tell(&[Zero { machine: 0, image: 0 }, RUN, Look]).keeps_the_laws();
    }

    #[test]
    fn an_empty_file_takes_no_good_images_place() {
        let mut play = world(&[machine(Vzdump, 1)], target(true));
        play.tell(&[RUN, Zero { machine: 0, image: 0 }, RUN, RUN, Look]).keeps_the_laws();
    }

    #[test]
    fn an_empty_file_on_the_target_is_no_consolidation() {
        let mut play = world(&[machine(Aip18, 3)], target(false));
        play.tell(&[
            RUN,
            DeleteThere { target: 0, file: 1 },
            DeleteThere { target: 0, file: 1 },
            Truncate { target: 0, file: 1 },
            Look,
            RUN,
        ]);
        play.ends_well();
    }

    #[test]
    fn a_planted_manifest_vouches_for_nothing() {
        let mut play = world(&[machine(Aip18, 3)], target(false));
        play.tell(&[RUN, Forge { target: 0, machine: 0 }, Look, RUN, Look]);
        play.ends_well();
    }

    #[test]
    fn a_seeded_target_is_never_half_old_and_half_new() {
        for step in 8..60 {
            let mut play = world(&[machine(Aip18, 3)], target(false));
            play.tell(&[Seed(0), Run(Fault::Kill(step)), Look, Run(Fault::Kill(9)), Look]);
            play.ends_well();
        }
    }

    #[test]
    fn a_seeded_chain_waits_for_an_ancestor_that_cannot_be_read() {
        for (family, locked) in [(Aip18, 0), (Aip18, 1), (Veeam, 0), (Family::Qcow, 1), (Aip22, 2)] {
            let mut play = world(&[machine(family, 3)], target(true));
            play.tell(&[Seed(0), Lock { machine: 0, image: locked }, RUN, Look, Backup(0), RUN, Look]);
            play.keeps_the_laws().tell(&[UnlockAll, RUN, Look]).ends_well();
        }
    }

    #[test]
    fn what_others_put_in_an_interrupted_publishs_place_is_not_what_was_published() {
        let nature = Nature { atomic: false, versions: false, ..target(true).nature };
        for step in 8..40 {
            let mut play = world(&[machine(Aip18, 3)], TargetSetup { nature, ..target(true) });
            play.tell(&[Run(Fault::Kill(step)), Seed(0), RUN, Look]).ends_well();
        }
    }

    #[test]
    fn an_old_manifest_brings_nothing_back() {
        let mut play = world(&[machine(Aip18, 3)], target(true));
        play.tell(&[
            RUN,
            KeepManifests(0),
            Merge { machine: 0, skip: 0, count: 2 },
            RUN,
            RUN,
            OldManifests(0),
            LoseCatalog(0),
            LoseJob,
            RUN,
            RUN,
        ]);
        play.ends_well();
    }
}

mod told {
    use super::*;

    #[test]
    fn a_folder_replaced_by_a_link_is_told() {
        let mut play = world(&[machine(Aip18, 2), machine(Aip18, 2)], target(true));
        play.tell(&[Link(0), RUN]).keeps_the_laws();
        play.tell(&[RUN, RUN]).ends_well();
    }

    #[test]
    fn a_file_system_that_is_not_mounted_is_told() {
        let mut play = world(&[mounted(Aip18, 2), machine(Aip18, 2)], target(true));
        play.tell(&[RUN, Unmount(0), RUN]).keeps_the_laws();
        play.ends_well();
    }

    #[test]
    fn a_file_system_that_is_not_mounted_is_told_after_the_observations_are_lost() {
        for sync in [false, true] {
            let mut play = world(&[mounted(Aip18, 2), machine(Aip18, 2)], target(sync));
            play.tell(&[RUN, LoseJob, Unmount(0), RUN]).keeps_the_laws();
            assert!(play.log().contains("where nothing is mounted now"), "{}", play.log());
            play.ends_well();
        }
    }

    #[test]
    fn what_no_format_knows_is_told() {
        let mut play = world(&[machine(Aip18, 2)], target(true));
        play.tell(&[Strange(1), Strange(2), Strange(3), RUN]).keeps_the_laws();
    }

    #[test]
    fn a_target_without_any_room_is_told() {
        let mut play = world(&[machine(Shadow, 2), machine(Vzdump, 2)], target(true));
        play.tell(&[Full(0, true), RUN]).keeps_the_laws();
        play.ends_well();
    }

    #[test]
    fn a_growing_log_is_nobodys_concern() {
        let mut play = with(&[machine(Aip18, 2)], target(true), 60, 0);
        play.tell(&[GrowingLog]);
        for _ in 0..6 {
            play.tell(&[Wait(720), RUN]);
        }
        play.keeps_the_laws();
        assert_eq!(play.failing(), [""; 0], "{}", play.log());
    }
}

mod ways_out {
    use super::*;

    #[test]
    fn a_directory_in_an_images_place_holds_only_that_image() {
        for step in 0..70 {
            let mut play = world(&[machine(Aip18, 2), machine(Aip18, 2)], target(true));
            play.tell(&[RUN, Backup(0), Run(Fault::Kill(step)), DirectoryThere { target: 0, machine: 0 }]);
            play.tell(&[Backup(1), RUN, Backup(1), RUN]).keeps_the_laws();
            assert_eq!(named(&play, "m1/").len(), 5, "killed after {step}: {}", play.log());
        }
    }

    #[test]
    fn what_veeam_merged_goes_in_the_end() {
        let mut play = world(&[machine(Veeam, 4)], target(true));
        play.tell(&[RUN]);
        for _ in 0..3 {
            play.tell(&[Merge { machine: 0, skip: 0, count: 2 }, Backup(0), RUN, RUN, RUN]);
        }
        play.keeps_the_laws();
        let images = play.world().images(0).len();
        assert_eq!(named(&play, "m0/").len(), images, "{}", play.log());
        play.ends_well();
    }

    #[test]
    fn what_was_removed_goes_in_the_end_after_everything_was_lost() {
        let mut play = world(&[machine(Aip18, 9)], target(true));
        play.tell(&[RUN, LoseJob, LoseCatalog(0), RUN, RUN, Remove { machine: 0, from: 9, count: 1 }]);
        play.tell(&[RUN, RUN, RUN]).keeps_the_laws();
        assert_eq!(named(&play, "m0/").len(), 9, "{}", play.log());
        play.ends_well();
    }

    #[test]
    fn both_sides_merge_across_each_other() {
        for family in [Aip18, Aip22, Macrium, Family::Qcow] {
            for (count, skip, more) in [(2, 1, 2), (3, 1, 2), (3, 2, 2), (3, 1, 3), (2, 0, 3), (4, 2, 3)] {
                let mut play = world(&[machine(family, 5)], target(true));
                let there = MergeThere { target: 0, machine: 0, count };
                let here = Merge { machine: 0, skip, count: more };
                play.tell(&[RUN, there, here, RUN, Look, Backup(0), RUN, Look]).ends_well();
            }
        }
    }

    #[test]
    fn what_was_merged_there_is_not_taken_for_a_chain_begun_anew() {
        for family in [Aip18, Macrium, Family::Qcow] {
            for sync in [false, true] {
                let mut play = world(&[machine(family, 4)], target(sync));
                let there = MergeThere { target: 0, machine: 0, count: 3 };
                play.tell(&[RUN, there, Restart(0), RUN, Look, Backup(0), RUN, Look]).ends_well();
                let mut play = world(&[machine(family, 4)], target(sync));
                play.tell(&[RUN, there, Restart(0), Backup(0), Backup(0), RUN, Look, RUN]).ends_well();
            }
        }
    }

    #[test]
    fn what_covers_an_image_is_not_deleted_for_it() {
        let mut play = world(&[machine(Shadow, 4)], target(true));
        play.tell(&[RUN, Merge { machine: 0, skip: 1, count: 2 }, Forge { target: 0, machine: 0 }]);
        play.tell(&[LoseCatalog(0), RUN, Merge { machine: 0, skip: 0, count: 3 }, RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn a_manifest_claims_nothing_that_another_set_has_now() {
        let folds = TargetSetup { nature: Nature { folds: true, ..target(true).nature }, ..target(true) };
        let mut play = world(&[machine(Veeam, 1)], folds);
        let lost = [RUN, Recase(0), Touch { machine: 0, image: 0 }, Touch { machine: 0, image: 1 }, RUN];
        play.tell(&lost).tell(&[LoseCatalog(0), Backup(0), RUN]).keeps_the_laws();
        assert!(!play.log().contains("two manifests"), "{}", play.log());
        play.ends_well();
    }

    /// With the key gone, a manifest's word deletes nothing until the user accepts it; and then it does.
    #[test]
    fn what_was_removed_while_everything_was_lost_stays_until_the_user_accepts() {
        let mut play = world(&[machine(Aip18, 9)], target(true));
        play.tell(&[RUN, LoseJob, LoseCatalog(0), Remove { machine: 0, from: 9, count: 1 }]);
        play.tell(&[RUN, RUN, RUN, RUN]).keeps_the_laws();
        assert_eq!((named(&play, "m0/").len(), play.failing()), (10, Vec::new()), "{}", play.log());
        play.ends_well();
    }

    #[test]
    fn an_image_whose_parent_nobody_knows_waits_for_an_older_one_that_waits() {
        let mut play = world(&[machine(Shadow, 2)], target(true));
        play.tell(&[Remove { machine: 0, from: 2, count: 1 }, DirectoryThere { target: 0, machine: 0 }, RUN]);
        play.tell(&[Backup(0), RUN, Look]).keeps_the_laws();
        assert_eq!(named(&play, "m0/").len(), 1, "only the base: {}", play.log());
        play.ends_well();
    }

    #[test]
    fn images_of_an_unknown_parent_go_before_what_may_be_it() {
        let mut play = world(&[machine(Macrium, 2), machine(Aip18, 9)], target(true));
        play.tell(&[Merge { machine: 0, skip: 0, count: 2 }, Backup(0), NewSet(0), RUN, Expire(0), RUN, RUN]);
        play.ends_well();
    }

    #[test]
    fn a_consolidated_image_waits_for_a_parent_that_cannot_be_read() {
        let mut play = world(&[machine(Shadow, 3)], target(true));
        play.tell(&[Lock { machine: 0, image: 1 }, Merge { machine: 0, skip: 1, count: 2 }, RUN]).ends_well();
    }

    #[test]
    fn what_a_late_image_names_as_its_parent_stays() {
        for step in 0..60 {
            let mut play = world(&[machine(Family::Qcow, 3), machine(Aip18, 9)], target(true));
            play.tell(&[Run(Fault::Kill(step)), Remove { machine: 0, from: 2, count: 1 }, RUN, RUN, RUN]);
            play.ends_well();
        }
    }

    #[test]
    fn an_emptied_overlay_replaces_nothing() {
        let other = TargetSetup { include_other: true, ..target(true) };
        let mut play = world(&[machine(Family::Qcow, 2)], other);
        play.tell(&[RUN, Zero { machine: 0, image: 0 }, RUN, RUN]).ends_well();
    }

    #[test]
    fn a_listing_that_leaves_files_out_damages_nothing() {
        let mut play = world(&[machine(Aip18, 6)], target(true));
        play.tell(&[RUN, HideListing(0, true), RUN, RUN]).keeps_the_laws();
        assert_eq!(play.failing(), [""; 0], "{}", play.log());
        assert!(!play.log().contains("damaged"), "{}", play.log());
        play.ends_well();
    }
}
