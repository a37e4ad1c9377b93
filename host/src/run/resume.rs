//! What of an earlier staging can be gone on with.
//!
//! The source must be the file it was: the same size and modification time, and sampled blocks that hash as journalled;
//! where its inode or change time differ, all of them. The target must hold what the journal says. Where its checkpoints
//! are not durable, a server that fell over meanwhile may have lost any part of what it had acknowledged: all of it is
//! read back, and what is not as it was sent is sent again. What can be read only when the file is whole is read with the
//! proof; what cannot be read at all is sent anew. Only whole blocks with a journalled hash count: the rest is sent
//! again, and so no byte is published whose hash was not taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use offsite_plugin_api::{ErrorKind, Range, Resume, ResumeFrom, Token};

use super::blocks::{BlockHash, Layout};
use super::context::Context;
use super::reread::Reread;
use super::retry::chance;
use super::source_reader::SourceReader;
use super::transfer::FileJob;
use crate::catalog::{Identity, StagedFile};
use crate::error::Result;

/// Blocks hashed again where nothing hints at a change.
const SAMPLED: usize = 8;

/// How a staging begins.
pub struct TakenUp {
    pub reader: Arc<SourceReader>,
    /// What the target holds already; recorded in the catalog, like everything else here.
    pub from: Option<ResumeFrom>,
    /// Everything is staged: under this token.
    pub complete: Option<Token>,
    /// Proved already, to no less than what is asked now.
    pub proved: bool,
    /// Blocks staged before an interruption that the server may have lost since, and that were not read back: the proof
    /// reads them.
    pub doubtful: Vec<u64>,
    /// Whether what is held is known to outlast the server's fall.
    pub durable: bool,
    /// Offsets at which this transfer was taken up again, this time included; sorted, each once.
    pub boundaries: Vec<u64>,
}

