//! Stories of sets that keep up, fall behind, and come back.

use super::*;
use crate::plan::NoticeCode;
use crate::plan::tests::sim::{World, aip, path, qcow2};
use crate::target::ParentRecord;

const DAY: i64 = 24 * 3_600_000_000_000;

/// A world over days: each run plans, does what may be done, and judges.
struct Days {
    world: World,
    lags: BTreeMap<String, SetLag>,
    day: i64,
    looked: usize,
}

impl Days {
    fn new(world: World) -> Self {
        Self { world, lags: BTreeMap::new(), day: 100, looked: 0 }
    }

    /// A run a day later, in which the steps of these images fail, and what comes after them. Gives the lags in days.
    fn run(&mut self, fails: &[&str]) -> Vec<(String, i64)> {
        self.day += 1;
        self.looked = 0;
        let source = self.world.chains();
        let view = self.world.view();
        let plan = self.world.plan();
        let mut done = HashSet::new();
        for (at, step) in plan.steps.iter().enumerate() {
            let acts = step.action != Action::Skip || !step.files.is_empty();
            let waits = step.after.iter().any(|a| !done.contains(a));
            if acts && !waits && !fails.contains(&&*step.image.display()) {
                self.world.execute(step);
                done.insert(at);
            }
        }
        let run = Run {
            source: &source,
            plan: &plan,
            done: &done,
            gone: view.gone.values().map(|r| r.set.as_str()).collect(),
            scanned_ns: self.day * DAY,
            whole: self.world.inventory.unreadable.is_empty(),
        };
        let looked = std::cell::Cell::new(0);
        let after = self.world.view();
        self.lags = lags(&run, &self.lags, || {
            looked.set(1);
            Ok(&after)
        })
        .unwrap();
        self.looked = looked.get();
        self.shown()
    }

    fn shown(&self) -> Vec<(String, i64)> {
        let days = |lag: &SetLag| if lag.since_ns == 0 { 0 } else { self.day - lag.since_ns / DAY };
        self.lags.values().map(|lag| (lag.image.display().into_owned(), days(lag))).collect()
    }
}

fn lag(image: &str, days: i64) -> Vec<(String, i64)> {
    vec![(image.to_owned(), days)]
}

#[test]
fn a_set_lags_from_its_first_image_that_does_not_arrive_until_the_newest_one_did() {
    let mut days = Days::new(World::with_aip(0));
    assert_eq!(days.run(&[]), lag(&aip(0), 0));
    for n in 1..=4 {
        days.world.file(&aip(n), 100, 50 + n as i64);
        let failing = aip(1);
        assert_eq!(days.run(&[&failing]), lag(&aip(n), n as i64 - 1), "each day's image waits for the first");
    }
    assert_eq!(days.run(&[]), lag(&aip(4), 0));
}

#[test]
fn a_source_that_has_produced_nothing_new_does_not_lag_and_costs_no_look() {
    let mut days = Days::new(World::with_aip(3));
    assert_eq!(days.run(&[]), lag(&aip(3), 0));
    assert_eq!(days.looked, 1);
    for _ in 0..400 {
        assert_eq!(days.run(&[]), lag(&aip(3), 0));
        assert_eq!(days.looked, 0);
    }
}

#[test]
fn an_older_image_lost_on_the_target_makes_the_newest_one_lag() {
    let mut days = Days::new(World::with_aip(3));
    days.run(&[]);
    days.world.erase(&aip(1));
    let failing = aip(1);
    assert_eq!(days.run(&[&failing]), lag(&aip(3), 0));
    assert!(days.lags.values().all(|l| l.since_ns > 0), "it lags since today");
    assert_eq!(days.run(&[&failing]), lag(&aip(3), 1));
    assert_eq!(days.run(&[]), lag(&aip(3), 0));
}

#[test]
fn an_older_version_of_the_newest_image_is_not_the_newest_image() {
    let mut days = Days::new(World::with_aip(1));
    days.run(&[]);
    days.world.file(&aip(1), 500, 70);
    let failing = aip(1);
    days.run(&[&failing]);
    assert_eq!(days.run(&[&failing]), lag(&aip(1), 1));
}

