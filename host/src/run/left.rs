//! Images left for the next run, because they were still being written: no failure, as long as a next run takes them.
//!
//! One that is left run after run is not replicated at all, and must not go unnoticed: what is left is remembered with
//! since when and how often, `status` shows it, and after a day it makes the run count as not wholly done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::error::Result;
use crate::notice::{Notice, NoticeCode};
use crate::report::Event;

const FACT: &str = "host.left";
/// From so many runs in a row, over so long a time, it is told as a fault.
const RUNS: u64 = 3;
const LONG_NS: i64 = 24 * 3600 * 1_000_000_000;
/// More are counted, not remembered.
const MOST: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Of the first run in a row that left it, nanoseconds since the Unix epoch.
    pub since_ns: i64,
    /// Runs in a row.
    pub runs: u64,
    /// It only waits for another image.
    #[serde(default)]
    pub waits: bool,
}

/// What the last run left, by the image's path at the source.
pub fn known(catalog: &Catalog) -> Result<BTreeMap<String, Left>> {
    Ok(catalog.fact(FACT)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

/// Remembers what this run left, and nothing else. Gives what was being written for too long. `waiting`: images that wait for
/// another one.
pub fn remember(catalog: &Catalog, images: &[String], waiting: &[String], now_ns: i64) -> Result<Vec<Event>> {
    let before = known(catalog)?;
    let mut now = next(&before, waiting, true, now_ns);
    now.extend(next(&before, images, false, now_ns));
    if now != before {
        catalog.put_fact(FACT, &serde_json::to_vec(&now).expect("paths and numbers serialise"))?;
    }
    Ok(now
        .iter()
        .filter(|(_, left)| too_long(**left, now_ns))
        .map(|(image, left)| notice(image, *left, now_ns))
        .collect())
}

fn next(
    before: &BTreeMap<String, Left>,
    images: &[String],
    waits: bool,
    now_ns: i64,
) -> BTreeMap<String, Left> {
    let one = |image: &String| {
        let new = Left { since_ns: now_ns, runs: 0, waits };
        let left = before.get(image).copied().unwrap_or(new);
        (image.clone(), Left { runs: left.runs + 1, waits, ..left })
    };
    images.iter().take(MOST).map(one).collect()
}

fn too_long(left: Left, now_ns: i64) -> bool {
    !left.waits && left.runs >= RUNS && now_ns.saturating_sub(left.since_ns) >= LONG_NS
}

fn notice(image: &str, left: Left, now_ns: i64) -> Event {
    let hours = now_ns.saturating_sub(left.since_ns) / 3_600_000_000_000;
    let text = format!(
        "{image} was still being written in each of the last {}, for {hours} h: it is not replicated; run when the \
         backup is done, or leave the file out with a filter or with ignore",
        crate::words::count(left.runs, "run")
    );
    Event::Notice(Notice::new(NoticeCode::KeepsChanging, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn what_changes_for_long_is_a_fault_and_what_settles_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("t.db")).unwrap();
        let (a, b) = ("a.vbk".to_owned(), "b.vbk".to_owned());
        let run = |images: &[&String], hour: i64| {
            let images: Vec<String> = images.iter().map(|i| (*i).clone()).collect();
            remember(&catalog, &images, &[], hour * HOUR).unwrap().len()
        };
        assert_eq!(run(&[&a, &b], 100), 0);
        assert_eq!(run(&[&a, &b], 130), 0, "long, but twice only");
        assert_eq!(run(&[&a], 131), 1);
        assert_eq!(
            known(&catalog).unwrap(),
            [(a.clone(), Left { since_ns: 100 * HOUR, runs: 3, waits: false })].into()
        );
        assert_eq!(run(&[], 132), 0);
        assert_eq!(run(&[&a, &b], 133), 0, "it begins anew");
        assert_eq!(run(&[&a, &b], 134) + run(&[&a, &b], 135), 0, "three times, but not for long");
    }
}
