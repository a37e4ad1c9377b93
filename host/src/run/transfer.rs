//! One file from the source to the target, staged and proved, not yet visible.
//!
//! The order of things is what the laws need: the staging is recorded, bytes go up with checkpoints, the whole source
//! is hashed and found unchanged, what is staged is compared with that hash to the target's verify level, and only then
//! is the file ready to be published. Each retry goes on where the last checkpoint ended.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use offsite_plugin_api::{
    Attributes, Digest, ErrorKind, Range, Retry, Source, StageRequest, Staged, TargetPath, Timestamp, Token,
};

use super::call::SHORT;
use super::context::{Context, LazySource};
use super::resume::{self, TakenUp};
use super::session::StageSession;
use super::source_reader::SourceReader;
use super::verify::{self, Proof};
use crate::catalog::{Published, Was};
use crate::chain::Span;
use crate::error::{BackendKind, Error, Kind, Result};
use crate::plan::FileStep;
use crate::source::SourceFile;
use crate::target::{Publish, Recorded, VerifyLevel, names};

/// One file to bring to the target.
#[derive(Clone)]
pub struct FileJob {
    pub step: FileStep,
    pub source: SourceFile,
    pub attributes: Attributes,
    pub staging: TargetPath,
    /// What has the name on the target, as planned.
    pub before: Option<Was>,
    pub set: String,
    /// The image's anchor, relative to the source.
    pub image: TargetPath,
    /// With the anchor: the run that the image holds.
    pub span: Option<Span>,
}

impl FileJob {
    pub fn new(
        context: &Context,
        step: &FileStep,
        source: &SourceFile,
        set: &str,
        image: TargetPath,
        span: Option<Span>,
        before: Option<Was>,
    ) -> Result<Self> {
        let mtime = Timestamp { ns: source.mtime_ns, precision_ns: 1 };
        let attributes = Attributes {
            mtime: context.capabilities.mtime_precision_ns.map(|_| mtime),
            ..Attributes::default()
        };
        Ok(Self {
            staging: names::staging(&step.target, &context.installation)?,
            step: step.clone(),
            source: source.clone(),
            attributes,
            before,
            set: set.to_owned(),
            image,
            span,
        })
    }

    fn recorded(&self, reader: &SourceReader, blake3: [u8; 32], level: VerifyLevel) -> Recorded {
        Recorded {
            size: self.source.size,
            blake3: Some(blake3),
            source_mtime_ns: reader.mtime_ns(),
            source_ctime_ns: reader.ctime_ns(),
            source_inode: reader.inode(),
            target_version: None,
            target_mtime: None,
            level,
            recognised: self.source.recognised.clone(),
            set: self.set.clone(),
            image: self.image.clone(),
            parent: None,
            head: None,
            mount: None,
        }
    }
}

/// Stages a file and proves it, with the target's retries. `streams`: ranges in flight at once.
///
/// Errors: `Backend(SourceChanged)` when the source is not what was scanned; `Verify` when the target would not hold
/// what was sent; the backend's own. What is staged stays, for the next attempt or run, unless it is of no use.
pub fn stage(context: &Context, job: &FileJob, streams: u32) -> Result<Publish> {
    let name = job.step.path.display().into_owned();
    let growth = Growth::default();
    let state: RefCell<Option<TakenUp>> = RefCell::new(None);
    let result = context.retried(Some(&name), &|| growth.gained.get(), || {
        let taken = match state.borrow_mut().take() {
            Some(taken) => taken,
            None => resume::take_up(context, job)?,
        };
        attempt(context, job, streams, taken, &growth, &state)
    });
    match &result {
        Err(e) if e.is_backend(&BackendKind::SourceChanged) => give_up(context, job),
        Ok(_) if context.sent_at_publish(job.source.size) => {
            context.line.meter.correct(-signed(job.source.size))
        }
        _ => {}
    }
    result
}

/// How much further than ever before a transfer came: what starts the count of its failures anew. Bytes that were sent
/// again (after a proof that failed, or where nothing can be resumed) are no progress.
#[derive(Default)]
struct Growth {
    /// Bytes staged and kept at best; `None` before anything is known.
    best: Cell<Option<u64>>,
    gained: Cell<u64>,
}