/// `before`, and where these ranges begin and end within a file of `size` bytes.
pub fn boundaries(before: &[u64], ranges: &[Range], size: u64) -> Vec<u64> {
    let edges = ranges.iter().flat_map(|r| [r.offset, r.end()]);
    let mut all: Vec<u64> = before.iter().copied().chain(edges).filter(|o| (1..size).contains(o)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Opens the source and decides. What cannot be gone on with is discarded, and a fresh staging begun in the catalog.
/// `streams`: ranges read back at once.
pub fn take_up(context: &Context, job: &FileJob, streams: u32) -> Result<TakenUp> {
    if let Some(staged) = context.catalog.staged_at(&job.step.target)? {
        if let Some(taken) = go_on(context, job, &staged, streams)? {
            return Ok(taken);
        }
        if let Some(token) = &staged.token {
            context.backend.discard(&context.line.call(Some(super::call::SHORT)), token)?;
        }
        context.catalog.drop_staged(&job.step.target)?;
    }
    fresh(context, job)
}

/// A staging from the first byte.
pub fn fresh(context: &Context, job: &FileJob) -> Result<TakenUp> {
    let reader = Arc::new(context.open(&job.source)?);
    context.catalog.begin_staging(&record(job, &reader))?;
    Ok(TakenUp {
        reader,
        from: None,
        complete: None,
        proved: false,
        doubtful: Vec::new(),
        durable: true,
        boundaries: Vec::new(),
    })
}

fn record(job: &FileJob, reader: &SourceReader) -> StagedFile {
    StagedFile {
        path: job.step.target.clone(),
        source: job.step.path.clone(),
        token: None,
        staging: job.staging.clone(),
        identity: identity(job, reader),
        attributes: job.attributes.clone(),
        ranges: Vec::new(),
        durable: false,
        block_size: reader.layout().block,
        blake3: None,
        complete: false,
        verified: None,
        boundaries: Vec::new(),
    }
}

/// As opened, not as scanned.
fn identity(job: &FileJob, reader: &SourceReader) -> Identity {
    Identity {
        size: job.source.size,
        mtime_ns: reader.mtime_ns(),
        ctime_ns: reader.ctime_ns(),
        inode: reader.inode(),
    }
}

fn go_on(context: &Context, job: &FileJob, staged: &StagedFile, streams: u32) -> Result<Option<TakenUp>> {
    let layout = Layout::new(job.source.size);
    let was = staged.identity;
    let same_file = staged.source == job.step.path
        && (was.size, was.mtime_ns) == (job.source.size, job.source.mtime_ns)
        && staged.staging == job.staging
        && staged.block_size == layout.block
        && staged.attributes == job.attributes;
    let Some(token) = staged.token.as_ref().filter(|_| same_file) else { return Ok(None) };
    let held = match context.backend.stat_staged(&context.line.call(Some(super::call::SHORT)), token) {
        Ok(info) => info.bytes,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::StaleToken) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let hashes: BTreeMap<u64, BlockHash> =
        context.catalog.staged_blocks(&job.step.target)?.into_iter().collect();
    let mut blocks: Vec<u64> =
        layout.blocks_of(&layout.whole_blocks(&staged.ranges)).filter(|i| hashes.contains_key(i)).collect();
    let trusted = staged.durable && context.capabilities.durable_checkpoints;
    let mut doubtful = Vec::new();
    if !trusted {
        let whole = context.proves_resumed();
        let reread = Reread { context, token, layout, hashes: &hashes, streams };
        let read = || if whole { reread.all(&blocks) } else { reread.ends(&blocks) };
        match context.capabilities.staged_readable.then(read).transpose() {
            Ok(Some(sound)) => blocks = sound,
            // Nothing could prove it.
            Ok(None) if whole => return Ok(None),
            Ok(None) => {}
            // Whole files can be read back there, their parts cannot (Nextcloud).
            Err(e) if e.is_backend(&ErrorKind::Unsupported) && whole => doubtful.clone_from(&blocks),
            Err(e) if e.is_backend(&ErrorKind::Unsupported) => {}
            Err(e) => return Err(e),
        }
    }
    blocks = taken_by(context.capabilities.resume, blocks, layout);
    if held < layout.ranges_of(blocks.iter().copied()).iter().map(|r| r.length).sum() {
        return Ok(None);
    }
    if blocks.is_empty() && layout.size > 0 {
        return Ok(None);
    }
    let reader = Arc::new(context.open(&job.source)?);
    reader.preload(blocks.iter().map(|i| (*i, hashes[i])));
    let untouched = (was.ctime_ns, was.inode) == (reader.ctime_ns(), reader.inode());
    let again = if untouched { sample(&blocks) } else { blocks.clone() };
    match reader.recheck(again, &|| context.tick("comparing what was staged earlier with the source")) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), ErrorKind::SourceChanged) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let all = blocks.len() as u64 == layout.count();
    let complete = (staged.complete && all && held == layout.size).then(|| token.clone());
    let ranges = layout.ranges_of(blocks.iter().copied());
    let boundaries = boundaries(&staged.boundaries, &ranges, layout.size);
    if !untouched {
        // Recorded under what the file is now, so that the next run need not hash it all again.
        let journal: Vec<_> = blocks.iter().map(|i| (*i, hashes[i])).collect();
        let row = StagedFile { boundaries: boundaries.clone(), ..record(job, &reader) };
        context.catalog.begin_staging(&row)?;
        context.catalog.checkpoint(&job.step.target, token, &ranges, staged.durable, &journal)?;
    } else if boundaries != staged.boundaries {
        context.catalog.taken_up(&job.step.target, &boundaries)?;
    }
    let proved = trusted && complete.is_some() && staged.verified >= Some(context.method.level());
    let from = Some(ResumeFrom { token: token.clone(), ranges });
    doubtful.retain(|block| blocks.binary_search(block).is_ok());
    Ok(Some(TakenUp { reader, from, complete, proved, doubtful, durable: trusted, boundaries }))
}

fn sample(blocks: &[u64]) -> Vec<u64> {
    let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Vec::new() };
    let mut out = vec![*first, *last];
    out.extend((0..SAMPLED).map(|_| {
        let at = (chance() * blocks.len() as f64) as usize;
        blocks[at.min(blocks.len() - 1)]
    }));
    out.sort_unstable();
    out.dedup();
    out
}

/// What such a target can go on from: some only from one offset, some not from the middle of a file at all.
fn taken_by(resume: Resume, blocks: Vec<u64>, layout: Layout) -> Vec<u64> {
    match resume {
        Resume::Offset => (0..).zip(blocks).take_while(|(n, block)| n == block).map(|(_, b)| b).collect(),
        Resume::None if (blocks.len() as u64) < layout.count() => Vec::new(),
        _ => blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_ends_what_one_offset_can_go_on_from() {
        let layout = Layout { size: 5 * 1024, block: 1024 };
        let blocks = vec![0, 1, 3, 4];
        assert_eq!(taken_by(Resume::Ranges, blocks.clone(), layout), blocks);
        assert_eq!(taken_by(Resume::Offset, blocks.clone(), layout), [0, 1]);
        assert_eq!(taken_by(Resume::None, blocks, layout), Vec::<u64>::new());
        assert_eq!(taken_by(Resume::None, vec![0, 1, 2, 3, 4], layout), [0, 1, 2, 3, 4]);
        assert_eq!(taken_by(Resume::Offset, vec![1], layout), Vec::<u64>::new());
    }
}
