//! A worker in a call that no signal ends: it is left behind and reported, nobody waits for it, and its lock stays.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::mpsc;
use std::sync::{Mutex, atomic::AtomicBool, atomic::Ordering};
use std::time::{Duration, Instant};

use offsite_tests::fuse::Mirror;
use offsite_tests::program::wait_until;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

#[test]
fn a_target_that_holds_its_worker_in_the_kernel_is_left_behind_and_stays_locked() {
    let box_ = Sandbox::new();
    random_file(&box_.source().join("disk-b000.spf"), 2_000_000, 1);
    let mirror = Mirror::mount(&box_.path("c"), &box_.path("a"));
    // The first write of staged bytes gets no answer until it is let go; everything else is answered.
    let (go, wait) = mpsc::channel::<()>();
    let (wait, held) = (Mutex::new(wait), std::sync::Arc::new(AtomicBool::new(false)));
    let (holding, behind) = (held.clone(), box_.path("c"));
    mirror.watch(move |what, path| {
        let large = std::fs::metadata(behind.join(path)).is_ok_and(|m| m.len() >= 65_536);
        if what == "write" && path.extension().is_some_and(|e| e == "part") && large {
            holding.store(true, Ordering::SeqCst);
            let _ = wait.lock().unwrap().recv();
        }
    });
    let run = || {
        box_.run(&["a", "b"])
            .args(["--attempts", "2", "--first-wait", "100ms", "--streams", "1"])
            .env("OFFSITE_HANG_SECONDS", "5")
    };
    let start = Instant::now();
    let ran = run().run();
    assert!(held.load(Ordering::SeqCst), "no write was held: {}", ran.all());
    let ran = ran.expect(3);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(ran.all().contains("stuck in the kernel and was left behind"), "{}", ran.all());
    assert_eq!(tree(&box_.source()), tree(&box_.path("b")), "the other target is done");
    let again = run().run().expect(3);
    assert!(again.all().contains("another run is working on this target"), "{}", again.all());
    drop(go);
    let mut last = None;
    wait_until("the stuck worker's end", Duration::from_secs(60), || {
        last = Some(run().run());
        last.as_ref().is_some_and(|ran| ran.code == Some(0))
    });
    assert_eq!(tree(&box_.source()), tree(&box_.path("c")), "{:?}", last);
    assert!(debris(&box_.path("c")).is_empty());
}