impl Growth {
    fn reached(&self, held: u64) {
        let best = self.best.get().unwrap_or(held);
        self.gained.set(self.gained.get() + held.saturating_sub(best));
        self.best.set(Some(best.max(held)));
    }
}

/// Drops what is staged for a file whose content is gone. Failing to is no more than debris that the next run sweeps.
pub(super) fn give_up(context: &Context, job: &FileJob) {
    if let Ok(Some(staged)) = context.catalog.staged_at(&job.step.target) {
        if let Some(token) = &staged.token
            && context.backend.discard(&context.line.call(Some(SHORT)), token).is_err()
        {
            return;
        }
        let _ = context.catalog.drop_staged(&job.step.target);
    }
}

fn attempt(
    context: &Context,
    job: &FileJob,
    streams: u32,
    taken: TakenUp,
    growth: &Growth,
    state: &RefCell<Option<TakenUp>>,
) -> Result<Publish> {
    let reader = taken.reader.clone();
    let held = taken.from.as_ref().map_or(0, |f| sum(&f.ranges));
    growth.reached(held);
    let gained = growth.gained.get();
    context.line.meter.correct(signed(held));
    let token = match taken.complete {
        Some(token) => token,
        None => match send(context, job, streams, &taken, growth) {
            Ok(staged) => staged.token,
            Err(failed) => {
                let (error, again) = *failed;
                *state.borrow_mut() = again;
                return Err(error);
            }
        },
    };
    let blake3 = reader.complete(&|| context.tick("hashing the source"))?;
    let mut level = context.method.level();
    if !taken.proved {
        let proof = Proof {
            backend: &*context.backend,
            line: &context.line,
            token: &token,
            reader: &reader,
            blake3,
            boundaries: &taken.boundaries,
            streams: streams.clamp(1, context.capabilities.parallel_ranges.max(1)),
        };
        // A long proof that fails for want of a connection goes on from here, not from the first byte.
        let small = job.source.size <= reader.layout().block;
        if !small {
            context.catalog.staging_complete(&job.step.target, &token, blake3, None, &reader.take_fresh())?;
        }
        level = match proof.prove(context.method) {
            Ok(level) => level,
            Err(mut error) if error.kind == Kind::Verify => {
                give_up(context, job);
                context.line.meter.correct(-signed(job.source.size));
                growth.gained.set(gained);
                // What was damaged on its way may arrive whole the next time.
                error.retry = Retry::Now;
                error.on = Some(job.step.path.display().into_owned());
                return Err(error);
            }
            Err(error) => {
                context.line.meter.correct(-signed(job.source.size));
                return Err(error);
            }
        };
        let fresh = reader.take_fresh();
        context.catalog.staging_complete(&job.step.target, &token, blake3, Some(level), &fresh)?;
    }
    Ok(Publish {
        path: job.step.target.clone(),
        source_path: job.step.path.clone(),
        token,
        staging: job.staging.clone(),
        attributes: job.attributes.clone(),
        digests: vec![Digest { algorithm: "blake3".to_owned(), value: blake3.to_vec() }],
        before: job.before.clone(),
        record: job.recorded(&reader, blake3, level),
        span: job.span,
        source: Arc::new(LazySource::new(
            context.root.clone(),
            context.cache.clone(),
            job.source.clone(),
            blake3,
        )),
    })
}

