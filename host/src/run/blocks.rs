//! A file's hash from its blocks: each aligned block is hashed once, in any order, from any thread.
//!
//! BLAKE3 is a tree, and an aligned block whose size is a power of two is a subtree of it, so the blocks' chaining
//! values merge into exactly the hash of the whole file (BLAKE3 paper, section 2.1). That one value serves three
//! ends: it is journalled, so that a resumed transfer need not read the file from its beginning; a block read again
//! is compared with it; and bytes read back from a target are compared with it block by block. A file of at most one
//! block has no subtree below its root: its only value is the file's hash itself.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use offsite_plugin_api::Range;

pub const MIB: u64 = 1 << 20;

/// A block's chaining value (the file's hash where the file is one block).
pub type BlockHash = [u8; 32];

/// The block size for a file of `size` bytes: a power of two from 1 MiB to 16 MiB, so that the values of a file of
/// 4 TiB fit into 8 MiB of memory and a buffered block never takes more than 16 MiB.
pub fn block_size(size: u64) -> u64 {
    (size / (1 << 18)).next_power_of_two().clamp(MIB, 16 * MIB)
}

/// How a file is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of a block.
    pub block: u64,
}

impl Layout {
    pub fn new(size: u64) -> Self {
        Self { size, block: block_size(size) }
    }

    /// Blocks in all; an empty file has none.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    pub fn index(&self, offset: u64) -> u64 {
        offset / self.block
    }

    pub fn range(&self, index: u64) -> Range {
        let offset = index * self.block;
        Range { offset, length: self.block.min(self.size.saturating_sub(offset)) }
    }

    /// A hasher for the block of that index.
    pub fn hasher(&self, index: u64) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        if index > 0 {
            hasher.set_input_offset(index * self.block);
        }
        hasher
    }

    /// The value of a block whose bytes (all of them, or a first part not empty) went through its hasher.
    pub fn value(&self, hasher: &blake3::Hasher) -> BlockHash {
        if self.count() <= 1 { *hasher.finalize().as_bytes() } else { hasher.finalize_non_root() }
    }

    /// The value of the block of that index with these bytes.
    pub fn hash_block(&self, index: u64, bytes: &[u8]) -> BlockHash {
        let mut hasher = self.hasher(index);
        hasher.update(bytes);
        self.value(&hasher)
    }

    /// Ranges (sorted, disjoint) with neighbours joined, cut down to the whole blocks inside them.
    pub fn whole_blocks(&self, ranges: &[Range]) -> Vec<Range> {
        let mut joined: Vec<Range> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if last.end() == range.offset => last.length += range.length,
                _ => joined.push(*range),
            }
        }
        let mut out = Vec::new();
        for range in joined {
            let first = range.offset.div_ceil(self.block);
            let end = if range.end() >= self.size { self.count() } else { range.end() / self.block };
            if first >= end {
                continue;
            }
            let offset = first * self.block;
            let length = (end * self.block).min(self.size) - offset;
            out.push(Range { offset, length });
        }
        out
    }

    /// Blocks (sorted) as ranges, neighbours joined.
    pub fn ranges_of(&self, blocks: impl IntoIterator<Item = u64>) -> Vec<Range> {
        let mut out: Vec<Range> = Vec::new();
        for block in blocks {
            let range = self.range(block);
            match out.last_mut() {
                Some(last) if last.end() == range.offset => last.length += range.length,
                _ => out.push(range),
            }
        }
        out
    }

    /// The blocks that ranges of whole blocks cover.
    pub fn blocks_of(self, ranges: &[Range]) -> impl Iterator<Item = u64> + '_ {
        ranges.iter().flat_map(move |r| self.index(r.offset)..r.end().div_ceil(self.block))
    }
}

/// The values of a file's blocks, as far as they are known.
#[derive(Clone, Debug)]
pub struct Hashes {
    layout: Layout,
    values: Vec<BlockHash>,
    known: Vec<u64>,
}

