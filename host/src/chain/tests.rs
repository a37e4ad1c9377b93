//! Tables and properties of the chain model.

use std::collections::BTreeSet;

use offsite_plugin_api::TargetPath;
use proptest::prelude::*;

use super::*;
use crate::format::{self, Format, ImageKind, Link, Recognised, Role};

fn path(text: &str) -> TargetPath {
    TargetPath::new(text).expect("a valid path")
}

/// Files by name, as a source would hold them; mtime is the position in the list.
struct Files(Vec<(TargetPath, i64, Option<Recognised>)>);

impl Files {
    fn named(names: &[&str]) -> Self {
        Self(names.iter().zip(0..).map(|(n, at)| (path(n), at, format::recognise_name(&path(n)))).collect())
    }

    fn qcow2(mut self, name: &str, backing: Option<&str>) -> Self {
        let link = backing.map_or(Link::None, |b| Link::File(path(b)));
        let kind = if backing.is_some() { ImageKind::Incremental } else { ImageKind::Base };
        self.0.push((path(name), 0, Some(image(Format::Qcow2, name, name, kind, link))));
        self
    }

    fn members(&self) -> Vec<Member<'_>> {
        self.0
            .iter()
            .map(|(path, mtime, r)| Member {
                path,
                size: 1,
                mtime_ns: Some(*mtime),
                recognised: r.as_ref(),
                bad: None,
            })
            .collect()
    }

    fn chains(&self) -> Chains {
        assemble(&self.members(), &Knowledge::default())
    }
}

fn image(format: Format, set: &str, name: &str, kind: ImageKind, link: Link) -> Recognised {
    let (set, image) = (set.to_owned(), name.to_owned());
    Recognised { format, set, image, kind, role: Role::Anchor, link, parts: Vec::new(), note: None }
}

/// One line per image: `name <- parent`, `!` where not restorable.
fn shape(chains: &Chains) -> Vec<String> {
    let mut lines = Vec::new();
    for set in &chains.sets {
        for image in &set.images {
            let parent = match &image.parent {
                Parent::None => "-".to_owned(),
                Parent::Image(at) => set.images[*at].id.display().into_owned(),
                Parent::Missing(what) => format!("({what})"),
                Parent::Cycle => "(cycle)".to_owned(),
            };
            let mark = if image.restorable { "" } else { " !" };
            lines.push(format!("{} <- {parent}{mark}", image.id.display()));
        }
    }
    lines
}

#[test]
fn a_gap_breaks_what_follows_and_nothing_before() {
    let files = Files::named(&["S-b000.spf", "S-b000-i001.spi", "S-b000-i004.spi", "S-b000-i005.spi"]);
    assert_eq!(
        shape(&files.chains()),
        [
            "S-b000.spf <- -",
            "S-b000-i001.spi <- S-b000.spf",
            "S-b000-i004.spi <- (increments 2 to 3) !",
            "S-b000-i005.spi <- S-b000-i004.spi !",
        ]
    );
    assert_eq!(files.chains().problems.len(), 1, "one problem for one gap");
}

#[test]
fn a_name_that_says_consolidated_hangs_on_the_highest_that_exists() {
    let with = ["S-b000.spf", "S-b000-i001.spi", "S-b000-i002.spi", "S-b000-i002-cd.spi", "S-b000-i003.spi"];
    assert_eq!(
        shape(&Files::named(&with).chains())[2..],
        [
            "S-b000-i002.spi <- S-b000-i001.spi",
            "S-b000-i002-cd.spi <- S-b000-i001.spi",
            "S-b000-i003.spi <- S-b000-i002-cd.spi",
        ]
    );
    let chains = Files::named(&["S-b000.spf", "S-b000-i002-cd.spi", "S-b000-i003.spi"]).chains();
    assert_eq!(
        shape(&chains)[1..],
        ["S-b000-i002-cd.spi <- S-b000.spf", "S-b000-i003.spi <- S-b000-i002-cd.spi"]
    );
    let consolidated = &chains.sets[0].images[1];
    assert_eq!(
        (consolidated.span, consolidated.evidence),
        (Some(Span { first: 1, last: 2 }), Some(Evidence::Name))
    );
}

