//! The host's side: a library's header becomes a [`Module`], a module opens targets, and a target is a plain
//! [`Backend`] again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use abi_stable::library::{AbiHeaderRef, LibHeader, LibraryError, RootModule};
use abi_stable::std_types::{ROption, RStr, RString, RVec};

use super::callbacks::{self, checked};
use super::convert::{from_json, from_result, level, nanos, secrets, to_json};
use super::guard;
use super::v1::{
    BackendV1, CallV1, Data, DeleteV1, ExpectV1, LogTableV1, LogV1, ObjectV1, OpenV1, PluginV1Ref,
    PublishRequestV1, RangeV1, SinkV1, SourceV1, StageRequestV1,
};
use crate::{
    Attributes, Backend, Call, Capabilities, CheckReport, Digest, Entry, Error, ErrorKind, Expect, Host,
    Level, Metadata, Object, Page, PublishRequest, Range, Result, Secrets, Session, Sink, Source, Space,
    StageRequest, Staged, StagedInfo, TargetPath, Token,
};

/// Takes what a plugin logs: its `tracing` events, its `log` records, its panics. Called from any thread.
pub trait LogSink: Send + Sync {
    /// `target` is the module path the record names, `panic` for a panic.
    fn log(&self, level: Level, target: &str, message: &str);

    /// The most verbose level worth formatting.
    fn most_verbose(&self) -> Level {
        Level::Info
    }
}

mod log_sink {
    use super::*;

    pub(super) static TABLE: LogTableV1 = LogTableV1 { log, free: callbacks::free::<dyn LogSink> };

    unsafe extern "C" fn log(data: Data, number: u32, target: RStr<'_>, message: RStr<'_>) {
        // SAFETY: only `TABLE` holds this function, and `data` in it is what `callbacks::data::<dyn LogSink>` made.
        let sink = unsafe { callbacks::get::<dyn LogSink>(data) };
        guard::or((), || sink.log(level(number), target.as_str(), message.as_str()));
    }
}

impl From<Arc<dyn LogSink>> for LogV1 {
    fn from(value: Arc<dyn LogSink>) -> Self {
        Self { data: callbacks::data(value), table: &log_sink::TABLE }
    }
}

/// Why a library's module cannot be used. One sentence in `Display`; the long dump apart.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The header is not one of this abi_stable, or the C calling convention differs.
    Header { details: String },
    /// The library was built with its layout checks turned off.
    NoLayout,
    /// The header names a module this host does not know.
    UnknownAbi { found: String },
    /// The right version, but other types: not built with the released crate, or with its fields reordered.
    LayoutMismatch { details: String },
    /// The library's own start failed.
    Start { details: String },
}

impl LoadError {
    /// The long form, for `-v`: up to some hundred lines.
    pub fn details(&self) -> Option<&str> {
        match self {
            Self::Header { details } | Self::LayoutMismatch { details } | Self::Start { details } => {
                Some(details)
            }
            Self::NoLayout | Self::UnknownAbi { .. } => None,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { .. } => f.write_str(
                "its module header is not one this host can read, abi_stable 0.11 is needed: rebuild it with \
                 offsite-plugin-api 1.x",
            ),
            Self::NoLayout => f.write_str(
                "its module header carries no layout, so it cannot be checked, and a checked one is needed: rebuild it \
                 with export_backend!",
            ),
            Self::UnknownAbi { found } => write!(
                f,
                "it speaks {found}, this host speaks {}: use a version of the plugin made for this host",
                <PluginV1Ref as RootModule>::NAME
            ),
            Self::LayoutMismatch { .. } => f.write_str(
                "its types are laid out otherwise than ABI 1 needs: rebuild it with a released offsite-plugin-api 1.x",
            ),
            Self::Start { .. } => f.write_str("its module did not start: report this to the plugin's vendor"),
        }
    }
}

impl std::error::Error for LoadError {}

/// A loaded plugin. The library it came from must stay loaded for the life of the process.
pub struct Module {
    root: PluginV1Ref,
}

