//! What was staged before an interruption, read back: which of its blocks the target still holds as they were sent.
//!
//! Only asked where the target's checkpoints are not durable. A server that falls over can lose anything that it had
//! acknowledged and not written: pages reach a disk in any order, so a hole may lie anywhere, and a sound end says
//! nothing of the middle. So every block is read, unless the proof reads every block anyway (or the server's own digest
//! does), or the user asked for sizes only: then the ends of each run show how far it is worth going on.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{ErrorKind, Range, Token};

use super::blocks::{BlockHash, Layout};
use super::context::Context;
use super::verify::Compare;
use crate::error::Result;

/// Bytes read back in one call.
const PIECE: u64 = 32 << 20;

/// Bytes of one file under way at once (plugin contract: a checkpoint every 64 MiB).
const UNDER_WAY: u64 = 64 << 20;

pub struct Reread<'a> {
    pub context: &'a Context,
    pub token: &'a Token,
    pub layout: Layout,
    /// What was sent, by block.
    pub hashes: &'a BTreeMap<u64, BlockHash>,
    /// Calls at once.
    pub streams: u32,
}

impl Reread<'_> {
    /// Reads every one of `blocks` (sorted) and gives those that are as they were sent.
    pub fn all(&self, blocks: &[u64]) -> Result<Vec<u64>> {
        let pieces = self.pieces(blocks);
        let lost: Mutex<BTreeSet<u64>> = Mutex::default();
        let next = AtomicUsize::new(0);
        let read = || -> Result<()> {
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found =
                    self.lost_of(*piece).inspect_err(|_| next.store(pieces.len(), Ordering::Relaxed))?;
                lost.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            }
            Ok(())
        };
        let more = (self.streams as usize).clamp(1, pieces.len().max(1)) - 1;
        std::thread::scope(|scope| {
            let start = |n| std::thread::Builder::new().name(format!("reread-{n}")).spawn_scoped(scope, read);
            // Without them the calling thread reads everything.
            let helpers: Vec<_> = (0..more).filter_map(|n| start(n).ok()).collect();
            let first = read();
            let all = helpers.into_iter().map(|h| h.join().unwrap_or_else(|panic| resume_unwind(panic)));
            all.fold(first, Result::and)
        })?;
        let lost = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(blocks.iter().copied().filter(|block| !lost.contains(block)).collect())
    }

    /// Reads each run of blocks back from its end and drops what is not what was sent. Where ranges go side by side, the last
    /// to arrive need not be the last to reach the disk: then all that may have been under way at once has to be right.
    pub fn ends(&self, blocks: &[u64]) -> Result<Vec<u64>> {
        let wanted = if self.context.capabilities.parallel_ranges > 1 { UNDER_WAY } else { 1 };
        let mut kept = Vec::new();
        for run in self.layout.ranges_of(blocks.iter().copied()) {
            let mut right = 0;
            for block in self.layout.blocks_of(&[run]).collect::<Vec<_>>().into_iter().rev() {
                let range = self.layout.range(block);
                if right < wanted {
                    if !self.holds(range)? {
                        right = 0;
                        continue;
                    }
                    right += range.length;
                }
                kept.push(block);
            }
        }
        kept.sort_unstable();
        Ok(kept)
    }

    /// Ranges of whole blocks, none longer than [`PIECE`] (or one block).
    fn pieces(&self, blocks: &[u64]) -> Vec<Range> {
        let most = (PIECE / self.layout.block).max(1) as usize;
        blocks.chunks(most).flat_map(|some| self.layout.ranges_of(some.iter().copied())).collect()
    }

    fn lost_of(&self, piece: Range) -> Result<Vec<u64>> {
        if self.holds(piece)? {
            return Ok(Vec::new());
        }
        let mut lost = Vec::new();
        for block in self.layout.blocks_of(&[piece]) {
            if !self.holds(self.layout.range(block))? {
                lost.push(block);
            }
        }
        Ok(lost)
    }

    fn holds(&self, range: Range) -> Result<bool> {
        self.context.tick("reading back what was staged before an interruption")?;
        let hashes: Vec<_> =
            self.layout.blocks_of(&[range]).map(|block| self.hashes.get(&block).copied()).collect();
        let first = self.layout.index(range.offset);
        let expected = move |block: u64| *hashes.get(usize::try_from(block.checked_sub(first)?).ok()?)?;
        let sink = Arc::new(Compare::new(self.layout, range, expected));
        let (call, _) = self.context.line.sending_unseen();
        match self.context.backend.read_staged(&call, self.token, range, sink.clone()) {
            Ok(()) => Ok(sink.finish().is_ok()),
            // The sink's verdict, or a file that ends before the range does: not what was sent.
            Err(e) if !matches!(e.retry(), offsite_plugin_api::Retry::Never) => Err(e.into()),
            Err(e) if matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::Unsupported) => Err(e.into()),
            Err(_) => Ok(false),
        }
    }
}
