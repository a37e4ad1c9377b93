//! Intents written down ahead of a chain's publishing.

use super::*;

const NAMES: [&str; 9] = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"];

fn bench() -> Bench {
    Bench::new(&NAMES.map(|n| (n, 500)))
}

/// What was seen as images were published.
#[derive(Default)]
struct Seen {
    /// The most intents that were open at once.
    open: usize,
    /// Images without an intent of their own, or before their parent.
    wrong: Vec<String>,
}

/// Publishes take a while, so that the rest of the chain is staged meanwhile.
fn watched(bench: &mut Bench, refused: Option<&'static str>) -> Arc<Mutex<Seen>> {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let (told, catalog, mem) = (seen.clone(), bench.catalog.clone(), bench.wire.mem.clone());
    bench.wire.before_publish = Some(Arc::new(move |name| {
        let path = TargetPath::new(name).unwrap();
        let own = catalog.intents_at(&path).unwrap().len();
        let at = NAMES.iter().position(|n| *n == name).unwrap();
        let parent = at.checked_sub(1).map(|p| TargetPath::new(NAMES[p]).unwrap());
        let in_order = parent.is_none_or(|p| mem.content(&p).is_some());
        {
            // Not a panic: the other streams would wait for this one.
            let mut seen = told.lock().unwrap();
            seen.open = seen.open.max(catalog.intents().unwrap().len());
            if own != 1 || !in_order {
                seen.wrong.push(format!("{name}: {own} intent(s), in order: {in_order}"));
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        if refused == Some(name) { Err(BackendError::new(ErrorKind::Denied, "not allowed")) } else { Ok(()) }
    }));
    seen
}

#[track_caller]
fn assert_announced(seen: &Mutex<Seen>) {
    let seen = seen.lock().unwrap();
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert!(seen.open > 2, "{} open at once", seen.open);
}

#[test]
fn a_chain_is_announced_ahead_and_published_one_after_the_other() {
    let mut bench = bench();
    let seen = watched(&mut bench, None);
    let summary = bench.copy(&bench.context(), &NAMES);
    assert_eq!((summary.images, summary.failed, summary.fatal), (9, 0, None));
    assert_eq!(*bench.wire.published.lock().unwrap(), NAMES);
    assert_announced(&seen);
    assert_eq!(bench.catalog.intents().unwrap(), []);
    assert_eq!(bench.catalog.published().unwrap().len(), 9);
}

#[test]
fn what_was_announced_behind_a_failure_is_withdrawn() {
    let mut bench = bench();
    let seen = watched(&mut bench, Some("a5"));
    let summary = bench.copy(&bench.context(), &NAMES);
    assert_eq!((summary.images, summary.failed, summary.fatal), (4, 1, None));
    assert_eq!(bench.visible(), NAMES[..4]);
    assert_announced(&seen);
    assert_eq!(bench.catalog.intents().unwrap(), []);
    // Still staged: the next run sends nothing again.
    let sent = bench.wire.sent();
    bench.wire.before_publish = None;
    let summary = bench.copy(&bench.context(), &NAMES[4..]);
    assert_eq!((summary.images, bench.wire.sent() - sent), (5, 0));
    assert_eq!(bench.visible(), NAMES);
}

#[test]
fn what_was_announced_before_a_stop_is_withdrawn() {
    let mut bench = bench();
    let context = bench.context();
    let (stop, watch) = (context.line.stop.clone(), watched(&mut bench, None));
    let before = bench.wire.before_publish.take().unwrap();
    bench.wire.before_publish = Some(Arc::new(move |name| {
        if name == "a4" {
            stop.set();
        }
        before(name)
    }));
    let context = Context { backend: Arc::new(bench.wire.clone()), ..context };
    let summary = bench.copy(&context, &NAMES);
    assert_eq!(summary.fatal.map(|e| e.kind), Some(Kind::Stopped));
    assert_announced(&watch);
    assert!(bench.visible().len() < 9);
    assert_eq!(bench.catalog.intents().unwrap(), []);
}