/// Sends what is missing. On failure also gives what the next attempt goes on with; `None`: it looks for itself.
fn send(
    context: &Context,
    job: &FileJob,
    streams: u32,
    taken: &TakenUp,
    growth: &Growth,
) -> std::result::Result<Staged, Box<(Error, Option<TakenUp>)>> {
    let (reader, from) = (&taken.reader, &taken.from);
    let held = from.as_ref().map_or(0, |f| sum(&f.ranges));
    let session = Arc::new(StageSession::new(
        context.catalog.clone(),
        job.step.target.clone(),
        reader.clone(),
        from.clone(),
    ));
    let request = StageRequest {
        path: job.step.target.clone(),
        staging: job.staging.clone(),
        attributes: job.attributes.clone(),
        size: job.source.size,
        streams: streams.clamp(1, context.capabilities.parallel_ranges.max(1)),
        owner: context.installation.clone(),
        resume: from.clone(),
    };
    let (call, counted) = context.line.sending();
    let result = context.backend.stage(&call, &request, reader.clone(), session.clone());
    let acked = counted.acked();
    match result {
        Ok(staged) if staged.size == job.source.size && staged.token.0.len() <= Token::MAX => {
            growth.reached(job.source.size);
            // The progress of a complete file is its size, whatever was reported on the way.
            context.line.meter.correct(signed(job.source.size) - signed(held) - signed(acked));
            Ok(staged)
        }
        Ok(staged) => {
            context.line.meter.correct(-signed(held) - signed(acked));
            give_up(context, job);
            let why = format!("it says that it staged {} bytes of {}", staged.size, job.source.size);
            let mut error = Error::new(Kind::Verify, "the plugin did not stage the whole file").because(why);
            error.retry = Retry::Now;
            Err(Box::new((error, None)))
        }
        Err(error) => {
            if let Err(state) = session.flush() {
                return Err(Box::new((state, None)));
            }
            context.line.meter.correct(-signed(held) - signed(acked));
            growth.reached(session.resume().map_or(0, |kept| sum(&kept.ranges)));
            let again = match error.kind() {
                ErrorKind::StaleToken => {
                    give_up(context, job);
                    None
                }
                // A checkpoint not known to be durable is looked at before it is trusted; so is one that was refused.
                _ => session.resume().filter(|_| context.capabilities.durable_checkpoints).map(|from| {
                    let boundaries = resume::boundaries(&taken.boundaries, &from.ranges, job.source.size);
                    let reader = reader.clone();
                    TakenUp { reader, from: Some(from), complete: None, proved: false, boundaries }
                }),
            };
            if let Some(again) = &again
                && let Err(state) = context.catalog.taken_up(&job.step.target, &again.boundaries)
            {
                return Err(Box::new((state, None)));
            }
            Err(Box::new((error.into(), again)))
        }
    }
}

/// Compares a file that is on the target without a record with the source, and records it. False: it differs.
pub fn adopt(context: &Context, job: &FileJob) -> Result<Option<VerifyLevel>> {
    let name = job.step.path.display().into_owned();
    context.retried(Some(&name), &|| 0, || {
        let call = context.line.call(Some(SHORT));
        let Some(entry) = context.site(&call).file(&job.step.target)? else { return Ok(None) };
        if entry.size != job.source.size {
            return Ok(None);
        }
        let reader = context.open(&job.source)?;
        let blake3 = reader.complete(&|| context.tick("hashing the source"))?;
        let found = verify::published(
            &*context.backend,
            &context.line,
            &context.capabilities,
            &job.step.target,
            job.source.size,
            blake3,
        )?;
        let Some(level) = found else { return Ok(None) };
        let record = Recorded {
            target_version: entry.version,
            target_mtime: entry.mtime,
            ..job.recorded(&reader, blake3, level)
        };
        context.catalog.record(&[Published {
            path: job.step.target.clone(),
            source: Some(job.step.path.clone()),
            record,
            span: job.span,
        }])?;
        Ok(Some(level))
    })
}

fn sum(ranges: &[Range]) -> u64 {
    ranges.iter().map(|r| r.length).sum()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// For the settling of intents: the source of a step, if it still is what was staged.
pub fn reopen(
    context_root: &Arc<super::source_reader::SourceRoot>,
    cache: &Arc<super::source_reader::BlockCache>,
    file: Option<&SourceFile>,
    record: &Recorded,
) -> Option<Arc<dyn Source>> {
    let file = file.filter(|f| f.size == record.size && f.mtime_ns == record.source_mtime_ns)?;
    Some(Arc::new(LazySource::new(context_root.clone(), cache.clone(), file.clone(), record.blake3?)))
}
