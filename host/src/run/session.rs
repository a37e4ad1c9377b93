//! The host's end of one staging: checkpoints become durable records.
//!
//! A plugin may call `checkpoint` as often as it likes. The first is written at once (it holds the token by which
//! anything can be taken up again); later ones when a second has gone by or 8 MiB came, and the last one when the staging
//! fails. The plugin counts what it sends beyond a checkpoint it has told; what is held back here comes on top of that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Error, ErrorKind, Range, Result, ResumeFrom, Session, TargetPath, Token};

use super::resume::TakenUp;
use super::source_reader::SourceReader;
use crate::catalog::Catalog;

const EVERY: Duration = Duration::from_secs(1);
const WORTH: u64 = 8 << 20;
/// Files up to this size are sent again rather than journalled while they are sent: two waits for the disk each would
/// cost more than what a kill can lose.
const SMALL: u64 = 4 << 20;

#[derive(Clone)]
struct Point {
    token: Token,
    ranges: Vec<Range>,
    durable: bool,
}

#[derive(Default)]
struct State {
    latest: Option<Point>,
    /// Bytes of the last written one, and when.
    written: Option<(u64, Instant)>,
    pending: bool,
}

pub struct StageSession {
    catalog: Arc<Catalog>,
    path: TargetPath,
    reader: Arc<SourceReader>,
    /// What was staged before an interruption was read back, or was safe. Where not, no later checkpoint is durable either,
    /// whatever the plugin says.
    sound: bool,
    state: Mutex<State>,
}

impl StageSession {
    /// For a staging that [`Catalog::begin_staging`] recorded and that begins as `taken`: what is staged already is recorded
    /// as such.
    pub fn new(catalog: Arc<Catalog>, path: TargetPath, taken: &TakenUp) -> Self {
        let point = |from: &ResumeFrom| Point {
            token: from.token.clone(),
            ranges: from.ranges.clone(),
            durable: taken.durable,
        };
        let latest = taken.from.as_ref().map(point);
        Self {
            catalog,
            path,
            reader: taken.reader.clone(),
            sound: taken.doubtful.is_empty(),
            state: Mutex::new(State { latest, ..State::default() }),
        }
    }

    /// Writes what was not written yet. Call it when the staging has failed; a complete one is recorded as such.
    pub fn flush(&self) -> crate::error::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pending { self.write(&mut state) } else { Ok(()) }
    }

    /// Whether the latest checkpoint outlasts the server's fall.
    pub fn is_durable(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.latest.as_ref().is_some_and(|point| point.durable)
    }

    /// What the next attempt can go on from: the whole blocks of the latest checkpoint.
    pub fn resume(&self) -> Option<ResumeFrom> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let point = state.latest.as_ref()?;
        let ranges = self.reader.layout().whole_blocks(&point.ranges);
        (!ranges.is_empty()).then(|| ResumeFrom { token: point.token.clone(), ranges })
    }

    /// The token of the latest checkpoint.
    pub fn token(&self) -> Option<Token> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.latest.as_ref().map(|p| p.token.clone())
    }

    fn write(&self, state: &mut State) -> crate::error::Result<()> {
        let Some(point) = &state.latest else { return Ok(()) };
        let blocks = self.reader.take_fresh();
        self.catalog.checkpoint(&self.path, &point.token, &point.ranges, point.durable, &blocks)?;
        state.written = Some((held(&point.ranges), Instant::now()));
        state.pending = false;
        Ok(())
    }
}

impl Session for StageSession {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        check(token, ranges, self.reader.layout().size)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let durable = durable && self.sound;
        state.latest = Some(Point { token: token.clone(), ranges: ranges.to_vec(), durable });
        state.pending = true;
        let due = match state.written {
            None => self.reader.layout().size > SMALL,
            Some((bytes, at)) => at.elapsed() >= EVERY || held(ranges).saturating_sub(bytes) >= WORTH,
        };
        if due {
            self.write(&mut state).map_err(|e| {
                Error::new(ErrorKind::Other, "cannot record a checkpoint").with_source(e.to_string())
            })?;
        }
        Ok(())
    }
}

fn held(ranges: &[Range]) -> u64 {
    ranges.iter().map(|r| r.length).sum()
}

/// What a plugin may say: anything else is its defect, and nothing of it is recorded.
fn check(token: &Token, ranges: &[Range], size: u64) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::Corrupt, format!("the plugin reported a checkpoint that cannot be: {why}")))
    };
    if token.0.len() > Token::MAX {
        return refuse("its token is larger than 64 KiB");
    }
    let mut end = 0;
    for range in ranges {
        let Some(next) = range.offset.checked_add(range.length) else {
            return refuse("a range ends beyond every file");
        };
        if range.length == 0 || range.offset < end {
            return refuse("its ranges are empty, unsorted or overlap");
        }
        if next > size {
            return refuse("a range ends after the file");
        }
        end = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_lies_is_refused() {
        let r = |offset, length| Range { offset, length };
        let token = Token(vec![1]);
        let cases: [(&[Range], bool); 7] = [
            (&[], true),
            (&[r(0, 5), r(5, 5)], true),
            (&[r(2, 5), r(8, 2)], true),
            (&[r(0, 11)], false),
            (&[r(5, 2), r(0, 2)], false),
            (&[r(0, 0)], false),
            (&[r(u64::MAX, 2)], false),
        ];
        for (ranges, good) in cases {
            assert_eq!(check(&token, ranges, 10).is_ok(), good, "{ranges:?}");
        }
        assert!(check(&Token(vec![0; Token::MAX + 1]), &[], 10).is_err());
    }
}
