//! Small files that wait to be staged: in the plan's order, but not too far ahead of what their set has published.
//!
//! A set's images become visible one after the other. Were a long chain staged to its end before the next one is begun, the
//! last of them would be published all alone, and a far server be waited for once for each image.

use std::collections::{BTreeSet, VecDeque};

/// Files of a set that are staged, or being staged, and not published, before other sets have precedence.
const AHEAD: usize = 16;

/// (unit, file), in the plan's order.
pub type At = (usize, usize);

#[derive(Debug, Default)]
pub struct SmallQueue {
    sets: Vec<OfSet>,
    /// The next file of each set that has one, and the set: those below their limit, and the others.
    open: BTreeSet<(At, usize)>,
    full: BTreeSet<(At, usize)>,
    left: usize,
}

#[derive(Debug, Default)]
struct OfSet {
    files: VecDeque<At>,
    ahead: usize,
}

impl SmallQueue {
    /// `files`: each with its set's number, in the plan's order.
    pub fn new(files: impl IntoIterator<Item = (At, usize)>) -> Self {
        let mut queue = Self::default();
        for (at, set) in files {
            if queue.sets.len() <= set {
                queue.sets.resize_with(set + 1, OfSet::default);
            }
            queue.sets[set].files.push_back(at);
            queue.left += 1;
        }
        for (set, of) in queue.sets.iter().enumerate() {
            queue.open.extend(of.files.front().map(|at| (*at, set)));
        }
        queue
    }

    pub fn len(&self) -> usize {
        self.left
    }

    pub fn front(&self) -> Option<At> {
        self.first().map(|(at, _)| at)
    }

    fn first(&self) -> Option<(At, usize)> {
        self.open.first().or(self.full.first()).copied()
    }

    /// It counts until [`SmallQueue::ended`] says that it is published, or never will be.
    pub fn pop(&mut self) -> Option<At> {
        let (at, set) = self.first()?;
        self.change(set, |of| {
            of.files.pop_front();
            of.ahead += 1;
        });
        self.left -= 1;
        Some(at)
    }

    pub fn ended(&mut self, set: usize, files: usize) {
        if files > 0 {
            self.change(set, |of| of.ahead -= files);
        }
    }

    fn change(&mut self, set: usize, change: impl FnOnce(&mut OfSet)) {
        let of = &mut self.sets[set];
        if let Some(at) = of.files.front() {
            self.open.remove(&(*at, set));
            self.full.remove(&(*at, set));
        }
        change(of);
        if let Some(at) = of.files.front() {
            let queue = if of.ahead < AHEAD { &mut self.open } else { &mut self.full };
            queue.insert((*at, set));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_far_ahead_of_its_publishing_lets_others_go_first() {
        let of_set = |set: usize| (0..20).map(move |n| ((set * 20 + n, 0), set));
        let mut queue = SmallQueue::new((0..3).flat_map(of_set));
        let taken = |queue: &mut SmallQueue, count: usize| -> Vec<usize> {
            (0..count).map(|_| queue.pop().unwrap().0).collect()
        };
        assert_eq!(taken(&mut queue, 17), (0..16).chain([20]).collect::<Vec<_>>());
        queue.ended(0, 2);
        assert_eq!(taken(&mut queue, 3), [16, 17, 21]);
        assert_eq!(queue.front(), Some((22, 0)));
        // All are at their limit: the plan's order again.
        taken(&mut queue, 14 + 16);
        assert_eq!(taken(&mut queue, 2), [18, 19]);
        assert_eq!((queue.len(), queue.front()), (8, Some((36, 0))));
        queue.ended(2, 16);
        assert_eq!(taken(&mut queue, 8), [56, 57, 58, 59, 36, 37, 38, 39]);
        assert_eq!((queue.len(), queue.pop()), (0, None));
        queue.ended(0, 18);
    }
}
