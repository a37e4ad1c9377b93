//! How a backend behaves towards its host: identity, capabilities, cancellation, time, check, what it does not know.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::Case;
use super::kit::{Content, Ctx, MIB, Record, Stop, Trick, Watch, ensure, list_all, refused};
use crate::{Call, Error, ErrorKind, Result, Sink, StepResult, TargetPath};

pub(super) const CASES: &[Case] = &[
    ("the identity is the same each time", identity),
    ("the capabilities make sense", capabilities),
    ("free space makes sense", space),
    ("a cancelled staging ends within two seconds", cancel_stage),
    ("a staging that waits for its pace can be cancelled", cancel_paced),
    ("a staging ends when its time runs out", deadline),
    ("a cancelled get ends within two seconds", cancel_get),
    ("the check passes and leaves nothing behind", check),
    ("an unknown operation is Unsupported", unknown_operation),
    ("closing returns in time", close),
];

/// What a cancelled or late call returns.
const ENDED: &[ErrorKind] = &[ErrorKind::Cancelled, ErrorKind::TimedOut];
/// The contract's two seconds, and a little for a busy machine.
const GRACE: Duration = Duration::from_millis(2500);
/// When a case stops waiting for a backend that does not listen.
const GIVE_UP: Duration = Duration::from_secs(5);

fn identity(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let (one, two) = (ctx.backend.identity(), (ctx.make)().identity());
    ensure!(!one.is_empty(), "the identity is empty");
    ensure!(one == two, "the identity is '{one}', then '{two}'");
    Ok(())
}

fn capabilities(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let caps = &ctx.caps;
    let again = ctx.backend.capabilities(&Call::unwatched())?;
    ensure!(*caps == again, "the capabilities changed from {caps:?} to {again:?}");
    ensure!(caps.parallel_ranges >= 1, "parallel_ranges is 0");
    ensure!(
        caps.names.longest_name >= 64,
        "names of {} bytes are too short for staging names",
        caps.names.longest_name
    );
    ensure!(caps.names.longest_path >= caps.names.longest_name, "a path is shorter than a name");
    if let Some(parts) = caps.part_sizes {
        ensure!(parts.smallest <= parts.largest && parts.most_parts > 0, "the part sizes are {parts:?}");
    }
    let lower = |names: &[String]| names.iter().all(|n| !n.is_empty() && n.to_lowercase() == *n);
    ensure!(lower(&caps.digests) && lower(&caps.checked_digests), "digest names must be lower case");
    Ok(())
}

fn space(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let space = ctx.backend.space(&Call::unwatched())?;
    if let (Some(free), Some(total)) = (space.free, space.total) {
        ensure!(free <= total, "{free} bytes are free of {total}");
    }
    Ok(())
}

/// Runs `act` and cancels `watch` after a moment; ends the case unless `act` ends in time, with the right error.
fn cancelled_in_time(watch: &Arc<Watch>, act: impl FnOnce() -> Result<()>) -> std::result::Result<(), Stop> {
    let (result, took) = std::thread::scope(|scope| {
        let canceller = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            watch.cancelled.store(true, SeqCst);
            Instant::now()
        });
        let result = act();
        let returned = Instant::now();
        let at = canceller.join().unwrap_or(returned);
        (result, returned.saturating_duration_since(at))
    });
    ensure!(took <= GRACE, "it took {took:?} to end after the cancellation");
    refused("a cancelled call", result, ENDED)
}

fn cancel_stage(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let path = ctx.path("cancelled.img")?;
    let content = Content::new(110, 256 * MIB);
    let mut source = Trick::new(&content);
    source.slow = Duration::from_millis(100);
    source.until = Some(Instant::now() + GIVE_UP);
    let request = ctx.request(&path, content.size)?;
    let watch = Arc::new(Watch::default());
    cancelled_in_time(&watch, || {
        ctx.backend.stage(&watch.call(), &request, Arc::new(source), Arc::new(Record::default())).map(drop)
    })?;
    ctx.absent(&path)
}