#[test]
fn differentials_hang_on_their_base_and_branch() {
    let files = Files::named(&[
        "S-b000.spf",
        "S-b000-i001.spi",
        "S-b000-d001.spi",
        "S-b000-d001-i001.spi",
        "S-b000-d002-i001.spi",
    ]);
    assert_eq!(
        shape(&files.chains()),
        [
            "S-b000.spf <- -",
            "S-b000-i001.spi <- S-b000.spf",
            "S-b000-d001.spi <- S-b000.spf",
            "S-b000-d001-i001.spi <- S-b000-d001.spi",
            "S-b000-d002-i001.spi <- (differential 2) !",
        ]
    );
    let tib = Files::named(&[
        "M_full_b1_s1_v1.tib",
        "M_inc_b1_s2_v1.tib",
        "M_diff_b1_s3_v1.tib",
        "M_inc_b1_s4_v1.tib",
    ]);
    assert_eq!(
        shape(&tib.chains())[1..],
        [
            "M_inc_b1_s2_v1.tib <- M_full_b1_s1_v1.tib",
            "M_diff_b1_s3_v1.tib <- M_full_b1_s1_v1.tib",
            "M_inc_b1_s4_v1.tib <- M_diff_b1_s3_v1.tib",
        ]
    );
}

#[test]
fn a_proven_span_steps_over_what_it_holds() {
    let base = "h@c_20180101_d00_00001.aiv";
    let third = "h@c_20180101_d00_00001_i00003.aii";
    let files = Files::named(&[base, third, "h@c_20180101_d00_00001_i00004.aii"]);
    assert!(files.chains().problems[0].what.contains("missing: increments 1 to 2"), "nothing proves it");
    let mut known = Knowledge::default();
    let span = Span { first: 1, last: 3 };
    known.spans.insert(path(third), ProvenSpan { span, evidence: Evidence::Catalog, unproven: true });
    let chains = assemble(&files.members(), &known);
    assert!(chains.sets[0].images.iter().all(|i| i.restorable), "{chains:?}");
    let image = &chains.sets[0].images[1];
    assert_eq!((image.parent.clone(), image.span, image.unproven), (Parent::Image(0), Some(span), true));
    assert_eq!(chains.problems, []);
}

#[test]
fn time_orders_what_names_do_not_and_each_base_begins_a_generation() {
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let names = ["z.aii", "c.aiv", "b.aii", "a.aii", "y.aiv", "x.aii"].map(|n| format!("d/{uuid}_{n}"));
    let chains = Files::named(&names.each_ref().map(String::as_str)).chains();
    let short = |s: &str| s.replace(&format!("d/{uuid}_"), "");
    assert_eq!(
        shape(&chains).iter().map(|s| short(s)).collect::<Vec<_>>(),
        [
            "z.aii <- (the base) !",
            "c.aiv <- -",
            "b.aii <- c.aiv",
            "a.aii <- b.aii",
            "y.aiv <- -",
            "x.aii <- y.aiv"
        ]
    );
    assert_eq!(chains.sets.iter().map(|s| short(&s.id)).collect::<Vec<_>>(), ["d/*.aiv", "c.aiv", "y.aiv"]);
}

#[test]
fn reverse_increments_hang_on_what_follows_them() {
    let files = Files::named(&[
        "JobD2024-01-01T000000.vrb",
        "JobD2024-01-02T000000.vrb",
        "JobD2024-01-03T000000.vbk",
        "JobD2024-01-04T000000.vib",
        "JobD2024-01-05T000000.vrb",
        "Job.vbm",
    ]);
    let chains = files.chains();
    assert_eq!(
        shape(&chains),
        [
            "JobD2024-01-05T000000.vrb <- (the full backup that follows it) !",
            "JobD2024-01-03T000000.vbk <- -",
            "JobD2024-01-02T000000.vrb <- JobD2024-01-03T000000.vbk",
            "JobD2024-01-04T000000.vib <- JobD2024-01-03T000000.vbk",
            "JobD2024-01-01T000000.vrb <- JobD2024-01-02T000000.vrb",
        ]
    );
    assert_eq!(chains.sets[1].set_files[0].path, path("Job.vbm"));
}

