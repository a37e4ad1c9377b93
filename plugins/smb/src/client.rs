//! The open target: one connection, made when it is first needed and again after it was lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Entry, Error, ErrorKind, Expect, Host, Opened,
    Page, Plugin, PublishRequest, Range, Replace, Result, Resume, Secrets, Session, Sink, Source, Space,
    StageRequest, Staged, StagedInfo, TargetPath, Token,
};
use smb::connection::{ConnectionConfig, EncryptionMode};
use smb::{
    Connection, CreateDisposition, CreateOptions, Dialect, FileAccessMask, FileAttributes, FileCreateArgs,
    FileFsAttributeInformation, FileFsFullSizeInformation, Guid, Resource, Tree, UncPath,
};
use zeroize::Zeroizing;

use super::config::Config;
use super::error::{failed, lost};
use super::names;
use super::runtime::{Held, Runtime};
use super::transport::Tcp;
use super::{change, check, list, read, stage, write};

/// Time for one short operation at the server.
pub const SHORT: Duration = Duration::from_secs(60);
/// Time for what may wait for the server's disk.
pub const LONG: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(20);
/// Credits asked for: what may be in flight.
const CREDITS: u16 = 1024;
/// Writes and reads in flight at most, per stream and in all for one file.
pub const PER_STREAM: usize = 4;
pub const IN_FLIGHT: usize = 16;
const STREAMS: u32 = 8;

pub struct SmbPlugin;

impl Plugin for SmbPlugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        Ok(Box::new(Smb::new(target.url, target.options, target.secrets, target.host)?))
    }
}

pub struct Smb {
    pub(super) config: Arc<Config>,
    pub(super) runtime: Runtime,
    secrets: Secrets,
    host: Arc<dyn Host>,
    live: Mutex<Option<Held<Live>>>,
}

/// A connected share. Fields drop in this order: the tree before its session, that before its connection.
pub(super) struct Live {
    pub tree: Tree,
    _session: smb::Session,
    _connection: Connection,
    pub dialect: Dialect,
    /// Largest write and read, bytes.
    pub write: u64,
    pub read: u64,
}

impl Smb {
    pub fn new(
        url: &str,
        options: &serde_json::Value,
        secrets: Secrets,
        host: Arc<dyn Host>,
    ) -> Result<Self> {
        Ok(Self {
            config: Arc::new(Config::new(url, options)?),
            runtime: Runtime::start()?,
            secrets,
            host,
            live: Mutex::new(None),
        })
    }

    /// The connection, made if there is none. Two callers make one.
    pub(super) fn live(&self, call: &Call) -> Result<Held<Live>> {
        let mut held = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = &*held {
            return Ok(live.clone());
        }
        let password = match self.secrets.get("password") {
            Some(password) => Zeroizing::new(password.to_owned()),
            None => self.host.secret("password").map_err(|_| {
                Error::new(ErrorKind::InvalidConfig, "no password is given")
                    .with_context("hint", "credentials = { password = { env = \"NAME\" } }")
            })?,
        };
        let work = connect(self.config.clone(), password);
        let live = self.runtime.run(call, CONNECT, async move { work.await.map(Held::new) })??;
        *held = Some(live.clone());
        Ok(live)
    }

