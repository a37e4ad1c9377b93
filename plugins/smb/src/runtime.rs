//! The private runtime: one thread on which all of the SMB library runs.
//!
//! One thread: it is busy with signing and copying only, since the host's own threads read and hash. Every wait of a caller
//! ends within a tenth of a second of its call being cancelled.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{Call, Error, ErrorKind, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How often a waiting caller looks whether it should go on waiting.
const LOOK: Duration = Duration::from_millis(100);

pub struct Runtime {
    pub handle: Handle,
    end: Mutex<Option<oneshot::Sender<()>>>,
}

impl Runtime {
    pub fn start() -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Other, "cannot start the thread of the SMB client")
                .with_source(e.to_string())
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("smb".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self { handle, end: Mutex::new(Some(end)) })
    }

    /// Runs `work` and waits for it, at most `limit`. Errors: the call's own end, or `TimedOut`; the work is dropped then.
    pub fn run<T: Send + 'static>(
        &self,
        call: &Call,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let (give, take) = sync_channel(1);
        let task = self.handle.spawn(async move {
            let _ = give.send(work.await);
        });
        let begun = Instant::now();
        loop {
            match take.recv_timeout(LOOK) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Timeout) => {
                    let over = match call.proceed() {
                        Ok(()) if begun.elapsed() < limit => continue,
                        Ok(()) => Error::new(
                            ErrorKind::TimedOut,
                            format!("the server did not answer within {} s", limit.as_secs()),
                        ),
                        Err(error) => error,
                    };
                    task.abort();
                    return Err(over);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(broken()),
            }
        }
    }
}

/// The library panicked on what a server sent, or the runtime ended.
pub fn broken() -> Error {
    Error::new(ErrorKind::Interrupted, "the SMB client gave up on what the server sent")
        .with_context("hint", "if it comes again, report it together with the server's product and version")
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(end) = self.end.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = end.send(());
        }
    }
}