#[test]
fn backing_files_make_trees_orphans_and_cycles() {
    let files = Files::named(&["raw.img", "notes"])
        .qcow2("a", None)
        .qcow2("b", Some("a"))
        .qcow2("c", Some("a"))
        .qcow2("lost2", Some("lost1"))
        .qcow2("lost3", Some("lost2"))
        .qcow2("onraw", Some("raw.img"))
        .qcow2("self", Some("self"))
        .qcow2("x", Some("y"))
        .qcow2("y", Some("x"))
        .qcow2("z", Some("x"));
    let chains = files.chains();
    assert_eq!(
        shape(&chains),
        [
            "a <- -",
            "b <- a",
            "c <- a",
            "lost2 <- (the file 'lost1') !",
            "lost3 <- lost2 !",
            "raw.img <- -",
            "onraw <- raw.img",
            "self <- (cycle) !",
            "x <- (cycle) !",
            "y <- (cycle) !",
            "z <- x !",
        ]
    );
    let ids: Vec<_> = chains.sets.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["a", "lost1", "raw.img", "self", "x"]);
    assert_eq!(chains.others.iter().map(|o| o.file.path.clone()).collect::<Vec<_>>(), [path("notes")]);
}

#[test]
fn a_data_file_is_a_part_of_its_image() {
    let mut files = Files::named(&["disk.raw"]).qcow2("a", None);
    files.0[1].2.as_mut().unwrap().parts = vec![path("disk.raw")];
    let chains = files.chains();
    let roles: Vec<_> = chains.sets[0].images[0].files.iter().map(|f| f.role.clone()).collect();
    assert_eq!((roles, chains.others.len()), (vec![Role::Part(2), Role::Anchor], 0));
    files.0.remove(0);
    assert_eq!(
        files.chains().sets[0].images[0].missing.as_deref(),
        Some("its data file 'disk.raw' is missing")
    );
}

#[test]
fn parts_and_side_cars_come_before_the_anchor_and_a_hole_is_seen() {
    let chains =
        Files::named(&["S-b000.spf", "S-b000.sp1", "S-b000.sp2", "S-b000.md5", "T-b000.sp1", "U-b000.md5"])
            .chains();
    let names: Vec<_> =
        chains.sets[0].images[0].files.iter().map(|f| f.path.display().into_owned()).collect();
    assert_eq!(names, ["S-b000.md5", "S-b000.sp1", "S-b000.sp2", "S-b000.spf"]);
    assert_eq!(chains.sets[1].images[0].missing.as_deref(), Some("its first file is missing"));
    assert_eq!(chains.others[0].reason, "a side-car without its image");
    let chains = Files::named(&["S-b000.spf", "S-b000.sp2"]).chains();
    assert_eq!(chains.sets[0].images[0].missing.as_deref(), Some("part 2 is missing"));
}

#[test]
fn running_file_numbers_show_a_part_missing_between_images() {
    let whole = ["A-00-00.mrimg", "A-00-01.mrimg", "A-01-02.mrimg", "A-02-03.mrimg"];
    let chains = Files::named(&whole).chains();
    assert!(chains.sets[0].images.iter().all(|i| i.restorable));
    assert_eq!(chains.sets[0].images[0].id, path("A-00-00.mrimg"));
    assert_eq!(chains.sets[0].images[0].files[0].role, Role::Part(2));
    for lost in 0..whole.len() - 1 {
        let mut left = whole.to_vec();
        left.remove(lost);
        let images = &Files::named(&left).chains().sets[0].images;
        assert!(images.iter().any(|i| !i.restorable), "without {}", whole[lost]);
    }
}

