//! Sending a file in parts, several at once, where a server takes more than whole files.
//!
//! Each part that the server acknowledged is a checkpoint. The first failure ends the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Error, ErrorKind, Range, Ranges, Result, Session, StageRequest, Token};

/// PUTs one part; its second argument tells when to stop because another one failed.
pub type Put<'a> = dyn Fn(Range, &dyn Fn() -> bool) -> Result<()> + Sync + 'a;

/// The smallest part where the size is free.
const SMALLEST: u64 = 1 << 20;
/// How long a part should be under way: a kill costs what was sent since the last checkpoint.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3);

/// Bytes of a part; it ends at a multiple of them.
#[derive(Clone, Copy)]
pub enum Size {
    /// The server counts on all being equal.
    Fixed(u64),
    /// Smaller while the line is slow, and where the server refuses requests of that size.
    UpTo(u64),
}

pub struct Parts<'a> {
    pub call: &'a Call,
    pub request: &'a StageRequest,
    pub session: &'a dyn Session,
    pub token: Token,
    pub size: Size,
    pub put: &'a Put<'a>,
}

struct State {
    /// What to send, the next one last.
    left: Vec<Range>,
    part: u64,
    /// What `part` grows to.
    most: u64,
    done: Ranges,
    failure: Option<Error>,
}

impl State {
    fn next(&mut self) -> Option<Range> {
        let range = self.left.last_mut()?;
        let length = (self.part - range.offset % self.part).min(range.length);
        let next = Range { offset: range.offset, length };
        range.offset += length;
        range.length -= length;
        if range.length == 0 {
            self.left.pop();
        }
        Some(next)
    }
}