impl Hashes {
    pub fn new(layout: Layout) -> Self {
        let count =
            usize::try_from(layout.count()).expect("a file's block count fits into memory's addresses");
        Self { layout, values: vec![[0; 32]; count], known: vec![0; count.div_ceil(64)] }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn get(&self, index: u64) -> Option<&BlockHash> {
        let i = index as usize;
        (self.known.get(i / 64)? >> (i % 64) & 1 == 1).then(|| &self.values[i])
    }

    /// Records a block's value. False: another value is known already (the source changed), and is kept.
    #[must_use]
    pub fn set(&mut self, index: u64, value: BlockHash) -> bool {
        if let Some(known) = self.get(index) {
            return *known == value;
        }
        let i = index as usize;
        self.values[i] = value;
        self.known[i / 64] |= 1 << (i % 64);
        true
    }

    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.layout.count()).filter(|&i| self.get(i).is_none())
    }

    /// The file's BLAKE3; `None` while a block is missing.
    pub fn root(&self) -> Option<[u8; 32]> {
        if self.missing().next().is_some() {
            return None;
        }
        match self.values.as_slice() {
            [] => Some(*blake3::hash(b"").as_bytes()),
            [one] => Some(*one),
            all => {
                let (left, right) = all.split_at(left_len(all.len()));
                Some(*merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
            }
        }
    }
}

/// The left subtree holds the largest power of two of blocks that leaves something for the right one.
fn left_len(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn merge(values: &[BlockHash]) -> BlockHash {
    match values {
        [one] => *one,
        all => {
            let (left, right) = all.split_at(left_len(all.len()));
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
    }

    #[test]
    fn merged_blocks_are_the_hash_of_the_file() {
        // A small block (the tree's rules do not depend on it) keeps many shapes of trees cheap.
        let block = 2048u64;
        let mut sizes: Vec<usize> = vec![0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097];
        sizes.extend((1..=33).flat_map(|n| [n * 2048 - 1, n * 2048, n * 2048 + 1, n * 2048 + 1500]));
        for size in sizes {
            let data = bytes(size);
            let layout = Layout { size: size as u64, block };
            let mut hashes = Hashes::new(layout);
            // Backwards: the order must not matter.
            for i in (0..layout.count()).rev() {
                let r = layout.range(i);
                let value = layout.hash_block(i, &data[r.offset as usize..r.end() as usize]);
                assert!(hashes.set(i, value));
            }
            assert_eq!(hashes.root(), Some(*blake3::hash(&data).as_bytes()), "{size}");
        }
    }

    #[test]
    fn real_block_sizes_give_the_hash_too() {
        for size in [MIB as usize, MIB as usize + 1, 3 * MIB as usize + 77] {
            let data = bytes(size);
            let layout = Layout::new(size as u64);
            let mut hashes = Hashes::new(layout);
            for i in 0..layout.count() {
                let r = layout.range(i);
                // In pieces, as a plugin reads.
                let mut hasher = layout.hasher(i);
                data[r.offset as usize..r.end() as usize].chunks(100_000).for_each(|c| {
                    hasher.update(c);
                });
                assert!(hashes.set(i, layout.value(&hasher)));
            }
            assert_eq!(hashes.root(), Some(*blake3::hash(&data).as_bytes()), "{size}");
        }
    }

    #[test]
    fn a_second_value_for_a_block_is_refused() {
        let mut hashes = Hashes::new(Layout { size: 5000, block: 2048 });
        assert!(hashes.set(1, [1; 32]) && hashes.set(1, [1; 32]));
        assert!(!hashes.set(1, [2; 32]));
        assert_eq!(hashes.root(), None);
        assert_eq!(hashes.missing().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn block_sizes_are_powers_of_two_within_bounds() {
        for (size, block) in [(0, 1), (1 << 30, 1), (1 << 40, 4), (1 << 42, 16), (1 << 50, 16)] {
            assert_eq!(block_size(size), block * MIB, "{size}");
        }
    }

    #[test]
    fn partial_blocks_are_not_resumed() {
        let layout = Layout { size: 10_000, block: 4096 };
        let r = |offset, length| Range { offset, length };
        assert_eq!(layout.whole_blocks(&[r(0, 5000)]), [r(0, 4096)]);
        assert_eq!(layout.whole_blocks(&[r(1, 4096)]), []);
        assert_eq!(layout.whole_blocks(&[r(4000, 6000)]), [r(4096, 5904)]);
        assert_eq!(layout.whole_blocks(&[r(0, 4096), r(4096, 4100)]), [r(0, 8192)]);
        assert_eq!(layout.whole_blocks(&[r(0, 5000), r(5000, 3192)]), [r(0, 8192)]);
        assert_eq!(layout.whole_blocks(&[r(8192, 1808)]), [r(8192, 1808)]);
    }
}
