//! The private runtime: one thread on which all of the SMB library runs.
//!
//! One thread, because the library's directory streams can lose a wake-up between two; it is busy with signing and
//! copying only, since the host's own thread reads and hashes. Every wait of a caller ends within a tenth of a second of
//! its call being cancelled. Handles of the library talk to the server when they are dropped, so they are only ever
//! dropped in the runtime's context: [`Held`].

use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
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

/// A shared handle whose last owner drops it in the runtime's context, whatever thread that is on.
pub struct Held<T> {
    value: Option<Arc<T>>,
    runtime: Handle,
}

impl<T> Held<T> {
    /// Within the runtime.
    pub fn new(value: T) -> Self {
        Self { value: Some(Arc::new(value)), runtime: Handle::current() }
    }

    pub fn arc(&self) -> &Arc<T> {
        self.value.as_ref().expect("only drop takes the value")
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), runtime: self.runtime.clone() }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.arc()
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take().and_then(Arc::into_inner) {
            let _context = self.runtime.enter();
            drop(value);
        }
    }
}