impl Parts<'_> {
    /// Sends all that is not `done`.
    pub fn send(&self, done: Ranges) -> Result<()> {
        let mut left = done.missing(self.request.size);
        left.reverse();
        let (part, most) = match self.size {
            Size::Fixed(bytes) => (bytes, bytes),
            Size::UpTo(bytes) => (SMALLEST.min(bytes), bytes),
        };
        let bytes: u64 = left.iter().map(|range| range.length).sum();
        let streams = u64::from(self.request.streams.max(1)).min(bytes.div_ceil(part));
        let state = Mutex::new(State { left, part, most, done, failure: None });
        let stop = AtomicBool::new(false);
        if streams <= 1 {
            self.work(&state, &stop);
        } else {
            std::thread::scope(|scope| {
                for _ in 0..streams {
                    scope.spawn(|| self.work(&state, &stop));
                }
            });
        }
        state.into_inner().unwrap_or_else(PoisonError::into_inner).failure.map_or(Ok(()), Err)
    }

    fn work(&self, state: &Mutex<State>, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            let Some(range) = lock(state).next() else { return };
            let begun = Instant::now();
            let sent = self.call.proceed().and_then(|()| (self.put)(range, &|| stop.load(Ordering::SeqCst)));
            let result = match sent {
                Ok(()) => self.arrived(state, range, begun.elapsed()),
                Err(error) => self.refused(state, range, error),
            };
            if let Err(error) = result {
                // The first failure is the cause; that of the others is that they were stopped.
                lock(state).failure.get_or_insert(error);
                stop.store(true, Ordering::SeqCst);
            }
        }
    }

    /// A part too large for the server is cut into smaller ones, where that may be.
    fn refused(&self, state: &Mutex<State>, range: Range, error: Error) -> Result<()> {
        let free = matches!(self.size, Size::UpTo(_));
        if !free || *error.kind() != ErrorKind::TooLarge || range.length <= SMALLEST {
            return Err(error);
        }
        let mut state = lock(state);
        state.most = state.most.min(range.length / 2).max(SMALLEST);
        state.part = state.part.min(state.most);
        state.left.push(range);
        Ok(())
    }

    /// One checkpoint at a time, each with all that came before.
    fn arrived(&self, state: &Mutex<State>, range: Range, took: Duration) -> Result<()> {
        let mut state = lock(state);
        if let Size::UpTo(_) = self.size {
            // Ends of files and odd pieces say nothing of the rate.
            if took > LONG {
                state.part = (state.part / 2).max(SMALLEST.min(state.most));
            } else if took < SHORT && range.length >= state.part {
                state.part = (state.part * 2).min(state.most);
            }
        }
        state.done.insert(range);
        self.session.checkpoint(&self.token, state.done.as_slice(), false)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use offsite_plugin_api::{Attributes, TargetPath};

    struct Kept(Mutex<Vec<Vec<Range>>>);

    impl Session for Kept {
        fn checkpoint(&self, _: &Token, ranges: &[Range], _: bool) -> Result<()> {
            self.0.lock().unwrap().push(ranges.to_vec());
            Ok(())
        }
    }

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    fn request(size: u64, streams: u32) -> StageRequest {
        StageRequest {
            path: TargetPath::new("x").unwrap(),
            staging: TargetPath::new("offsite-a-b.part").unwrap(),
            attributes: Attributes::default(),
            size,
            streams,
            owner: "a".into(),
            resume: None,
        }
    }

    #[test]
    fn only_what_is_missing_is_sent_and_no_part_crosses_a_boundary() {
        let sent = Mutex::new(Vec::new());
        let kept = Kept(Mutex::default());
        let parts = Parts {
            call: &Call::unwatched(),
            request: &request(25, 1),
            session: &kept,
            token: Token(vec![1]),
            size: Size::Fixed(10),
            put: &|range, _| {
                sent.lock().unwrap().push(range);
                Ok(())
            },
        };
        parts.send(Ranges::from_list(&[range(0, 3), range(12, 2)])).unwrap();
        assert_eq!(*sent.lock().unwrap(), [range(3, 7), range(10, 2), range(14, 6), range(20, 5)]);
        let kept = kept.0.lock().unwrap();
        assert_eq!(kept.len(), 4);
        assert_eq!(kept[3], [range(0, 25)]);
    }

    #[test]
    fn parts_of_a_free_size_grow_up_to_the_most_while_they_are_quick() {
        let sent = Mutex::new(Vec::new());
        let parts = Parts {
            call: &Call::unwatched(),
            request: &request(18 * SMALLEST, 1),
            session: &Kept(Mutex::default()),
            token: Token(vec![1]),
            size: Size::UpTo(4 * SMALLEST),
            put: &|range, _| {
                sent.lock().unwrap().push(range.length / SMALLEST);
                Ok(())
            },
        };
        parts.send(Ranges::default()).unwrap();
        assert_eq!(*sent.lock().unwrap(), [1, 1, 2, 4, 4, 4, 2]);
    }

    #[test]
    fn a_part_too_large_for_the_server_is_cut_and_none_as_large_is_sent_again() {
        let sent = Mutex::new(Vec::new());
        let parts = Parts {
            call: &Call::unwatched(),
            request: &request(12 * SMALLEST, 1),
            session: &Kept(Mutex::default()),
            token: Token(vec![1]),
            size: Size::UpTo(8 * SMALLEST),
            put: &|range, _| {
                sent.lock().unwrap().push((range.offset / SMALLEST, range.length / SMALLEST));
                if range.length <= 3 * SMALLEST {
                    return Ok(());
                }
                Err(Error::new(ErrorKind::TooLarge, "413"))
            },
        };
        parts.send(Ranges::default()).unwrap();
        let expected = [(0, 1), (1, 1), (2, 2), (4, 4), (4, 2), (6, 2), (8, 2), (10, 2)];
        assert_eq!(*sent.lock().unwrap(), expected);
    }

    #[test]
    fn the_first_failure_is_told_and_ends_the_others() {
        let kept = Kept(Mutex::default());
        let parts = Parts {
            call: &Call::unwatched(),
            request: &request(1000, 4),
            session: &kept,
            token: Token(vec![1]),
            size: Size::Fixed(10),
            put: &|range, stop| {
                if range.offset == 20 {
                    return Err(Error::new(ErrorKind::NoSpace, "full"));
                }
                while !stop() {
                    std::thread::yield_now();
                }
                Err(Error::new(ErrorKind::Cancelled, "stopped"))
            },
        };
        let error = parts.send(Ranges::default()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NoSpace);
        assert!(kept.0.lock().unwrap().is_empty());
    }
}
