//! A set of byte ranges, sorted and disjoint: what is staged, what a checkpoint names, what is still to send.

use crate::Range;

/// Sorted, disjoint ranges; touching ones are joined, so the list stays short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// From any list: order, overlaps and empty ranges do not matter.
    pub fn from_list(list: &[Range]) -> Self {
        let mut ranges = Self::default();
        for &range in list {
            ranges.insert(range);
        }
        ranges
    }

    pub fn as_slice(&self) -> &[Range] {
        &self.0
    }

    /// Bytes in all ranges.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|r| r.length).sum()
    }

    /// The end of the last range; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, Range::end)
    }

    pub fn insert(&mut self, range: Range) {
        if range.length == 0 {
            return;
        }
        let first = self.0.partition_point(|r| r.end() < range.offset);
        let last = self.0.partition_point(|r| r.offset <= range.end());
        let (mut offset, mut end) = (range.offset, range.end());
        if let Some(touched) = self.0.get(first..last).filter(|t| !t.is_empty()) {
            offset = offset.min(touched[0].offset);
            end = end.max(touched[touched.len() - 1].end());
        }
        self.0.splice(first..last, [Range { offset, length: end - offset }]);
    }

    /// What of `0 .. size` is in no range.
    pub fn missing(&self, size: u64) -> Vec<Range> {
        let mut at = 0;
        let mut gaps = Vec::new();
        for range in self.0.iter().take_while(|r| r.offset < size) {
            if range.offset > at {
                gaps.push(Range { offset: at, length: range.offset - at });
            }
            at = range.end();
        }
        if at < size {
            gaps.push(Range { offset: at, length: size - at });
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    #[test]
    fn touching_and_overlapping_ranges_become_one() {
        let mut ranges = Ranges::default();
        for r in [range(10, 5), range(30, 5), range(15, 5), range(0, 0), range(18, 14)] {
            ranges.insert(r);
        }
        assert_eq!(ranges.as_slice(), [range(10, 25)]);
        ranges.insert(range(0, 3));
        assert_eq!(ranges.as_slice(), [range(0, 3), range(10, 25)]);
        assert_eq!((ranges.total(), ranges.end()), (28, 35));
    }

    #[test]
    fn missing_is_the_complement_within_the_size() {
        let ranges = Ranges::from_list(&[range(10, 10), range(30, 100)]);
        assert_eq!(ranges.missing(50), [range(0, 10), range(20, 10)]);
        assert_eq!(ranges.missing(25), [range(0, 10), range(20, 5)]);
        assert_eq!(Ranges::default().missing(7), [range(0, 7)]);
        assert_eq!(Ranges::from_list(&[range(0, 7)]).missing(7), []);
    }
}
