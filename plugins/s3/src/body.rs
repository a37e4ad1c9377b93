//! Sending a request's body piece by piece from a blocking thread: paced, cancellable, never whole in memory.
//!
//! The request runs on the plugin's runtime and pulls pieces from a short channel; the host's thread reads, waits for its
//! pace, and offers them. A server that stops taking bytes is noticed here, because the library has no such time-out
//! that a throttle would not trip.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use offsite_plugin_api::{Call, Error, ErrorKind, Range, Result, Source};
use tokio::sync::mpsc;

/// One read of the source.
pub const PIECE: u64 = 1 << 20;
/// Pieces that wait for the connection.
const WAITING: usize = 2;
/// What is asked of the throttle at once (plugin contract: at most 256 KiB).
const ASK: u64 = 256 << 10;
/// The first bite: small, because the rate is not known. It doubles while nothing waits.
const FIRST_BITE: usize = 16 << 10;
const SMALLEST_BITE: usize = 4096;
/// A server that takes nothing for this long is given up.
const STALLED: Duration = Duration::from_secs(60);
/// So is one that does not answer for this long; what is still in the system's buffers has to go out first.
const SILENT: Duration = Duration::from_secs(110);
const TICK: Duration = Duration::from_millis(100);

struct Pieces {
    from: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, std::io::Error>>> {
        match self.from.poll_recv(context) {
            Poll::Ready(Some(piece)) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            // The sender gave up: the request must not look complete.
            Poll::Ready(None) if self.left > 0 => {
                Poll::Ready(Some(Err(std::io::Error::other("the upload was broken off on this side"))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body of `size` bytes and the end that feeds it.
pub fn channel(size: u64) -> (ByteStream, mpsc::Sender<Bytes>) {
    if size == 0 {
        return (ByteStream::from_static(b""), mpsc::channel(1).0);
    }
    let (to, from) = mpsc::channel(WAITING);
    (ByteStream::new(SdkBody::from_body_1_x(Pieces { from, left: size })), to)
}

/// Reads one piece. Errors: the source's; `SourceChanged` where it ends early.
pub fn read(source: &dyn Source, offset: u64, length: u64) -> Result<Bytes> {
    let mut piece = vec![0; length as usize];
    let read = source.read_at(offset, &mut piece)?;
    if read as u64 == length {
        return Ok(piece.into());
    }
    Err(Error::new(
        ErrorKind::SourceChanged,
        format!("the source ends at byte {} and had {}", offset + read as u64, source.size()),
    ))
}

/// The pieces of a range: where each begins, and its length.
pub fn pieces(range: Range) -> impl Iterator<Item = (u64, u64)> {
    let count = range.length.div_ceil(PIECE);
    (0..count).map(move |n| (range.offset + n * PIECE, PIECE.min(range.length - n * PIECE)))
}

/// Feeds a request and waits for its answer. `next` gives one piece after the other, as many as the body has bytes; `stop`
/// tells an error of the call or of a sibling.
pub fn send<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    call: &Call,
    stop: &dyn Fn() -> Result<()>,
    request: impl Future<Output = T> + Send + 'static,
    to: mpsc::Sender<Bytes>,
    next: &mut dyn FnMut() -> Result<Option<Bytes>>,
) -> Result<T> {
    let mut answer = runtime.spawn(request);
    let result = feed(runtime, call, stop, &mut answer, to, next);
    if result.is_err() {
        answer.abort();
    }
    result
}

type Answer<T> = tokio::task::JoinHandle<T>;

fn feed<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    call: &Call,
    stop: &dyn Fn() -> Result<()>,
    answer: &mut Answer<T>,
    to: mpsc::Sender<Bytes>,
    next: &mut dyn FnMut() -> Result<Option<Bytes>>,
) -> Result<T> {
    let mut bite = FIRST_BITE;
    while let Some(mut piece) = next()? {
        while !piece.is_empty() {
            let now = piece.split_to(bite.min(piece.len()));
            stop()?;
            pace(call, now.len() as u64, &mut bite)?;
            let refused = match to.try_send(now) {
                Ok(()) => None,
                Err(mpsc::error::TrySendError::Full(now)) => {
                    runtime.block_on(offer(call, stop, answer, &to, now))?
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    Some(runtime.block_on(wait(call, stop, answer))?)
                }
            };
            // The server answered before it had everything: it does not want the rest.
            if let Some(early) = refused {
                return Ok(early);
            }
        }
    }
    drop(to);
    runtime.block_on(wait(call, stop, answer))
}

/// Hands one bite over; `Some` when the request ended instead.
async fn offer<T>(
    call: &Call,
    stop: &dyn Fn() -> Result<()>,
    answer: &mut Answer<T>,
    to: &mpsc::Sender<Bytes>,
    bite: Bytes,
) -> Result<Option<T>> {
    let since = Instant::now();
    let permit = to.reserve();
    tokio::pin!(permit);
    loop {
        tokio::select! {
            biased;
            ended = &mut *answer => return ended.map(Some).map_err(died),
            free = &mut permit => {
                call.alive("sending");
                return match free {
                    Ok(free) => { free.send(bite); Ok(None) }
                    Err(_) => wait(call, stop, answer).await.map(Some),
                };
            }
            () = tokio::time::sleep(TICK) => {
                stop()?;
                late(since, STALLED, "takes no more bytes")?;
            }
        }
    }
}

/// Waits for the request's end.
async fn wait<T>(call: &Call, stop: &dyn Fn() -> Result<()>, answer: &mut Answer<T>) -> Result<T> {
    let since = Instant::now();
    loop {
        tokio::select! {
            biased;
            ended = &mut *answer => return ended.map_err(died),
            () = tokio::time::sleep(TICK) => {
                call.proceed()?;
                stop()?;
                late(since, SILENT, "does not answer")?;
            }
        }
    }
}

fn late(since: Instant, limit: Duration, what: &str) -> Result<()> {
    if since.elapsed() < limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TimedOut, format!("the server {what} for {} s", limit.as_secs())))
}

fn died(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Other, "the request ended without an answer").with_source(error.to_string())
}

/// The throttle: bites shrink while it makes us wait long, so that a slow rate is even.
fn pace(call: &Call, bytes: u64, bite: &mut usize) -> Result<()> {
    let before = Instant::now();
    let mut left = bytes;
    while left > 0 {
        call.pace(left.min(ASK))?;
        left -= left.min(ASK);
    }
    let waited = before.elapsed();
    if waited > Duration::from_millis(250) {
        *bite = (*bite / 2).max(SMALLEST_BITE);
    } else if waited < Duration::from_millis(20) {
        *bite = (*bite * 2).min(PIECE as usize);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_exactly() {
        let all: Vec<_> = pieces(Range { offset: 5, length: 2 * PIECE + 1 }).collect();
        assert_eq!(all, [(5, PIECE), (5 + PIECE, PIECE), (5 + 2 * PIECE, 1)]);
        assert_eq!(pieces(Range { offset: 9, length: 0 }).count(), 0);
    }
}