#[test]
fn what_only_the_catalog_says_is_consolidated_lags_until_it_is_accepted() {
    let mut days = Days::new(World::with_aip(3));
    days.run(&[]);
    for n in [1, 2] {
        days.world.erase(&aip(n));
    }
    days.world.write(&aip(3), "merged", 900);
    days.run(&[]);
    assert!(days.world.plan().notices.iter().any(|n| n.code == NoticeCode::Unproven));
    assert_eq!(days.run(&[]), lag(&aip(3), 1));
    days.world.accepted.push(path(&aip(3)));
    assert_eq!(days.run(&[]), lag(&aip(3), 0));
}

#[test]
fn what_the_user_leaves_out_and_what_the_source_cannot_restore_is_no_lag() {
    let mut days = Days::new(World::with_aip(3));
    days.world.options.filter.exclude = vec![format!("*{}", aip(3)), format!("*{}", aip(1))];
    assert_eq!(days.run(&[]), lag(&aip(2), 0), "copied as asked");
    let mut orphan = World::default();
    orphan.put("1.qcow2", 5, 5, Some(qcow2("1.qcow2", Some("base.qcow2"))));
    let mut days = Days::new(orphan);
    assert_eq!(days.run(&[]), []);
    let everything = World { ..World::with_aip(1) };
    let mut days = Days::new(everything);
    days.world.options.filter.exclude = vec!["**".into()];
    assert_eq!(days.run(&[]), []);
}

#[test]
fn a_set_that_went_ends_its_lag_unless_nobody_could_look() {
    let mut days = Days::new(World::with_aip(0));
    let failing = aip(0);
    days.run(&[&failing]);
    assert_eq!(days.run(&[&failing]), lag(&aip(0), 1));
    let file = days.world.inventory.files.remove(0);
    days.world.inventory.unreadable = vec![(path("x"), "denied".into())];
    assert_eq!(days.run(&[]), lag(&aip(0), 2));
    days.world.inventory.unreadable.clear();
    assert_eq!(days.run(&[]), []);
    days.world.inventory.files.push(file);
    assert_eq!(days.run(&[]), lag(&aip(0), 0));
}

#[test]
fn why_a_set_lags_is_said_and_ends_with_the_lag() {
    let mut days = Days::new(World::with_aip(2));
    let first = aip(1);
    days.run(&[&first]);
    let why = |days: &Days| days.lags.values().next().and_then(|lag| lag.why.clone());
    assert!(why(&days).unwrap().starts_with("not replicated yet"), "{:?}", why(&days));
    days.run(&[]);
    assert_eq!(why(&days), None);
    // Somebody truncates the base on the target, and the run that would mend it fails there.
    days.world.write(&aip(0), "cut", 3);
    let base = aip(0);
    days.run(&[&base]);
    let said = why(&days).unwrap();
    assert!(said.starts_with("altered: ") && said.contains(&base), "{said}");
    days.run(&[]);
    assert_eq!(why(&days), None);
}

#[test]
fn an_ancestor_that_was_replaced_since_is_named() {
    // The base was taken anew under its name, and what was published upon the old one stays.
    let mut days = Days::new(World::with_aip(2));
    days.run(&[]);
    for n in [1, 2] {
        let blake3 = days.world.records[&path(&aip(n - 1))].blake3.unwrap();
        let upon = ParentRecord { path: path(&aip(n - 1)), blake3 };
        days.world.records.get_mut(&path(&aip(n))).unwrap().parent = Some(Box::new(upon));
    }
    days.world.file(&aip(0), 300, 60);
    for since in 0..2 {
        assert_eq!(days.run(&[]), lag(&aip(2), since), "neither with the base's own run nor later");
        let why = days.lags.values().next().and_then(|lag| lag.why.clone()).unwrap();
        assert!(why.contains(&aip(0)) && why.contains("is another one"), "{why}");
    }
}