impl Module {
    /// Checks header, ABI version and layout, newest ABI first, and starts the module. `header` is what the library's
    /// symbol [`super::MODULE_SYMBOL`] holds.
    pub fn from_header(header: AbiHeaderRef) -> std::result::Result<Self, LoadError> {
        let header: &'static LibHeader =
            header.upgrade().map_err(|error| LoadError::Header { details: error.to_string() })?;
        if header.layout().is_none() {
            return Err(LoadError::NoLayout);
        }
        let consts = header.root_mod_consts();
        let version = consts.version_strings().version;
        if consts.name().as_str() != PluginV1Ref::NAME || version.as_str().split('.').next() != Some("1") {
            let found = format!("{} ({version})", consts.name()).escape_debug().to_string();
            return Err(LoadError::UnknownAbi { found });
        }
        // `init_root_module` takes it from this header; `RootModule::load_*` would return the first library's.
        match header.init_root_module::<PluginV1Ref>() {
            Ok(root) => Ok(Self { root }),
            Err(error @ LibraryError::AbiInstability(_)) => {
                Err(LoadError::LayoutMismatch { details: error.to_string() })
            }
            Err(
                error @ (LibraryError::IncompatibleVersionNumber { .. } | LibraryError::ParseVersionError(_)),
            ) => Err(LoadError::UnknownAbi { found: error.to_string() }),
            Err(error) => Err(LoadError::Start { details: error.to_string() }),
        }
    }

    /// A module of this very binary: for tests, which need no shared library then.
    pub fn in_process<E: super::Export>() -> Self {
        Self { root: super::plugin::root::<E>() }
    }

    /// The version of the ABI the two sides speak.
    pub fn abi_version(&self) -> u32 {
        1
    }

    /// What the plugin says about itself; the same as in its link section.
    pub fn metadata(&self) -> Result<Metadata> {
        // SAFETY: the module's functions are called as their types, checked by the loader, say.
        from_json("metadata", &unsafe { self.root.metadata()() })
    }

    /// Opens a target. `options` are the ones checked against the schema, secrets apart. `log` takes what the plugin
    /// logs while it works for this target.
    pub fn open(
        &self,
        url: &str,
        options: &serde_json::Value,
        secret_values: &Secrets,
        host: Arc<dyn Host>,
        log: Arc<dyn LogSink>,
    ) -> Result<Box<dyn Backend>> {
        let most_verbose = log.most_verbose() as u32;
        // SAFETY: as in `metadata`.
        from_result(unsafe { self.root.init()(log.clone().into(), most_verbose) })?;
        let request = OpenV1 {
            url: url.into(),
            options: to_json("options", options)?,
            secrets: secrets(secret_values),
            host: host.into(),
            log: log.into(),
        };
        // SAFETY: as in `metadata`.
        let object = from_result(unsafe { self.root.open()(request) })?;
        // Asked once, here: later there is no way to say that it panicked.
        // SAFETY: the table is called with its own object's data.
        let identity = from_result(unsafe { (object.table.identity)(object.data) })?;
        Ok(Box::new(Remote { object, identity: identity.into() }))
    }
}

/// A backend on the other side.
struct Remote {
    object: BackendV1,
    identity: String,
}

fn call(call: &Call) -> CallV1 {
    call.host().clone().into()
}

fn range(range: Option<Range>) -> ROption<RangeV1> {
    range.map(RangeV1::from).into()
}

/// Calls one function of the table.
macro_rules! remote {
    ($self:ident.$method:ident($($arg:expr),* $(,)?)) => {
        // SAFETY: the table is called with its own object's data, which lives as long as `self`.
        unsafe { ($self.object.table.$method)($self.object.data $(, $arg)*) }
    };
}

impl Backend for Remote {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn capabilities(&self, c: &Call) -> Result<Capabilities> {
        from_json("capabilities", &from_result(remote!(self.capabilities(call(c))))?)
    }

    fn space(&self, c: &Call) -> Result<Space> {
        from_json("free space", &from_result(remote!(self.space(call(c))))?)
    }

    fn check(&self, c: &Call) -> Result<CheckReport> {
        from_json("a check report", &from_result(remote!(self.check(call(c))))?)
    }