fn cancel_paced(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let path = ctx.path("paced.img")?;
    let content = Content::new(111, 64 * MIB);
    let mut request = ctx.request(&path, content.size)?;
    let streams = ctx.caps.parallel_ranges.clamp(1, 4);
    request.streams = streams;
    let watch = Arc::new(Watch { stuck: true, ..Watch::default() });
    cancelled_in_time(&watch, || {
        ctx.backend.stage(&watch.call(), &request, Arc::new(content), Arc::new(Record::default())).map(drop)
    })?;
    // What a library had to be offered before it could be paced; the rest waits.
    let (acked, most) = (watch.acked.load(SeqCst), 8 * MIB * u64::from(streams));
    ensure!(acked <= most, "{acked} bytes were sent although the pace allowed none");
    ctx.absent(&path)
}

fn deadline(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let path = ctx.path("late.img")?;
    let content = Content::new(112, 256 * MIB);
    let mut source = Trick::new(&content);
    source.slow = Duration::from_millis(100);
    source.until = Some(Instant::now() + GIVE_UP);
    let request = ctx.request(&path, content.size)?;
    let start = Instant::now();
    let limit = Duration::from_millis(300);
    let watch = Arc::new(Watch { deadline: Some(start + limit), ..Watch::default() });
    let result = ctx.backend.stage(&watch.call(), &request, Arc::new(source), Arc::new(Record::default()));
    let took = start.elapsed();
    ensure!(took <= limit + GRACE, "it took {took:?} with {limit:?} allowed");
    refused("a staging whose time ran out", result, ENDED)?;
    ctx.absent(&path)
}

fn cancel_get(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    /// Slow, so that the transfer lasts.
    struct Slow(Instant);
    impl Sink for Slow {
        fn write(&self, bytes: &[u8]) -> Result<()> {
            // At most 1 MiB/s, in steps that do not hide the cancellation from the backend.
            if self.0.elapsed() > GIVE_UP {
                return Err(Error::new(ErrorKind::Other, "the backend went on for too long"));
            }
            let wait = Duration::from_micros(bytes.len() as u64).min(Duration::from_millis(500));
            std::thread::sleep(wait);
            Ok(())
        }
    }
    let path = ctx.path("large.img")?;
    ctx.put(&path, &Content::new(113, 16 * MIB))?;
    let watch = Arc::new(Watch::default());
    cancelled_in_time(&watch, || {
        ctx.backend.get(&watch.call(), &path, None, None, Arc::new(Slow(Instant::now())))
    })
}

fn check(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let call = Call::unwatched();
    ctx.put(&ctx.path("witness.img")?, &Content::new(114, 10))?;
    let seen = || -> Result<Vec<TargetPath>> {
        let mut paths: Vec<_> =
            list_all(&*ctx.backend, &TargetPath::root(), true)?.into_iter().map(|e| e.path).collect();
        paths.sort();
        Ok(paths)
    };
    let staged = ctx.backend.list_staged(&call, &TargetPath::root())?.len();
    let before = seen()?;
    let report = ctx.backend.check(&call)?;
    let failed: Vec<_> = report.steps.iter().filter(|s| s.result == StepResult::Failed).collect();
    ensure!(report.passed(), "the check fails: {failed:?}");
    let after = seen()?;
    ensure!(before == after, "the check changed the target from {before:?} to {after:?}");
    let left = ctx.backend.list_staged(&call, &TargetPath::root())?.len();
    ensure!(left == staged, "the check left {} staged uploads", left.saturating_sub(staged));
    Ok(())
}

fn unknown_operation(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let result = ctx.backend.invoke(&Call::unwatched(), "no-such-operation", "{}", None, None);
    refused("an unknown operation", result, &[ErrorKind::Unsupported])
}

fn close(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let backend = (ctx.make)();
    backend.capabilities(&Call::unwatched())?;
    let start = Instant::now();
    backend.close(Duration::from_secs(2));
    drop(backend);
    let took = start.elapsed();
    ensure!(took <= Duration::from_secs(2) + GRACE, "closing took {took:?} with 2 s allowed");
    Ok(())
}
