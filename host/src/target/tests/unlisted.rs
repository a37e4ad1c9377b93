//! Listings that leave published files out, and names that cannot be looked at: neither is taken for a loss, and neither
//! stops the rest.

use offsite_plugin_api::ErrorKind;

use super::mem::Mem;
use super::{Bench, path};
use crate::target::{announce, no_source, publish_announced, publish_file, settle, survey, sweep};

fn with_three() -> Bench {
    let bench = Bench::new(Mem::swapping());
    for name in ["d/1.aiv", "d/2.aiv", "e/3.aiv"] {
        bench.publish(name, name.as_bytes(), 1);
    }
    bench
}

#[test]
fn a_published_file_that_is_not_listed_is_asked_for_by_name() {
    let bench = with_three();
    bench.mem.disk().unlisted.insert(path("d/2.aiv"));
    let view = survey(&bench.site()).unwrap().view;
    assert!(view.gone.is_empty() && view.unknown.is_empty(), "{:?} {:?}", view.gone, view.unknown);
    let recorded = view.files.recorded(&path("d/2.aiv")).expect("it is back, with its record");
    assert!(!recorded.touched(&view.files[&path("d/2.aiv")].entry), "and as it was published");
    // What the listing of its directory leaves out once, it may leave out more of.
    assert_eq!(view.incomplete.keys().map(|d| d.display().into_owned()).collect::<Vec<_>>(), ["d"]);
    assert!(view.incomplete[&path("d")].contains("d/2.aiv"), "{:?}", view.incomplete);
    assert_eq!(view.incomplete_above(&path("d/other")), Some(&path("d")));
    assert_eq!(view.incomplete_above(&path("e/3.aiv")), None);
}

#[test]
fn what_is_neither_listed_nor_there_is_gone() {
    let bench = with_three();
    bench.mem.disk().files.remove(&path("d/2.aiv"));
    let view = survey(&bench.site()).unwrap().view;
    assert!(
        view.gone.contains_key(&path("d/2.aiv")) && view.unknown.is_empty() && view.incomplete.is_empty()
    );
}

#[test]
fn nothing_is_gone_where_the_listing_says_that_it_is_not_whole() {
    for dir in ["d", ""] {
        let bench = with_three();
        let mut disk = bench.mem.disk();
        disk.files.remove(&path("d/2.aiv"));
        disk.incomplete = vec![(path(dir), "a line of no known form".into())];
        drop(disk);
        let view = survey(&bench.site()).unwrap().view;
        assert!(view.gone.is_empty(), "{dir}");
        assert!(view.unknown.contains_key(&path("d/2.aiv")), "{dir}");
        assert_eq!(view.files.len(), 2);
    }
}

#[test]
fn what_is_unknown_is_not_gone_after_the_run_either() {
    let bench = with_three();
    bench.mem.disk().incomplete = vec![(path("d"), "a line of no known form".into())];
    bench.mem.disk().files.remove(&path("d/2.aiv"));
    let before = survey(&bench.site()).unwrap().view;
    bench.publish("e/4.aiv", b"new", 1);
    let touched = [path("e/4.aiv")];
    let view = crate::target::after(before, &bench.catalog, &touched).unwrap();
    assert!(view.gone.is_empty() && view.unknown.contains_key(&path("d/2.aiv")), "{:?}", view.gone);
    assert_eq!(view.files.len(), 3);
}

#[test]
fn what_is_known_to_be_gone_from_both_sides_is_not_asked_for_in_every_run() {
    let bench = with_three();
    bench.mem.disk().files.remove(&path("d/2.aiv"));
    let asked = || {
        let before = bench.mem.disk().asked;
        let view = survey(&bench.site()).unwrap().view;
        assert!(view.gone.contains_key(&path("d/2.aiv")));
        bench.mem.disk().asked - before
    };
    assert_eq!((asked(), asked()), (1, 1));
    bench.catalog.put_gone(&Default::default(), &[(path("d/2.aiv"), 5)].into()).unwrap();
    assert_eq!(asked(), 0);
    // Nothing is concluded from a listing that is not whole, whatever an earlier one said.
    bench.mem.disk().incomplete = vec![(path("d"), "a line of no known form".into())];
    assert!(survey(&bench.site()).unwrap().view.unknown.contains_key(&path("d/2.aiv")));
}

#[test]
fn a_name_that_cannot_be_settled_holds_its_own_image_and_the_next_run_settles_it() {
    let bench = Bench::new(Mem::atomic());
    let taken = bench.stage("taken.aiv", b"new", 1, None);
    let other = bench.stage("other.aiv", b"other", 1, None);
    bench.mem.disk().directories.insert(path("taken.aiv"));
    // Killed between the intent and the publish, both of them.
    for file in [&taken, &other] {
        let killed = crate::run::killpoint::in_thread::killed_at(2, || publish_file(&bench.site(), file));
        assert!(killed.is_none(), "it was not killed");
    }
    assert_eq!(bench.catalog.intents().unwrap().len(), 2);
    let settled = settle(&bench.site(), &no_source).unwrap();
    assert_eq!(settled.stuck.len(), 1, "{settled:?}");
    assert_eq!(settled.stuck[0].paths, [path("taken.aiv")]);
    assert!(settled.stuck[0].why.contains("no file") && settled.stuck[0].why.contains("move it away"));
    assert_eq!(bench.catalog.intents().unwrap().len(), 1, "the other one is settled");
    // Whoever looks at it meets the same, and what is staged stays.
    let error = publish_file(&bench.site(), &taken).unwrap_err();
    assert!(error.is_backend(&ErrorKind::Exists), "{error}");
    let found = survey(&bench.site()).unwrap();
    sweep::sides(&bench.site(), &found).unwrap();
    // The run that meets it says what to do, too.
    for announced in [false, true] {
        let bench = Bench::new(Mem::atomic());
        let file = bench.stage("d.aiv", b"new", 1, None);
        bench.mem.disk().directories.insert(path("d.aiv"));
        let error = match announced {
            false => publish_file(&bench.site(), &file).unwrap_err(),
            true => {
                let intent = announce(&bench.site(), std::slice::from_ref(&file)).unwrap()[0].unwrap();
                publish_announced(&bench.site(), &file, intent).unwrap_err()
            }
        };
        assert!(error.to_string().contains("no file: d.aiv (move it away)"), "{error}");
    }
    // The way out.
    bench.mem.disk().directories.clear();
    assert!(settle(&bench.site(), &no_source).unwrap().stuck.is_empty());
    assert!(bench.catalog.intents().unwrap().is_empty());
    publish_file(&bench.site(), &taken).unwrap();
    bench.assert_records_true();
}
