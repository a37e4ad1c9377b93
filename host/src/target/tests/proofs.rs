//! What the records prove of a chain, and what they no longer prove when something of it is another one.

use std::collections::BTreeMap;

use offsite_plugin_api::{Entry, TargetPath, Timestamp};

use super::path;
use crate::format;
use crate::target::{
    Files, Gathered, ParentRecord, Recorded, TargetFile, TargetView, VerifyLevel, proof, view,
};

/// A target in which every file is as it was published upon the one before it.
struct World {
    entries: BTreeMap<TargetPath, Entry>,
    records: BTreeMap<TargetPath, Box<Recorded>>,
    accepted: Vec<TargetPath>,
}

fn digest(of: u8) -> [u8; 32] {
    [of; 32]
}

fn world(names: &[&str]) -> World {
    let mut world = World { entries: BTreeMap::new(), records: BTreeMap::new(), accepted: Vec::new() };
    for (at, name) in names.iter().enumerate() {
        let n = u8::try_from(at).unwrap();
        let parent = at.checked_sub(1).map(|below| (names[below], digest(n - 1)));
        world.put(name, digest(n), parent, i64::from(n));
    }
    world
}

impl World {
    fn put(&mut self, name: &str, content: [u8; 32], parent: Option<(&str, [u8; 32])>, mtime: i64) {
        let path = path(name);
        let entry = Entry {
            mtime: Some(Timestamp { ns: mtime, precision_ns: 1 }),
            version: Some(format!("{mtime}-{}", hex::encode(content))),
            ..Entry::file(path.clone(), 1000)
        };
        let recognised = format::recognise_name(&path);
        let record = Recorded {
            size: 1000,
            blake3: Some(content),
            source_mtime_ns: mtime,
            source_ctime_ns: 1,
            source_inode: 1,
            target_version: entry.version.clone(),
            target_mtime: entry.mtime,
            level: VerifyLevel::ReadBack,
            set: recognised.as_ref().map(|r| r.set.clone()).unwrap_or_default(),
            recognised,
            image: path.clone(),
            parent: parent.map(|(below, blake3)| {
                Box::new(ParentRecord { path: TargetPath::new(below).unwrap(), blake3 })
            }),
            head: None,
            mount: None,
        };
        self.entries.insert(path.clone(), entry);
        self.records.insert(path, Box::new(record));
    }

    fn remove(&mut self, name: &str) {
        self.entries.remove(&path(name));
        self.records.remove(&path(name));
    }

    fn view(&self) -> TargetView {
        let files = self.entries.values().cloned().map(TargetFile::from).collect();
        let mut view = view(Gathered {
            files: Files::listed(files),
            records: self.records.clone(),
            accepted: self.accepted.clone(),
            ..Gathered::default()
        });
        view.parents_known = true;
        view
    }

    /// By image: what it lacks; empty for a restorable one.
    fn lacks(&self) -> BTreeMap<String, String> {
        let view = self.view();
        let images = view.chains().sets.iter().flat_map(|s| &s.images);
        images
            .map(|i| {
                assert_eq!(i.restorable, i.missing.is_none());
                (i.id.display().into_owned(), i.missing.clone().unwrap_or_default())
            })
            .collect()
    }
}

const AIP: [&str; 4] = [
    "h@c_20240101_d00_00001.aiv",
    "h@c_20240101_d00_00001_i00001.aii",
    "h@c_20240101_d00_00001_i00002.aii",
    "h@c_20240101_d00_00001_i00003.aii",
];

/// Only time orders these.
const TIMED: [&str; 3] = [
    "01234567-89ab-cdef-0123-456789abcdef_B.aiv",
    "01234567-89ab-cdef-0123-456789abcdef_C.aii",
    "01234567-89ab-cdef-0123-456789abcdef_A.aii",
];

#[track_caller]
fn all_lack(world: &World, names: &[&str], what: &str) {
    let lacks = world.lacks();
    for (name, lack) in &lacks {
        let expected = names.contains(&name.as_str());
        assert_eq!(!lack.is_empty(), expected, "{name}: {lack}");
        assert!(!expected || lack.contains(what), "{name}: {lack}");
    }
}

#[test]
fn a_chain_that_lies_there_as_it_was_published_is_restorable() {
    all_lack(&world(&AIP), &[], "");
    all_lack(&world(&TIMED), &[], "");
}

#[test]
fn a_base_that_was_cut_to_nothing_takes_its_chain_along_and_is_named() {
    let mut world = world(&AIP);
    world.entries.get_mut(&path(AIP[0])).unwrap().size = 0;
    all_lack(&world, &AIP, &format!("'{}' is no image: it is empty", AIP[0]));
}

#[test]
fn an_ancestor_of_the_same_size_that_somebody_wrote_anew_is_altered() {
    let mut world = world(&AIP);
    world.entries.get_mut(&path(AIP[1])).unwrap().version = Some("other".into());
    all_lack(&world, &AIP[1..], "was changed on the target since it was published");
}

#[test]
fn a_chain_begun_anew_under_the_same_names_is_not_mixed_with_the_old_one() {
    let mut world = world(&AIP);
    world.put(AIP[0], digest(100), None, 50);
    all_lack(&world, &AIP[1..], &format!("its ancestor '{}' is another one", AIP[0]));
    // Its new increment belongs to it; the old ones still do not.
    world.put(AIP[1], digest(101), Some((AIP[0], digest(100))), 51);
    all_lack(&world, &AIP[2..], &format!("its ancestor '{}' is another one", AIP[1]));
    let doubted = [(path(AIP[2]), path(AIP[1]))];
    assert_eq!(proof::doubted(&world.view()), doubted);
}

#[test]
fn a_middle_image_that_is_gone_from_a_set_that_time_orders_is_missed() {
    let mut world = world(&TIMED);
    world.remove(TIMED[1]);
    all_lack(&world, &TIMED[2..], &format!("missing: '{}'", TIMED[1]));
}

#[test]
fn what_nobody_compared_is_not_verified_yet() {
    let mut world = world(&AIP);
    world.records.remove(&path(AIP[2]));
    all_lack(&world, &AIP[2..], "not verified yet");
    world.accepted.push(path(AIP[2]));
    all_lack(&world, &[], "");
    let mut world = self::world(&AIP);
    world.records.get_mut(&path(AIP[0])).unwrap().blake3 = None;
    all_lack(&world, &AIP, "not verified yet");
}

#[test]
fn a_link_that_was_never_recorded_is_learned_once_and_unknown_ever_after() {
    let mut world = world(&AIP);
    for record in world.records.values_mut() {
        record.parent = None;
    }
    let mut old = world.view();
    old.parents_known = false;
    assert!(old.chains().sets[0].images.iter().all(|i| i.restorable));
    let learned: Vec<_> = (1..4).map(|n| (path(AIP[n]), path(AIP[n - 1]))).collect();
    assert_eq!(proof::links(&old), learned);
    all_lack(&world, &AIP[1..], "it is not recorded that");
    // What is not as it was recorded teaches nothing.
    world.entries.get_mut(&path(AIP[1])).unwrap().size = 7;
    assert_eq!(proof::links(&world.view()), [(path(AIP[3]), path(AIP[2]))]);
}
