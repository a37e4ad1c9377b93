//! What every act on a target needs, in one value, and how names are looked at.

use std::sync::Arc;

use offsite_plugin_api::{
    Backend, Call, Capabilities, Entry, EntryKind, ErrorKind, Replace, Source, StagedInfo, TargetPath, Token,
};

use crate::catalog::{Catalog, PublishStep};
use crate::error::{Error, Kind, Result};

/// One open target with its catalog. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    pub backend: &'a dyn Backend,
    pub catalog: &'a Catalog,
    pub capabilities: &'a Capabilities,
    pub call: &'a Call,
    /// This machine's installation id.
    pub installation: &'a str,
}

/// Opens the source of a step again, if it still is what was staged; `None` otherwise. Only backends that send small
/// objects with the publish ask for it.
pub type Reopen<'a> = &'a dyn Fn(&PublishStep) -> Option<Arc<dyn Source>>;

/// For [`Reopen`] where no source is at hand.
pub fn no_source(_: &PublishStep) -> Option<Arc<dyn Source>> {
    None
}

/// Refuses a target on which a file could never be replaced. Errors: `Config`.
pub fn replaceable(capabilities: &Capabilities) -> Result<()> {
    if capabilities.replace == Replace::None && !capabilities.rename {
        return Err(Error::new(Kind::Config, "this target can neither replace nor rename a file")
            .because("a changed image could never be replaced without losing the old one first")
            .hint("use another protocol to reach this server"));
    }
    Ok(())
}

/// Whether an error while a file was read says something of the whole target (or of this program), and nothing of the
/// file: what cannot be read for another reason is not known, and no other file waits for it.
pub fn of_target(error: &Error) -> bool {
    use ErrorKind::{
        Busy, Cancelled, Interrupted, Offline, Panicked, Throttled, TimedOut, Unauthenticated, Unreachable,
        UntrustedPeer,
    };
    match &error.kind {
        Kind::Backend(kind) => matches!(
            kind,
            Unreachable
                | Offline
                | TimedOut
                | Interrupted
                | Unauthenticated
                | UntrustedPeer
                | Throttled
                | Busy
                | Cancelled
                | Panicked
        ),
        _ => true,
    }
}

/// `None` where nothing has the name.
pub(super) fn absent<T>(result: offsite_plugin_api::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Site<'_> {
    /// The file of that name; `None` when there is none. Errors: `Backend(Exists)` when the name is a directory's: one
    /// image cannot be there, the others can.
    pub fn file(&self, path: &TargetPath) -> Result<Option<Entry>> {
        match absent(self.backend.stat(self.call, path))? {
            Some(entry) if entry.kind != EntryKind::File => Err(Error::new(
                Kind::Backend(ErrorKind::Exists),
                "the name is taken by something that is no file",
            )
            .on(path.display())
            .hint("move it away")),
            found => Ok(found),
        }
    }

    /// What is staged under a token; `None` when nothing is.
    pub fn staged(&self, token: &Token) -> Result<Option<StagedInfo>> {
        match self.backend.stat_staged(self.call, token) {
            Ok(info) => Ok(Some(info)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::StaleToken) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
