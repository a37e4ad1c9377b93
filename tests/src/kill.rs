//! Kills at the program's numbered points (`run::killpoint` of the host): how many there are, and that one was met.

use std::path::Path;

use crate::program::Ran;

/// Threads of a worker that reach points, at most.
const THREADS: u64 = 16;

/// The points that were logged, each with its number in the process that reached it.
pub fn logged(log: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(log).expect("a debug build logs its kill points");
    let point = |line: &str| {
        let (number, name) = line.split_once(' ').expect("a number and a name");
        (number.parse().expect("a number"), name.to_owned())
    };
    text.lines().map(point).collect()
}

/// The highest number that a process of a whole run reached: a kill beyond it never happens.
pub fn last(points: &[(u64, String)]) -> u64 {
    points.iter().map(|(number, _)| *number).max().unwrap_or(0)
}

/// Gives the point at which a run with `OFFSITE_KILL_AT=number` and `OFFSITE_KILL_LOG=log` was killed; `None` where it ended
/// well before it reached that many: how many there are depends a little on which thread comes first. Panics where it
/// did not end as a killed run does: then nothing that follows shows anything.
#[track_caller]
pub fn met(ran: &Ran, log: &Path, number: u64) -> Option<String> {
    let points = logged(log);
    let Some((_, name)) = points.iter().find(|(reached, _)| *reached == number) else {
        assert!(last(&points) < number && ran.code == Some(0), "{number} of {points:?}\n{}", ran.all());
        return None;
    };
    // Each of the other threads may have been at a point of its own in the same instant.
    assert!(last(&points) < number + THREADS, "a process went on after its kill at {number}: {points:?}");
    assert_ne!(ran.code, Some(0), "a run that was killed at {number} {name} ended well\n{}", ran.all());
    assert!(ran.all().contains("signal 9"), "nothing tells of the kill at {number} {name}\n{}", ran.all());
    Some(name.clone())
}
