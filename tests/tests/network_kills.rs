//! A kill at every numbered point of a run that adds and replaces, on the network backends: nothing a reader sees is ever
//! wrong, the next run completes, and nothing is left behind.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::path::PathBuf;

use offsite_tests::backends::{Backend, Reach, S3, Sftp};
use offsite_tests::kill;
use offsite_tests::law::Laws;
use offsite_tests::program::Offsite;
use offsite_tests::sandbox::{Sandbox, debris, random_file, tree};

const BASE: &str = "disk-b000.spf";
const INCREMENT: &str = "disk-b000-i001.spi";

fn command(reach: &Reach, box_: &Sandbox) -> Offsite {
    reach.run(box_).args(["--attempts", "1"])
}

/// The source's first state, on the target; then its second.
fn prepare(reach: &Reach) -> (Sandbox, Laws) {
    let box_ = Sandbox::new();
    random_file(&box_.source().join(BASE), 70_000, 1);
    random_file(&box_.source().join("other-b000.spf"), 20_000, 2);
    command(reach, &box_).run().expect(0);
    let laws = Laws::new().allow(&box_.source()).parent(INCREMENT, BASE);
    random_file(&box_.source().join("other-b000.spf"), 30_000, 3);
    // Larger than what S3 takes with the publish.
    random_file(&box_.source().join(INCREMENT), 9 << 20, 4);
    let laws = laws.allow(&box_.source());
    (box_, laws)
}

/// `empty` makes the server forget everything between two stories.
fn kill_at_each<B: Backend>(backend: &mut B, empty: impl Fn(&mut B)) {
    let reach = backend.reach();
    let (box_, _) = prepare(&reach);
    let log = box_.path("points");
    command(&reach, &box_).env("OFFSITE_KILL_LOG", &log).run().expect(0);
    let points = kill::logged(&log);
    assert!(points.len() >= 8, "{points:?}");
    let last = kill::last(&points);
    for number in 1.. {
        empty(backend);
        let (box_, laws) = prepare(&reach);
        let log = box_.path("points");
        let killed = command(&reach, &box_)
            .env("OFFSITE_KILL_AT", number.to_string())
            .env("OFFSITE_KILL_LOG", &log)
            .run();
        let Some(point) = kill::met(&killed, &log, number) else {
            assert!(number > last * 3 / 4, "nothing was killed from {number} on, of {last}");
            break;
        };
        let seen =
            backend.look(|dir| (laws.broken(dir), tree(dir).contains_key(&PathBuf::from("other-b000.spf"))));
        // A server that replaces in one act never shows a gap.
        assert_eq!(seen, (Vec::new(), true), "killed at {point}\n{}", killed.all());
        let next = command(&reach, &box_).run();
        assert_eq!(next.code, Some(0), "after a kill at {point}\n{}", next.all());
        assert_eq!(tree(&box_.source()), backend.look(tree), "after a kill at {point}\n{}", next.all());
        assert_eq!((backend.look(debris).len(), backend.unfinished()), (0, 0), "after a kill at {point}");
    }
}

#[test]
fn sftp_survives_a_kill_at_every_point() {
    kill_at_each(&mut Sftp::start(), |backend| backend.0.reset());
}

#[test]
fn s3_survives_a_kill_at_every_point() {
    kill_at_each(&mut S3::start(), |backend| backend.0.reset());
}