    fn list(&self, c: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        checked(remote!(self.list(call(c), dir.as_bytes().into(), recursive, page.map(Into::into).into())))
    }

    fn stat(&self, c: &Call, path: &TargetPath) -> Result<Entry> {
        checked(remote!(self.stat(call(c), path.as_bytes().into())))
    }

    fn stage(
        &self,
        c: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        let request = StageRequestV1::try_from(request)?;
        checked(remote!(self.stage(call(c), request, source.into(), session.into())))
    }

    fn stat_staged(&self, c: &Call, token: &Token) -> Result<StagedInfo> {
        checked(remote!(self.stat_staged(call(c), token.0.as_slice().into())))
    }

    fn read_staged(&self, c: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        from_result(remote!(self.read_staged(call(c), token.0.as_slice().into(), range.into(), sink.into())))
    }

    fn list_staged(&self, c: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        let found = from_result(remote!(self.list_staged(call(c), dir.as_bytes().into())))?;
        found.into_iter().map(StagedInfo::try_from).collect()
    }

    fn discard(&self, c: &Call, token: &Token) -> Result<()> {
        from_result(remote!(self.discard(call(c), token.0.as_slice().into())))
    }

    fn publish(&self, c: &Call, request: &PublishRequest) -> Result<Entry> {
        let wire = PublishRequestV1 {
            token: request.token.0.as_slice().into(),
            path: request.path.as_bytes().into(),
            expect: (&request.expect).into(),
            attributes: to_json("attributes", &request.attributes)?,
            digests: request.digests.iter().cloned().map(Into::into).collect(),
            size: request.size,
        };
        checked(remote!(self.publish(call(c), wire, request.source.clone().into())))
    }

    fn get(
        &self,
        c: &Call,
        path: &TargetPath,
        part: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        let version = if_version.map(RStr::from).into();
        from_result(remote!(self.get(call(c), path.as_bytes().into(), range(part), version, sink.into())))
    }

    fn delete(&self, c: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        from_result(remote!(self.delete(call(c), path.as_bytes().into(), expect.into())))
    }

    fn delete_batch(&self, c: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        let wire: RVec<DeleteV1> = items.iter().map(DeleteV1::from).collect();
        let results = from_result(remote!(self.delete_batch(call(c), wire)))?;
        if results.len() != items.len() {
            let (found, needed) = (results.len(), items.len());
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the plugin gave {found} results for {needed} deletions; what it deleted is not known"
                ),
            ));
        }
        Ok(results.into_iter().map(from_result).collect())
    }

    fn copy(&self, c: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        checked(remote!(self.copy(
            call(c),
            from.as_bytes().into(),
            to.as_bytes().into(),
            ExpectV1::from(expect)
        )))
    }

    fn rename(&self, c: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        checked(remote!(self.rename(
            call(c),
            from.as_bytes().into(),
            to.as_bytes().into(),
            ExpectV1::from(expect)
        )))
    }

    fn make_dir(&self, c: &Call, path: &TargetPath) -> Result<()> {
        from_result(remote!(self.make_dir(call(c), path.as_bytes().into())))
    }

    fn set_attributes(&self, c: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        let json: RString = to_json("attributes", attributes)?;
        checked(remote!(self.set_attributes(call(c), path.as_bytes().into(), json.as_rstr())))
    }

    fn digest(&self, c: &Call, object: &Object, algorithm: &str, part: Option<Range>) -> Result<Digest> {
        let wire = ObjectV1::from(object);
        from_result(remote!(self.digest(call(c), wire, algorithm.into(), range(part)))).map(Digest::from)
    }

    fn invoke(
        &self,
        c: &Call,
        operation: &str,
        json: &str,
        source: Option<Arc<dyn Source>>,
        sink: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        let (source, sink) = (source.map(SourceV1::from).into(), sink.map(SinkV1::from).into());
        from_result(remote!(self.invoke(call(c), operation.into(), json.into(), source, sink)))
            .map(String::from)
    }

    fn close(&self, deadline: Duration) {
        // A panic while closing: the plugin's hook has logged it, and nothing is called afterwards.
        let _ = from_result(remote!(self.close(nanos(deadline))));
    }
}
