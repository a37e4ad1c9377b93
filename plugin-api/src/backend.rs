//! The backend contract.
//!
//! Backends are plain: blocking methods on a `Send + Sync` object, called from the host's threads. A backend never
//! retries, sleeps, sweeps, swaps or chooses names; the host does. Re-opening a dropped connection for the next
//! call is not a retry. Every call returns within two seconds of its [`Call`] being cancelled or running out.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::{
    Attributes, Call, Capabilities, CheckReport, Digest, Entry, Error, Expect, Object, Page, PublishRequest,
    Range, Result, Session, Sink, Source, Space, StageRequest, Staged, StagedInfo, TargetPath, Token,
};

/// The values of the schema's `x-secret` options, apart from the options themselves.
#[derive(Clone, Default)]
pub struct Secrets(pub Vec<(String, Zeroizing<String>)>);

impl Secrets {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(n, _)| n)).finish()
    }
}

/// What the host offers to an open target for its whole life.
pub trait Host: Send + Sync {
    /// A fresh value of a secret (a token that expired).
    fn secret(&self, name: &str) -> Result<Zeroizing<String>>;
    /// What this target stored under `key` in an earlier run: host keys, a found region. Never secrets.
    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>>;
    fn state_put(&self, key: &str, value: &[u8]) -> Result<()>;
    /// The growth point towards the host. Unknown operations: `Unsupported`.
    fn invoke(&self, operation: &str, json: &str) -> Result<String>;
}

/// Everything `open` is given. `options` has been checked against the schema.
pub struct Opened<'a> {
    pub url: &'a str,
    pub options: &'a serde_json::Value,
    pub secrets: Secrets,
    pub host: Arc<dyn Host>,
}

/// A plugin: what it is, and how a target is opened.
pub trait Plugin: Send + Sync + 'static {
    /// Opens a target. No network or disk traffic is needed here; errors in URL or options are `InvalidConfig`.
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>>;
}

/// One open target.
pub trait Backend: Send + Sync + 'static {
    /// The canonical place, from URL and options without the network (user, host, port, root path): two targets
    /// with one identity are one place. It ends with the root path: what goes on with a `/` lies inside. The host
    /// refuses a job whose targets are one place, or one inside another.
    fn identity(&self) -> String;

    /// What this target can do; may ask the server.
    fn capabilities(&self, call: &Call) -> Result<Capabilities>;

    fn space(&self, _call: &Call) -> Result<Space> {
        Ok(Space::default())
    }

    /// Proves credentials and every operation a run needs, cleans up after itself, never uses ICMP. Failures are
    /// steps of the report; an error is for a check that could not be made at all.
    fn check(&self, call: &Call) -> Result<CheckReport>;

    /// One page of the entries below `dir`, in any order, paths relative to the target's root; `recursive` goes
    /// down. `page` is `next` of the previous page. `NotFound` when `dir` does not exist. What cannot be read (a line of no
    /// known form, a directory that this user may not list) is never left out in silence: its directory is named in
    /// [`Page::incomplete`].
    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page>;

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry>;

    /// Sends the source's bytes to where no reader takes them for the file, missing directories made. On success
    /// all bytes are held by the server, durable if the capability says so. On error what the last checkpoint
    /// named stays. The same request again goes on from `resume`.
    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged>;

    /// `NotFound` or `StaleToken` where nothing is staged under `token`.
    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo>;

    /// Reads staged bytes back from the server's storage, not from a cache of our own.
    fn read_staged(&self, _call: &Call, _token: &Token, _range: Range, _sink: Arc<dyn Sink>) -> Result<()> {
        Err(Error::unsupported("reading staged bytes"))
    }

    /// Everything staged and neither published nor discarded below `dir` (recursively), whoever staged it.
    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>>;

    /// Drops staged bytes. Idempotent: nothing staged is success.
    fn discard(&self, call: &Call, token: &Token) -> Result<()>;

    /// Makes a complete staged upload visible under `path` in one act, durable on return. Idempotent: a repeat after success
    /// returns the entry. A staged file whose publish began is never written again.
    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry>;

    /// Writes `range` (all when `None`) of the file into `sink`. `if_version`: `PreconditionFailed` when it differs.
    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()>;

    /// Deletes one file, or one empty directory, durable on return. `NotFound` when it is not there.
    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()>;

    /// Deletes many files; one result each, in order. The default deletes one by one.
    fn delete_batch(&self, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        Ok(items.iter().map(|(path, expect)| self.delete(call, path, expect)).collect())
    }

    /// Copies at the server. `Exists` / `PreconditionFailed` by `expect` on `to`; `Unsupported` to everything but
    /// `Absent` where a copy cannot replace.
    fn copy(&self, _call: &Call, _from: &TargetPath, _to: &TargetPath, _expect: &Expect) -> Result<Entry> {
        Err(Error::unsupported("copying at the server"))
    }

    /// Renames at the server, durable on return. With `Expect::Absent` an existing `to` is never overwritten.
    fn rename(&self, _call: &Call, _from: &TargetPath, _to: &TargetPath, _expect: &Expect) -> Result<Entry> {
        Err(Error::unsupported("renaming"))
    }

    /// Makes a directory and its missing parents. Existing is success.
    fn make_dir(&self, _call: &Call, _path: &TargetPath) -> Result<()> {
        Err(Error::unsupported("directories"))
    }

    /// Changes what is set in `attributes` (mtime, retention); the rest stays.
    fn set_attributes(&self, _call: &Call, _path: &TargetPath, _attributes: &Attributes) -> Result<Entry> {
        Err(Error::unsupported("setting attributes"))
    }

    /// A digest computed by the server, which reads the bytes once.
    fn digest(
        &self,
        _call: &Call,
        _object: &Object,
        _algorithm: &str,
        _range: Option<Range>,
    ) -> Result<Digest> {
        Err(Error::unsupported("digests"))
    }

    /// The growth point towards the backend. Unknown operations: `Unsupported`.
    fn invoke(
        &self,
        _call: &Call,
        operation: &str,
        _json: &str,
        _source: Option<Arc<dyn Source>>,
        _sink: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        Err(Error::unsupported(&format!("the operation '{operation}'")))
    }

    /// Ends connections within `deadline`. Nothing is called afterwards.
    fn close(&self, _deadline: Duration) {}
}
