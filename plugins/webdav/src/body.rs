//! Uploading: the source's bytes go piece by piece into one PUT with a length, at the pace the host allows.
//!
//! The host's thread reads and paces; the connection's task takes the pieces. At most [`AHEAD`] of them wait in between, so
//! memory does not grow with the file. Bytes count as acknowledged when the connection has taken the piece after them, the
//! last ones when the server answered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use offsite_plugin_api::{Call, Error, ErrorKind, Range, Result, Source};
use reqwest::header::CONTENT_LENGTH;
use tokio::sync::mpsc;
use url::Url;

use super::error;
use super::http::{Answer, Http, PATIENCE};

/// One read of the source.
const READ: u64 = 1 << 20;
/// What is asked of the throttle and given to the connection at once (plugin contract: at most 256 KiB).
const PIECE: std::ops::RangeInclusive<u64> = 4096..=256 * 1024;
/// The first piece: small, because the rate is not known. It doubles while nothing waits.
const FIRST: u64 = 64 * 1024;
const AHEAD: usize = 4;

pub struct Upload<'a> {
    pub call: &'a Call,
    pub source: &'a dyn Source,
    pub range: Range,
    pub url: Url,
    pub headers: Vec<(&'static str, String)>,
    /// For errors.
    pub what: &'a str,
    /// Stops the upload when it becomes true: another one of the same file failed.
    pub stop: &'a dyn Fn() -> bool,
}

/// The connection's end.
struct Feed {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    /// The size of the piece given last.
    last: u64,
    taken: Arc<AtomicU64>,
}

impl http_body::Body for Feed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match self.pieces.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(piece)) => {
                self.taken.fetch_add(self.last, Ordering::SeqCst);
                self.last = piece.len() as u64;
                self.left = self.left.saturating_sub(self.last);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            // The connection is torn down: a server must never take the part for the whole.
            Poll::Ready(None) => Poll::Ready(Some(Err(std::io::Error::other("the upload was given up")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

type Sending = tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>;

impl Http {
    /// PUTs the range. Gives the server's answer, whatever it is; acknowledges the bytes of a successful one.
    pub fn put(&self, upload: &Upload<'_>) -> Result<Answer> {
        self.prepare(upload.call)?;
        let (login, generation) = self.auth.login("PUT", upload.url.path())?;
        let length = upload.range.length;
        let (pieces, receiver) = mpsc::channel(AHEAD);
        let taken = Arc::new(AtomicU64::new(0));
        let feed = Feed { pieces: receiver, left: length, last: 0, taken: taken.clone() };
        let mut request =
            self.start("PUT", &upload.url, &upload.headers, &login)?.header(CONTENT_LENGTH, length);
        if length > 0 {
            request = request.body(reqwest::Body::wrap(feed));
        }
        let mut sending: Sending = self.runtime().spawn(request.send());
        let mut acked = 0;
        let result = self.feed(upload, pieces, &mut sending, &taken, &mut acked);
        if !sending.is_finished() {
            sending.abort();
        }
        let answer = Answer::new(result.inspect_err(|_| self.auth.doubt())?);
        if answer.code() == 401 {
            // The login that was good a moment ago has run out. The body is gone; the host begins again.
            self.auth.refused(&login, generation, answer.headers())?;
            return Err(Error::new(
                ErrorKind::Interrupted,
                format!("the login ran out while sending {}", upload.what),
            )
            .with_context("status", "401"));
        }
        self.auth.answered(answer.headers());
        if answer.status().is_success() {
            upload.call.acked(length - acked);
        }
        Ok(answer)
    }

    fn feed(
        &self,
        upload: &Upload<'_>,
        pieces: mpsc::Sender<Bytes>,
        sending: &mut Sending,
        taken: &AtomicU64,
        acked: &mut u64,
    ) -> Result<reqwest::Response> {
        let call = upload.call;
        let mut at = upload.range.offset;
        let mut size = FIRST;
        'file: while at < upload.range.end() {
            let mut read = self.read(upload, at)?;
            at += read.len() as u64;
            while !read.is_empty() {
                call.proceed()?;
                if (upload.stop)() {
                    return Err(Error::new(ErrorKind::Cancelled, "another part of the file failed"));
                }
                let piece = read.split_to(read.len().min(size as usize));
                let before = Instant::now();
                call.pace(piece.len() as u64)?;
                let waited = before.elapsed();
                if waited > Duration::from_millis(250) {
                    size = (size / 2).max(*PIECE.start());
                } else if waited < Duration::from_millis(20) {
                    size = (size * 2).min(*PIECE.end());
                }
                if !self.give(call, &pieces, piece, sending)? {
                    break 'file;
                }
                let now = taken.load(Ordering::SeqCst);
                call.acked(now - *acked);
                *acked = now;
            }
        }
        // The server has to store it now; some do much with it before they answer.
        let note = "waiting until the server has stored the file";
        let limit = if upload.range.length > READ { PATIENCE } else { self.idle };
        self.wait(call, limit, Some(note), sending)?.map_or_else(
            |_| Err(Error::new(ErrorKind::Interrupted, format!("sending {} ended early", upload.what))),
            |sent| sent.map_err(|e| error::broken("write", upload.what, &e)),
        )
    }

    fn read(&self, upload: &Upload<'_>, at: u64) -> Result<Bytes> {
        let length = (upload.range.end() - at).min(READ) as usize;
        let mut buffer = vec![0; length];
        let read = upload.source.read_at(at, &mut buffer)?;
        if read != length {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                format!("the source ends at byte {} and had {}", at + read as u64, upload.source.size()),
            ));
        }
        Ok(Bytes::from(buffer))
    }

    /// False: the server answered, or the connection ended, before it had all.
    fn give(
        &self,
        call: &Call,
        pieces: &mpsc::Sender<Bytes>,
        piece: Bytes,
        sending: &Sending,
    ) -> Result<bool> {
        if sending.is_finished() {
            return Ok(false);
        }
        match pieces.try_send(piece) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Full(piece)) => {
                Ok(self.wait(call, self.idle, None, pieces.send(piece))?.is_ok())
            }
        }
    }
}
