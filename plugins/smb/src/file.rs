//! A file that is open on the server for as long as somebody here holds it.
//!
//! What stays open cannot be replaced or deleted by the rules of the protocol, so the last holder closes it, on every way
//! out; the server closes the rest with the connection.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smb2::msg::create::CreateDisposition;
use tokio::runtime::Handle;

use super::share::{About, Access, Live, Open, Options};

#[derive(Clone)]
pub struct File(Arc<Inner>);

struct Inner {
    live: Arc<Live>,
    open: Open,
    closed: AtomicBool,
    runtime: Handle,
}

impl File {
    /// Opens, and tells what it is. Within the runtime.
    pub async fn open(
        live: &Arc<Live>,
        name: &str,
        disposition: CreateDisposition,
        access: Access,
        options: Options,
    ) -> smb2::Result<(Self, About)> {
        let (open, about) = live.open_about(name, disposition, access, options).await?;
        let inner =
            Inner { live: live.clone(), open, closed: AtomicBool::new(false), runtime: Handle::current() };
        Ok((Self(Arc::new(inner)), about))
    }

    /// Has the server flush; what the file is then.
    pub async fn flushed(&self) -> smb2::Result<About> {
        let file = self.clone();
        let flush = self.0.runtime.spawn(async move { file.live().flush(*file).await });
        let about = self.live().about(**self).await;
        flush.await.map_err(|_| smb2::Error::Disconnected)??;
        about
    }

    /// The connection it is open on.
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// Waits for the server, unlike a drop: where the name is used again at once.
    pub async fn close(&self) {
        if !self.0.closed.swap(true, Ordering::Relaxed) {
            self.0.live.close(self.0.open).await;
        }
    }
}

impl Deref for File {
    type Target = Open;

    fn deref(&self) -> &Open {
        &self.0.open
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Relaxed) {
            let (live, open) = (self.live.clone(), self.open);
            self.runtime.spawn(async move { live.close(open).await });
        }
    }
}
