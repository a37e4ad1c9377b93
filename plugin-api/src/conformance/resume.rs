//! Interrupted staging: what the last checkpoint named is not sent again, by whatever process goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::Case;
use super::kit::{Content, Ctx, MIB, Record, Stop, Trick, Watch, ensure, overlap, refused, skip, total};
use crate::{Call, ErrorKind, Expect, Resume, ResumeFrom, TargetPath};

pub(super) const CASES: &[Case] = &[
    ("an interrupted staging sends only the rest", rest_only),
    ("an incomplete staging is not published", incomplete),
    ("a refused checkpoint stops the staging", refused_checkpoint),
    ("a token that names nothing is stale or starts anew", stale_token),
];

/// More than two checkpoints' worth (64 MiB), so that one is there when the source fails.
const SIZE: u64 = 160 * MIB + 4097;
const CUT: u64 = 140 * MIB;

/// Stages until the source fails and returns the last checkpoint.
fn interrupted(
    ctx: &Ctx<'_>,
    path: &TargetPath,
    content: &Content,
) -> Result<(crate::StageRequest, ResumeFrom), Stop> {
    let mut request = ctx.request(path, content.size)?;
    request.streams = ctx.caps.parallel_ranges.clamp(1, 4);
    let mut source = Trick::new(content);
    source.fail = Some((CUT, ErrorKind::Interrupted));
    let source = Arc::new(source);
    let session = Arc::new(Record::default());
    let result = ctx.backend.stage(&Call::unwatched(), &request, source.clone(), session.clone());
    refused("staging from a source that fails", result, &[ErrorKind::Interrupted])?;
    let Some(last) = session.last() else {
        return Err(Stop::Fail(format!("no checkpoint was recorded in {CUT} bytes")));
    };
    ensure!(last.token.0.len() <= crate::Token::MAX, "a token of {} bytes is too long", last.token.0.len());
    ensure!(!last.ranges.is_empty(), "the last checkpoint names no bytes");
    let sorted = last.ranges.windows(2).all(|w| w[0].end() <= w[1].offset);
    ensure!(
        sorted && last.ranges.iter().all(|r| r.length > 0),
        "the ranges are not sorted and disjoint: {:?}",
        last.ranges
    );
    ensure!(
        last.ranges.iter().all(|r| r.end() <= content.size),
        "a range lies behind the end: {:?}",
        last.ranges
    );
    let never_read = total(&last.ranges) - overlap(&last.ranges, &source.reads());
    ensure!(never_read == 0, "{never_read} bytes of the checkpoint were never read from the source");
    let lost = CUT.saturating_sub(total(&last.ranges));
    // One interval, and what was in flight.
    ensure!(lost <= 96 * MIB, "{lost} acknowledged bytes are in no checkpoint");
    Ok((request, last))
}

fn rest_only(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if ctx.caps.resume == Resume::None {
        return skip("a staging cannot be resumed");
    }
    let path = ctx.path("resumed.img")?;
    let content = Content::new(30, SIZE);
    let (mut request, last) = interrupted(ctx, &path, &content)?;
    ctx.absent(&path)?;
    let held = total(&last.ranges);

    let other = (ctx.make)();
    let info = other.stat_staged(&Call::unwatched(), &last.token)?;
    ensure!(info.bytes >= held, "{} bytes are staged, but the checkpoint named {held}", info.bytes);
    request.resume = Some(last.clone());
    let source = Arc::new(Trick::new(&content));
    let watch = Arc::new(Watch::default());
    let session = Arc::new(Record::default());
    let staged = other.stage(&watch.call(), &request, source.clone(), session)?;
    let again = overlap(&source.reads(), &last.ranges);
    ensure!(again == 0, "{again} bytes the checkpoint named were read from the source again");
    let acked = watch.acked.load(SeqCst);
    ensure!(
        acked <= content.size - held,
        "{acked} bytes were acknowledged, only {} were left",
        content.size - held
    );
    ensure!(staged.size == content.size, "{} of {} bytes are staged", staged.size, content.size);
    ctx.absent(&path)?;
    ctx.publish(&path, &staged.token, &content, Expect::Absent)?;
    ctx.holds(&path, &content)
}

fn incomplete(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if ctx.caps.resume == Resume::None {
        return skip("a staging cannot be resumed, so an incomplete one has no token");
    }
    let path = ctx.path("half.img")?;
    let content = Content::new(31, SIZE);
    let (_, last) = interrupted(ctx, &path, &content)?;
    let result = ctx.publish(&path, &last.token, &content, Expect::Absent);
    ensure!(result.is_err(), "an incomplete staging was published");
    ctx.absent(&path)?;
    ctx.backend.discard(&Call::unwatched(), &last.token)?;
    Ok(())
}

fn refused_checkpoint(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if ctx.caps.resume == Resume::None {
        return skip("a staging cannot be resumed, so there are no checkpoints");
    }
    let path = ctx.path("unjournalled.img")?;
    let content = Content::new(32, SIZE);
    let request = ctx.request(&path, content.size)?;
    let session = Record { refuse: Some(ErrorKind::NoSpace), ..Record::default() };
    let result = ctx.backend.stage(&Call::unwatched(), &request, Arc::new(content), Arc::new(session));
    refused("staging with a journal that is full", result, &[ErrorKind::NoSpace])?;
    ctx.absent(&path)
}

fn stale_token(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("stale.img")?;
    let content = Content::new(33, 2 * MIB);
    let token = ctx.stage(&path, &content)?.token;
    ctx.backend.discard(&Call::unwatched(), &token)?;
    let mut request = ctx.request(&path, content.size)?;
    request.resume = Some(ResumeFrom { token, ranges: vec![crate::Range { offset: 0, length: MIB }] });
    let session = Arc::new(Record::default());
    match ctx.backend.stage(&Call::unwatched(), &request, Arc::new(content.clone()), session) {
        Err(error) => refused::<()>("resuming what was discarded", Err(error), super::kit::GONE),
        Ok(staged) => {
            // It started anew: then the whole file must be there.
            ctx.publish(&path, &staged.token, &content, Expect::Absent)?;
            ctx.holds(&path, &content)
        }
    }
}