    /// The next call connects anew.
    pub(super) fn forget(&self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// One act at the server: connects where needed, waits, and turns what went wrong into the contract's words.
    pub(super) fn on<T, F>(
        &self,
        call: &Call,
        act: &str,
        path: &TargetPath,
        limit: Duration,
        work: impl FnOnce(Held<Live>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = smb::Result<T>> + Send + 'static,
    {
        call.proceed()?;
        let live = self.live(call)?;
        match self.runtime.run(call, limit, work(live)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if lost(&error) {
                    self.forget();
                }
                Err(failed(act, path, &error))
            }
            // An answer may still come for what is not waited for any more.
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    pub(super) fn wire(&self, path: &TargetPath) -> Result<String> {
        names::wire(&self.config, path)
    }

    pub(super) fn dialect(&self, call: &Call) -> Result<Dialect> {
        Ok(self.live(call)?.dialect)
    }
}

async fn connect(config: Arc<Config>, password: Zeroizing<String>) -> Result<Live> {
    let here = format!("{}:{}", config.host, config.port);
    let addresses = tokio::net::lookup_host((config.host.as_str(), config.port)).await.map_err(|e| {
        Error::new(ErrorKind::Unreachable, format!("the server '{}' is not known", config.host))
            .with_source(e.to_string())
            .with_context("hint", "check its name, and that this machine can resolve names")
    })?;
    let settings = ConnectionConfig {
        port: Some(config.port),
        // Waits are bounded by whoever waits (runtime.rs); a server's disk may be slow.
        timeout: Some(LONG),
        encryption_mode: if config.encrypted { EncryptionMode::Required } else { EncryptionMode::Allowed },
        compression_enabled: false,
        client_name: Some("offsite".to_owned()),
        disable_notifications: true,
        // No server of this century needs to be asked in SMB 1 first.
        smb2_only_negotiate: true,
        credits_backlog: Some(CREDITS),
        min_dialect: config.encrypted.then_some(Dialect::Smb030),
        ..ConnectionConfig::default()
    };
    let fail = |act: &str, error: &smb::Error| {
        let error = failed(act, &TargetPath::root(), error);
        // The path is of no interest here; the server is.
        let named =
            Error::new(error.kind().clone(), format!("cannot {act} {here}")).with_retry(error.retry());
        let named =
            error.context().iter().fold(named, |named, (key, value)| named.with_context(key, value.clone()));
        match error.source_text() {
            Some(source) => named.with_source(source.to_owned()),
            None => named,
        }
    };
    let mut last = None;
    for address in addresses.take(8) {
        let transport = match Tcp::connect(address).await {
            Ok(transport) => transport,
            Err(error) => {
                last = Some(fail("connect to", &smb::Error::IoError(error)));
                continue;
            }
        };
        let connection =
            Connection::from_transport(Box::new(transport), &config.host, Guid::generate(), settings.clone())
                .await
                .map_err(|e| fail("connect to", &e))?;
        let account = sspi::Username::new(&config.user, config.domain.as_deref()).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "the user's name cannot be used").with_source(e.to_string())
        })?;
        let identity = sspi::AuthIdentity { username: account, password: password.to_string().into() };
        let session = connection.authenticate(identity).await.map_err(|e| fail("log in at", &e))?;
        let share = UncPath::new(&config.unc_host())
            .and_then(|server| server.with_share(&config.share))
            .map_err(|e| fail("name the share at", &e))?;
        let tree = session.tree_connect(&share).await.map_err(|e| {
            let error = fail("open the share at", &e);
            Error::new(error.kind().clone(), format!("cannot open the share {}", config.shown()))
                .with_source(super::error::said(&e))
                .with_context(
                    "hint",
                    error.context().iter().find(|(k, _)| k == "hint").map_or("", |(_, v)| v).to_owned(),
                )
        })?;
        let (dialect, write, read) = {
            let info = connection.conn_info().ok_or_else(super::runtime::broken)?;
            let n = &info.negotiation;
            (n.dialect_rev, n.max_write_size, n.max_read_size)
        };
        return Ok(Live {
            tree,
            _session: session,
            _connection: connection,
            dialect,
            write: u64::from(write).clamp(4096, 1 << 20),
            read: u64::from(read).clamp(4096, 1 << 20),
        });
    }
    Err(last.unwrap_or_else(|| {
        Error::new(ErrorKind::Unreachable, format!("the server '{}' has no address", config.host))
    }))
}

/// Opens what is there, or makes it; never follows a link.
pub(super) async fn open(
    live: &Live,
    name: &str,
    disposition: CreateDisposition,
    access: FileAccessMask,
    options: CreateOptions,
) -> smb::Result<Resource> {
    let attributes = FileAttributes::new().with_directory(options.directory_file());
    let options = options.with_open_reparse_point(true);
    live.tree.create(name, &FileCreateArgs { disposition, attributes, options, desired_access: access }).await
}

/// Looks at something: no more rights than that needs.
pub(super) fn looking() -> FileAccessMask {
    FileAccessMask::new().with_file_read_attributes(true).with_synchronize(true)
}

impl Backend for Smb {
    fn identity(&self) -> String {
        self.config.identity()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        let share = TargetPath::root();
        let longest = self.on(call, "look at", &share, SHORT, |live| async move {
            // The share's own root: the target's folder may not exist yet.
            let root = open(&live, "", CreateDisposition::Open, looking(), CreateOptions::new()).await?;
            let info = match &root {
                Resource::Directory(dir) => dir.query_fs_info::<FileFsAttributeInformation>().await,
                Resource::File(file) => file.query_fs_info::<FileFsAttributeInformation>().await,
                Resource::Pipe(_) => Err(smb::Error::InvalidArgument("the share holds no files".to_owned())),
            };
            Ok(info?.maximum_component_name_length)
        })?;
        Ok(Capabilities {
            // FLUSH: the server answers when its disk has it (Samba: `strict sync`, on by default).
            durable_checkpoints: true,
            resume: Resume::Ranges,
            replace: Replace::Atomic,
            // A version is compared by looking first.
            conditional_publish: false,
            staged_readable: true,
            names: names::rules(longest),
            mtime_precision_ns: Some(names::TICK),
            rename: true,
            parallel_ranges: STREAMS,
            ..Capabilities::default()
        })
    }

    fn space(&self, call: &Call) -> Result<Space> {
        let share = TargetPath::root();
        self.on(call, "ask the free space of", &share, SHORT, |live| async move {
            let root = open(&live, "", CreateDisposition::Open, looking(), CreateOptions::new()).await?;
            let Resource::Directory(dir) = &root else { return Ok(Space::default()) };
            let size = dir.query_fs_info::<FileFsFullSizeInformation>().await?;
            let unit =
                u64::from(size.sectors_per_allocation_unit).saturating_mul(size.bytes_per_sector.into());
            Ok(Space {
                total: Some(size.total_allocation_units.saturating_mul(unit)),
                free: Some(size.caller_available_allocation_units.saturating_mul(unit)),
            })
        })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        check::check(self, call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        list::list(self, call, dir, recursive, page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        read::stat(self, call, path)
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        stage::stage(self, call, request, &*source, &*session)
    }

    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo> {
        write::stat_staged(self, call, token)
    }

    fn read_staged(&self, call: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        read::staged(self, call, token, range, &*sink)
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        list::staged(self, call, dir)
    }

    fn discard(&self, call: &Call, token: &Token) -> Result<()> {
        write::discard(self, call, token)
    }

    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry> {
        write::publish(self, call, request)
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        read::get(self, call, path, range, if_version, &*sink)
    }

    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        change::delete(self, call, path, expect)
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        change::rename(self, call, from, to, expect)
    }

    fn make_dir(&self, call: &Call, path: &TargetPath) -> Result<()> {
        change::make_dirs(self, call, path)
    }

    fn set_attributes(&self, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        change::set_attributes(self, call, path, attributes)
    }

    fn close(&self, deadline: Duration) {
        let Some(live) = self.live.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let work = async move {
            let _ = live.tree.disconnect().await;
            let _ = live._session.logoff().await;
            let _ = live._connection.close().await;
        };
        let _ = self.runtime.run(&Call::unwatched(), deadline, work);
    }
}