#[test]
fn two_files_claiming_one_place_are_told() {
    let chains =
        Files::named(&["M_full_b1_s1_v1.tib", "M_full_b1_s1_v1-1.tib", "M_inc_b1_s2_v1.tib"]).chains();
    assert_eq!(chains.problems.len(), 1);
    assert!(chains.problems[0].what.contains("claims the same place"), "{:?}", chains.problems);
    let double = ["vzdump-qemu-100-2024_01_02-03_04_05.vma", "vzdump-qemu-100-2024_01_02-03_04_05.vma.zst"];
    let chains = Files::named(&double).chains();
    assert_eq!((chains.sets.len(), chains.sets[0].images.len(), chains.problems.len()), (1, 2, 1));
    assert_eq!(chains.sets[0].images[0].number, None);
}

#[test]
fn what_stays_restorable_without_an_image() {
    let names = ["S-b000.spf", "S-b000-i001.spi", "S-b000-i002.spi", "S-b000-i002-cd.spi", "S-b000-i003.spi"];
    let set = Files::named(&names).chains().sets.remove(0);
    assert_eq!(set.restorable_without(|i| i == 1 || i == 2), [true, false, false, true, true]);
    assert_eq!(set.restorable_without(|i| i == 3), [true, true, true, false, true], "the plain 2 serves");
    assert_eq!(set.restorable_without(|i| i == 1), [true, false, false, true, true]);
    assert_eq!(set.restorable_without(|i| i == 0), [false; 5]);
}

/// Random names over small numbers: everything that a set can hold, holes and doubles included.
fn names() -> impl Strategy<Value = BTreeSet<String>> {
    let n = 0u32..5;
    let one = (0u8..9, n.clone(), n.clone(), n).prop_map(|(format, a, b, c)| match format {
        0 => format!("S-b00{}.spf", a % 2),
        1 => format!("S-b00{}-d00{b}-i00{c}.spi", a % 2),
        2 => format!("S-b000-i00{b}-c{}.spi", ["d", "w"][c as usize % 2]),
        3 => format!("M_{}_b1_s{b}_v{c}.tib", ["full", "inc", "diff"][a as usize % 3]),
        4 => format!("A-0{a}-0{b}.mrimg"),
        5 => format!("JobD2024-01-0{}T000000.{}", a + 1, ["vbk", "vib", "vrb"][b as usize % 3]),
        6 => format!("h@c_20180101_d00_00001_i0000{a}.aii"),
        7 => format!(
            "vd{}.inc.virtnbdbackup.{b}.data{}",
            ["a", "b"][a as usize % 2],
            ["", ".chksum"][c as usize % 2]
        ),
        _ => format!("01234567-89ab-cdef-0123-456789abcdef_{a}.{}", ["aiv", "aii"][b as usize % 2]),
    });
    prop::collection::btree_set(one, 0..40)
}

/// A random graph of qcow2 images: each may name any, or one that is not there.
fn graph() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop::collection::vec(prop::option::weighted(0.9, 0usize..45), 0..40)
}

fn graph_files(graph: &[Option<usize>]) -> Files {
    graph.iter().enumerate().fold(Files(Vec::new()), |files, (at, parent)| {
        files.qcow2(&format!("i{at:02}"), parent.map(|p| format!("i{p:02}")).as_deref())
    })
}

