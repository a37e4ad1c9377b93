//! What of an earlier staging can be gone on with.
//!
//! The source must be the file it was: the same size and modification time, and sampled blocks that hash as journalled;
//! where its inode or change time differ, all of them. The target must hold what the journal says: where checkpoints
//! are not durable there, each range is read back from its tail until it is what was sent. Only whole blocks with a
//! journalled hash count: the rest is sent again, and so no byte is published whose hash was not taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use offsite_plugin_api::{ErrorKind, Range, ResumeFrom, Token};

use super::blocks::{BlockHash, Layout};
use super::context::Context;
use super::retry::chance;
use super::source_reader::SourceReader;
use super::transfer::FileJob;
use super::verify::Compare;
use crate::catalog::{Identity, StagedFile};
use crate::error::Result;

/// Blocks hashed again where nothing hints at a change.
const SAMPLED: usize = 8;

/// Bytes of one file under way at once (plugin contract: a checkpoint every 64 MiB).
const UNDER_WAY: u64 = 64 << 20;

/// How a staging begins.
pub struct TakenUp {
    pub reader: Arc<SourceReader>,
    /// What the target holds already; recorded in the catalog, like everything else here.
    pub from: Option<ResumeFrom>,
    /// Everything is staged: under this token.
    pub complete: Option<Token>,
    /// Proved already, to no less than what is asked now.
    pub proved: bool,
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
pub fn take_up(context: &Context, job: &FileJob) -> Result<TakenUp> {
    if let Some(staged) = context.catalog.staged_at(&job.step.target)? {
        if let Some(taken) = go_on(context, job, &staged)? {
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
    Ok(TakenUp { reader, from: None, complete: None, proved: false, boundaries: Vec::new() })
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

fn go_on(context: &Context, job: &FileJob, staged: &StagedFile) -> Result<Option<TakenUp>> {
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
    let readable = !trusted && context.capabilities.staged_readable;
    let kept = match readable.then(|| roll_back(context, token, layout, &blocks, &hashes)).transpose() {
        // Whole files can be read back there, their parts cannot (Nextcloud): what the server says it holds has to do until
        // the whole is verified.
        Err(e) if e.is_backend(&ErrorKind::Unsupported) => None,
        other => other?,
    };
    if let Some(kept) = kept {
        blocks = kept;
    } else if held < layout.ranges_of(blocks.iter().copied()).iter().map(|r| r.length).sum() {
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
    Ok(Some(TakenUp { reader, from, complete, proved, boundaries }))
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

/// Reads each run of blocks back from its end and drops what is not what was sent. Where ranges go side by side, the last to arrive
/// need not be the last to reach the disk: then all that may have been under way at once has to be right.
fn roll_back(
    context: &Context,
    token: &Token,
    layout: Layout,
    blocks: &[u64],
    hashes: &BTreeMap<u64, BlockHash>,
) -> Result<Vec<u64>> {
    let wanted = if context.capabilities.parallel_ranges > 1 { UNDER_WAY } else { 1 };
    let mut kept = Vec::new();
    for run in layout.ranges_of(blocks.iter().copied()) {
        let mut right = 0;
        for block in layout.blocks_of(&[run]).collect::<Vec<_>>().into_iter().rev() {
            let range = layout.range(block);
            if right < wanted {
                if !holds(context, token, layout, range, hashes[&block])? {
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

fn holds(context: &Context, token: &Token, layout: Layout, range: Range, value: BlockHash) -> Result<bool> {
    context.tick("reading back what an earlier run staged")?;
    let sink = Arc::new(Compare::new(layout, range, move |_| Some(value)));
    let (call, _) = context.line.sending_unseen();
    match context.backend.read_staged(&call, token, range, sink.clone()) {
        Ok(()) => Ok(sink.finish().is_ok()),
        // The sink's verdict, or a file that ends before the range does: not what was sent.
        Err(e) if !matches!(e.retry(), offsite_plugin_api::Retry::Never) => Err(e.into()),
        Err(e) if matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::Unsupported) => Err(e.into()),
        Err(_) => Ok(false),
    }
}
