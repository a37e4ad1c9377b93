//! Helpers: more threads than streams, for small images only, and every chain in order all the same.

use super::*;

/// 26 chains of 12 small images, on a target where each publish takes a while.
fn crowd(streams_fixed: bool) -> (usize, Vec<String>) {
    let names: Vec<String> =
        ('a'..='z').flat_map(|set| (10..22).map(move |number| format!("{set}{number}"))).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|n| (n.as_str(), 1000)).collect();
    let mut bench = Bench::new(&files);
    // How many are under way, and at most were.
    let counts: Arc<Mutex<(usize, usize)>> = Arc::default();
    let counted = counts.clone();
    bench.wire.before_publish = Some(Arc::new(move |_| {
        {
            let mut counts = counted.lock().unwrap();
            counts.0 += 1;
            counts.1 = counts.1.max(counts.0);
        }
        std::thread::sleep(Duration::from_millis(30));
        counted.lock().unwrap().0 -= 1;
        Ok(())
    }));
    let context = Context { streams_fixed, ..bench.context() };
    let summary = bench.copy(&context, &files.iter().map(|f| f.0).collect::<Vec<_>>());
    assert_eq!((summary.images, summary.failed, summary.fatal), (names.len() as u64, 0, None));
    for name in &names {
        bench.assert_same(name);
    }
    assert_eq!(bench.catalog.intents().unwrap(), []);
    let most = counts.lock().unwrap().1;
    let published = bench.wire.published.lock().unwrap().clone();
    (most, published)
}

#[track_caller]
fn every_child_after_its_parent(published: &[String]) {
    for set in 'a'..='z' {
        let of_set: Vec<&String> = published.iter().filter(|n| n.starts_with(set)).collect();
        assert!(of_set.len() == 12 && of_set.is_sorted(), "{of_set:?}");
    }
}

#[test]
fn helpers_join_for_small_images_and_keep_every_chain_in_order() {
    let (most, published) = crowd(false);
    assert!(most > 3, "{most} at once");
    every_child_after_its_parent(&published);
}

#[test]
fn a_number_of_streams_that_the_user_names_is_honoured() {
    let (most, published) = crowd(true);
    assert!(most <= 3, "{most} at once");
    every_child_after_its_parent(&published);
}
