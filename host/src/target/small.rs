//! Small files of the host's own on a target (claim marker, manifests): written whole through stage and publish, read
//! whole within a bound.

use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{
    Attributes, Backend, Call, Entry, Error as BackendError, ErrorKind, Expect, PublishRequest, Range,
    Session, Sink, Source, StageRequest, Staged, TargetPath, Token,
};

use super::names;
use crate::error::{Error, Kind, Result};
use crate::run::killpoint;

/// Bytes in memory as a source.
pub struct Bytes(pub Vec<u8>);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> offsite_plugin_api::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let length = buf.len().min(self.0.len() - start);
        buf[..length].copy_from_slice(&self.0[start..start + length]);
        Ok(length)
    }
}

/// A source that is not there any more: for publishing what is already staged in full.
pub struct Unreadable(pub u64);

impl Source for Unreadable {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> offsite_plugin_api::Result<usize> {
        Err(BackendError::new(ErrorKind::SourceChanged, "the source of this staging is not open any more"))
    }
}

/// For a staging that is never resumed.
pub struct NoCheckpoints;

impl Session for NoCheckpoints {
    fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> offsite_plugin_api::Result<()> {
        Ok(())
    }
}

/// Keeps what is read, up to a bound.
pub struct Collect {
    most: usize,
    bytes: Mutex<Vec<u8>>,
}

impl Collect {
    /// `most`: bytes; more is `TooLarge`.
    pub fn new(most: usize) -> Self {
        Self { most, bytes: Mutex::new(Vec::new()) }
    }

    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for Collect {
    fn write(&self, bytes: &[u8]) -> offsite_plugin_api::Result<()> {
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() + bytes.len() > self.most {
            return Err(BackendError::new(
                ErrorKind::TooLarge,
                format!("the file is larger than the {} bytes it may have", self.most),
            ));
        }
        kept.extend_from_slice(bytes);
        Ok(())
    }
}

/// A whole file of at most `most` bytes.
pub fn read(backend: &dyn Backend, call: &Call, path: &TargetPath, most: usize) -> Result<Vec<u8>> {
    let sink = Arc::new(Collect::new(most));
    backend.get(call, path, None, None, sink.clone())?;
    Ok(sink.take())
}

/// The first bytes of a file, at most `most`.
pub fn read_head(backend: &dyn Backend, call: &Call, entry: &Entry, most: u64) -> Result<Vec<u8>> {
    let length = most.min(entry.size);
    if length == 0 {
        return Ok(Vec::new());
    }
    let sink = Arc::new(Collect::new(usize::try_from(length).unwrap_or(usize::MAX)));
    backend.get(call, &entry.path, Some(Range { offset: 0, length }), None, sink.clone())?;
    Ok(sink.take())
}

/// Whether a listed file can be read at all: its first byte is. Errors: the backend's.
pub fn readable(site: &super::Site<'_>, entry: &Entry) -> Result<()> {
    read_head(site.backend, site.call, entry, 1).map(|_| ())
}

/// Stages small bytes for `path`; not visible until [`publish`].
pub fn stage(
    backend: &dyn Backend,
    call: &Call,
    path: &TargetPath,
    bytes: &Arc<Bytes>,
    installation: &str,
) -> Result<Staged> {
    let request = StageRequest {
        path: path.clone(),
        staging: names::staging(path, installation)?,
        attributes: Attributes::default(),
        size: bytes.size(),
        streams: 1,
        owner: installation.to_owned(),
        resume: None,
    };
    let staged = backend.stage(call, &request, bytes.clone(), Arc::new(NoCheckpoints))?;
    killpoint::reach("small.after-stage");
    prove(backend, call, path, bytes, &staged)?;
    Ok(staged)
}

/// The host's own files are published no less proven than images are: staged bytes are read back where that can be done.
fn prove(
    backend: &dyn Backend,
    call: &Call,
    path: &TargetPath,
    bytes: &Bytes,
    staged: &Staged,
) -> Result<()> {
    let sink = Arc::new(Collect::new(bytes.0.len()));
    let whole = Range { offset: 0, length: bytes.size() };
    let same = staged.size == bytes.size()
        && match backend.read_staged(call, &staged.token, whole, sink.clone()) {
            Ok(()) => sink.take() == bytes.0,
            Err(e) if *e.kind() == ErrorKind::Unsupported => true,
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::TooLarge) => false,
            Err(e) => return Err(e.into()),
        };
    if same {
        return Ok(());
    }
    let _ = backend.discard(call, &staged.token);
    Err(Error::new(Kind::Verify, "what was staged came back different")
        .on(path.display())
        .hint("check the target's disk or share; nothing was published"))
}

/// Makes staged small bytes visible.
pub fn publish(
    backend: &dyn Backend,
    call: &Call,
    path: &TargetPath,
    bytes: &Arc<Bytes>,
    token: Token,
    expect: Expect,
) -> Result<Entry> {
    let request = PublishRequest {
        token,
        path: path.clone(),
        expect,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: bytes.size(),
        source: bytes.clone(),
    };
    let entry = backend.publish(call, &request)?;
    killpoint::reach("small.after-publish");
    Ok(entry)
}
