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
use crate::catalog::{Published, Upon, Was};
use crate::chain::Span;
use crate::error::{BackendKind, Error, Kind, Result};
use crate::plan::FileStep;
use crate::source::SourceFile;
use crate::target::{self, Publish, Recorded, VerifyLevel, names};

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
    /// The file system that the source file lies on, by what lasts.
    pub mount: Option<Arc<str>>,
    /// With the anchor: what it builds on.
    pub upon: Upon,
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
            mount: None,
            upon: Upon::default(),
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
            head: reader.head(),
            mount: self.mount.clone(),
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
            None => resume::take_up(context, job, reading(context, streams))?,
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

/// Ranges of one file in flight at once.
fn reading(context: &Context, streams: u32) -> u32 {
    streams.clamp(1, context.capabilities.parallel_ranges.max(1))
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
    let seen = context.interruptions();
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
            doubtful: &taken.doubtful,
            streams: reading(context, streams),
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
        upon: job.upon.clone(),
        seen,
        source: Arc::new(LazySource::new(
            context.root.clone(),
            context.cache.clone(),
            job.source.clone(),
            blake3,
        )),
    })
}

/// Looks again, before its publish, at what was staged and proved while the target's server may have fallen over since:
/// without durable checkpoints it may have lost any of it. Gives the interruptions seen by then.
///
/// Errors: `Verify` when it is not whole any more; the next run goes on from what is left of it.
pub fn still_whole(context: &Context, file: &Publish, seen: u64) -> Result<u64> {
    let now = context.interruptions();
    if context.capabilities.durable_checkpoints || context.size_suffices || now == seen {
        return Ok(now);
    }
    context.tick("reading back what was staged before an interruption")?;
    let (call, _) = context.line.sending_unseen();
    let range = Range { offset: 0, length: file.record.size };
    let whole = Arc::new(target::Whole::default());
    let read = match range.length {
        0 => Ok(()),
        _ => context.backend.read_staged(&call, &file.token, range, whole.clone()),
    };
    match read {
        // An earlier attempt published it: whoever publishes it again sees that.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::StaleToken) => Ok(now),
        Err(e) if !matches!(e.kind(), ErrorKind::Unsupported) => Err(e.into()),
        Ok(()) if whole.is(file.record.size, file.record.blake3) => Ok(now),
        _ => Err(Error::new(Kind::Verify, "the target lost a part of what it had acknowledged")
            .on(file.source_path.display())
            .because("its server went away after this file was staged, and the staged file is not what was sent any more")
            .hint("the next run sends what is missing")),
    }
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
    let session = Arc::new(StageSession::new(context.catalog.clone(), job.step.target.clone(), taken));
    let request = StageRequest {
        path: job.step.target.clone(),
        staging: job.staging.clone(),
        attributes: job.attributes.clone(),
        size: job.source.size,
        streams: reading(context, streams),
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
            let lasting = context.capabilities.durable_checkpoints && session.is_durable();
            let again = match error.kind() {
                ErrorKind::StaleToken => {
                    give_up(context, job);
                    None
                }
                // A checkpoint not known to be durable is looked at before it is trusted; so is one that was refused.
                _ => session.resume().filter(|_| lasting).map(|from| {
                    let boundaries = resume::boundaries(&taken.boundaries, &from.ranges, job.source.size);
                    let reader = reader.clone();
                    TakenUp {
                        reader,
                        from: Some(from),
                        complete: None,
                        proved: false,
                        doubtful: Vec::new(),
                        durable: true,
                        boundaries,
                    }
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

/// What comparing a file on the target with the source's came to.
pub enum Compared {
    /// The same, and recorded.
    Same(VerifyLevel),
    Differs,
    /// It cannot be read back, for a reason that is the file's own (an archived object, a right that is missing): it is neither
    /// known nor replaced, and nothing else waits for it.
    Unread(Error),
}

/// Compares a file that is on the target with the source, and records it where they are the same.
///
/// Where the record has a digest and the target's entry is as recorded, the source alone is read: what lies there was found
/// to be the recorded content, and its unchanged version carries that on. Everything else is read back.
pub fn adopt(context: &Context, job: &FileJob) -> Result<Compared> {
    let name = job.step.path.display().into_owned();
    context.retried(Some(&name), &|| 0, || {
        let call = context.line.call(Some(SHORT));
        let Some(entry) = context.site(&call).file(&job.step.target)? else {
            return Ok(Compared::Differs);
        };
        if entry.size != job.source.size {
            return Ok(Compared::Differs);
        }
        let recorded = context.catalog.published_at(&job.step.target)?;
        let recorded = recorded.filter(|r| r.blake3.is_some() && !r.touched(&entry));
        // Before a large source is hashed in vain.
        if recorded.is_none()
            && let Err(error) = target::readable(&context.site(&call), &entry)
        {
            return if final_for_file(&error) { Ok(Compared::Unread(error)) } else { Err(error) };
        }
        let reader = context.open(&job.source)?;
        let blake3 = reader.complete(&|| context.tick("hashing the source"))?;
        if let Some(recorded) = recorded {
            if recorded.blake3 != Some(blake3) {
                return Ok(Compared::Differs);
            }
            let (mtime, ctime, inode) = (reader.mtime_ns(), reader.ctime_ns(), reader.inode());
            context.catalog.refresh(&job.step.target, mtime, ctime, inode)?;
            return Ok(Compared::Same(recorded.level));
        }
        let found = verify::published(
            &*context.backend,
            &context.line,
            &context.capabilities,
            &job.step.target,
            job.source.size,
            blake3,
        );
        let level = match found {
            Ok(Some(level)) => level,
            Ok(None) => return Ok(Compared::Differs),
            Err(e) if final_for_file(&e) => return Ok(Compared::Unread(e)),
            Err(e) => return Err(e),
        };
        let record = Recorded {
            target_version: entry.version,
            target_mtime: entry.mtime,
            ..job.recorded(&reader, blake3, level)
        };
        let file = Published {
            path: job.step.target.clone(),
            source: Some(job.step.path.clone()),
            record,
            span: job.span,
        };
        context.catalog.adopt(&file, &job.upon)?;
        Ok(Compared::Same(level))
    })
}

/// Whether an error while the target's file was read says something of that file alone, and will say it again.
fn final_for_file(error: &Error) -> bool {
    !target::of_target(error) && !error.is_backend(&BackendKind::NotFound)
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