/// What must hold of any chains.
fn lawful(chains: &Chains, files: &Files) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for set in &chains.sets {
        for (at, image) in set.images.iter().enumerate() {
            prop_assert_eq!(&image.files.last().expect("an anchor").path, &image.id);
            for file in &image.files {
                prop_assert!(seen.insert(file.path.clone()), "{:?} twice", file.path);
            }
            let whole = match image.parent {
                Parent::None => true,
                Parent::Image(parent) => {
                    prop_assert!(parent < at, "ancestors first");
                    set.images[parent].restorable
                }
                Parent::Missing(_) | Parent::Cycle => false,
            };
            prop_assert!(!image.restorable || whole);
            prop_assert_eq!(image.restorable, image.missing.is_none());
            if image.kind != ImageKind::Base {
                prop_assert_ne!(&image.parent, &Parent::None);
            }
        }
        seen.extend(set.set_files.iter().map(|f| f.path.clone()));
    }
    seen.extend(chains.others.iter().map(|o| o.file.path.clone()));
    prop_assert_eq!(seen, files.0.iter().map(|f| f.0.clone()).collect::<BTreeSet<_>>(), "every file once");
    let mut ids: Vec<_> = chains.sets.iter().map(|s| &s.id).collect();
    ids.dedup();
    prop_assert_eq!(ids.len(), chains.sets.len());
    Ok(())
}

proptest! {
    #[test]
    fn any_order_of_files_gives_the_same_chains(names in names(), graph in graph(), seed in any::<u64>()) {
        let mut files = graph_files(&graph);
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        files.0.extend(Files::named(&list).0);
        let chains = files.chains();
        lawful(&chains, &files)?;
        let mut shuffled = files.members();
        let mut state = seed;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (state >> 33) as usize % (at + 1));
        }
        prop_assert_eq!(assemble(&shuffled, &Knowledge::default()), chains);
    }

    /// Judged by walking the graph itself.
    #[test]
    fn an_image_is_restorable_exactly_when_its_ancestors_are_there(graph in graph()) {
        let files = graph_files(&graph);
        let chains = files.chains();
        for image in chains.sets.iter().flat_map(|s| &s.images) {
            let mut at: usize = image.id.display()[1..].parse().expect("a number");
            let mut steps = 0;
            let whole = loop {
                match graph.get(at) {
                    None => break false,
                    Some(None) => break true,
                    Some(Some(parent)) => at = *parent,
                }
                steps += 1;
                if steps > graph.len() {
                    break false;
                }
            };
            prop_assert_eq!(image.restorable, whole, "{:?}", image);
        }
    }

    /// A numbered chain with some numbers taken out: whole up to the first hole.
    #[test]
    fn a_numbered_chain_is_restorable_up_to_its_first_hole(lost in prop::collection::btree_set(0u32..20, 0..6)) {
        let name = |i| if i == 0 { "S-b000.spf".to_owned() } else { format!("S-b000-i{i:03}.spi") };
        let names: Vec<String> = (0..20).filter(|i| !lost.contains(i)).map(name).collect();
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        let hole = u64::from(lost.first().copied().unwrap_or(20));
        for image in Files::named(&list).chains().sets.iter().flat_map(|s| &s.images) {
            prop_assert_eq!(image.restorable, image.number.expect("a number") < hole);
        }
    }

    /// Taking images away and asking beforehand agree.
    #[test]
    fn restorable_without_agrees_with_assembling_the_rest(
        present in prop::collection::btree_set((0u32..6, any::<bool>()), 1..9), lost in prop::collection::btree_set(0usize..9, 0..4),
    ) {
        let mut names = vec!["S-b000.spf".to_owned()];
        names.extend(present.iter().filter(|p| p.0 > 0).map(|(n, cd)| format!("S-b000-i00{n}{}.spi", if *cd { "-cd" } else { "" })));
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        let files = Files::named(&list);
        let set = files.chains().sets.remove(0);
        let gone: BTreeSet<&TargetPath> = set.images.iter().enumerate().filter(|(at, _)| lost.contains(at)).map(|(_, i)| &i.id).collect();
        let rest = Files(files.0.iter().filter(|f| !gone.contains(&f.0)).cloned().collect());
        let whole: BTreeSet<TargetPath> =
            rest.chains().sets.iter().flat_map(|s| &s.images).filter(|i| i.restorable).map(|i| i.id.clone()).collect();
        for (image, stays) in set.images.iter().zip(set.restorable_without(|at| lost.contains(&at))) {
            // Never promises more than is true; it may be stricter where several hold one number.
            prop_assert!(!stays || whole.contains(&image.id), "{:?}", image);
        }
    }
}
