//! Reading back: several ranges at once, and one that differs among them.

use super::*;

const SIZE: usize = 40 * MIB;

/// The most reads at once, and what came of it.
fn proved(parallel_ranges: u32, flip: Option<usize>) -> (usize, Summary) {
    let mut bench = Bench::new(&[("a", SIZE)]);
    bench.wire.flip = flip;
    bench.wire.mem.capabilities.parallel_ranges = parallel_ranges;
    let counts: Arc<Mutex<(usize, usize)>> = Arc::default();
    let counted = counts.clone();
    bench.wire.before_read = Some(Arc::new(move |_| {
        {
            let mut counts = counted.lock().unwrap();
            counts.0 += 1;
            counts.1 = counts.1.max(counts.0);
        }
        std::thread::sleep(Duration::from_millis(50));
        counted.lock().unwrap().0 -= 1;
        Ok(())
    }));
    let summary = bench.copy(&bench.context(), &["a"]);
    let most = counts.lock().unwrap().1;
    (most, summary)
}

#[test]
fn samples_are_read_side_by_side_as_far_as_streams_and_target_allow() {
    let (most, summary) = proved(8, None);
    assert_eq!((most, summary.images, summary.failed), (3, 1, 0), "three streams");
    assert_eq!(proved(2, None).0, 2);
    assert_eq!(proved(1, None).0, 1);
}

#[test]
fn one_that_differs_stops_the_publish() {
    for byte in [0, SIZE - 1] {
        let (_, summary) = proved(8, Some(byte));
        assert_eq!((summary.images, summary.failed), (0, 1), "byte {byte}");
    }
}
