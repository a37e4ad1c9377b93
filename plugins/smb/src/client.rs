//! The open target: one connection, made when it is first needed and again after it was lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Entry, Error, ErrorKind, Expect, Host, Level,
    Opened, Page, Plugin, PublishRequest, Range, Replace, Result, Resume, Secrets, Session, Sink, Source,
    Space, StageRequest, Staged, StagedInfo, TargetPath, Token,
};
use smb2::client::{Connection, Session as LogIn, Tree};
use smb2::msg::create::CreateDisposition;
use smb2::transport::{ConnectOptions, TcpTransport};
use smb2::types::Dialect;
use smb2::types::flags::Capabilities as Offers;
use zeroize::Zeroizing;

use super::config::{Account, Config};
use super::error::{failed, lost, said};
use super::hello::Hello;
use super::names;
use super::runtime::Runtime;
use super::share::{Access, Live, Options};
use super::{change, check, list, read, stage, write};

/// Time for one short operation at the server.
pub const SHORT: Duration = Duration::from_secs(60);
/// Time for what may wait for the server's disk.
pub const LONG: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(20);
/// Time for one address of the server.
const ADDRESS: Duration = Duration::from_secs(8);
/// Silence after which a request is given up; six times that while the server answers others.
const SILENCE: Duration = Duration::from_secs(60);
/// Time for one message to get into the socket, behind those before it: lines may be slow.
const SENDING: Duration = Duration::from_secs(180);
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
    live: Mutex<Option<Arc<Live>>>,
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
    pub(super) fn live(&self, call: &Call) -> Result<Arc<Live>> {
        let mut held = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = &*held {
            return Ok(live.clone());
        }
        let password = match self.secrets.get("password") {
            None if self.config.account == Account::Guest => Zeroizing::default(),
            Some(password) => Zeroizing::new(password.to_owned()),
            None => self.host.secret("password").map_err(|_| {
                Error::new(ErrorKind::InvalidConfig, "no password is given")
                    .with_context("hint", "credentials = { password = { env = \"NAME\" } }")
            })?,
        };
        let work = connect(self.config.clone(), password);
        let live = self.runtime.run(call, CONNECT, async move { work.await.map(Arc::new) })??;
        if self.config.account == Account::Guest {
            call.log(
                Level::Warn,
                "logged in as a guest: nothing is signed, so whoever sits on the way can change it",
            );
        }
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
        work: impl FnOnce(Arc<Live>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = smb2::Result<T>> + Send + 'static,
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
    let addresses = tokio::net::lookup_host((config.host.as_str(), config.port)).await.map_err(|e| {
        Error::new(ErrorKind::Unreachable, format!("the server '{}' is not known", config.host))
            .with_source(e.to_string())
            .with_context("hint", "check its name, and that this machine can resolve names")
    })?;
    let mut last = None;
    for address in addresses.take(8) {
        match TcpTransport::connect_with(address, ConnectOptions::with_timeout(ADDRESS)).await {
            Ok(transport) => return log_in(&config, &password, transport).await,
            Err(error) => last = Some(at_server(&config, "connect to", &error)),
        }
    }
    Err(last.unwrap_or_else(|| {
        Error::new(ErrorKind::Unreachable, format!("the server '{}' has no address", config.host))
    }))
}

/// Negotiates, logs in, opens the share.
async fn log_in(config: &Config, password: &str, transport: TcpTransport) -> Result<Live> {
    let negotiated = Hello::negotiate(transport, config.unc_host(), |connection| {
        connection.set_response_timeout(Some(SILENCE));
        connection.set_send_timeout(Some(SENDING));
    });
    let mut connection = negotiated.await.map_err(|e| match e {
        smb2::Error::InvalidData { .. } | smb2::Error::Protocol { .. } => at_server(config, "talk to", &e)
            .with_context("hint", "it must speak SMB 2.0.2 or newer; SMB 1 is not secure"),
        e => at_server(config, "talk to", &e),
    })?;
    let (user, domain) = match &config.account {
        Account::User { name, domain } => (name.as_str(), domain.as_deref().unwrap_or_default()),
        Account::Guest => ("Guest", ""),
    };
    let session = LogIn::setup(&mut connection, user, password, domain)
        .await
        .map_err(|e| at_server(config, "log in at", &e))?;
    if config.encrypted {
        encrypt(config, &mut connection, &session)?;
    }
    let tree = Tree::connect(&mut connection, &config.share).await.map_err(|e| share_error(config, &e))?;
    if tree.encrypt_data {
        encrypt(config, &mut connection, &session)?;
    }
    if tree.is_dfs {
        // Names are plain; one that leads to another server is an error that says so.
        connection.deregister_dfs_tree(tree.tree_id);
    }
    Live::new(connection, tree.tree_id).map_err(|e| share_error(config, &e))
}

/// From here on every message is encrypted. Errors: the server cannot.
fn encrypt(config: &Config, connection: &mut Connection, session: &LogIn) -> Result<()> {
    if connection.should_encrypt() {
        return Ok(());
    }
    let cipher = connection.params().and_then(|params| match params.dialect {
        Dialect::Smb3_1_1 => params.cipher,
        Dialect::Smb3_0 | Dialect::Smb3_0_2 => {
            params.capabilities.contains(Offers::ENCRYPTION).then_some(smb2::client::Cipher::Aes128Ccm)
        }
        _ => None,
    });
    match (cipher, &session.encryption_key, &session.decryption_key) {
        // A guest's session has a key that everybody can compute.
        (Some(cipher), Some(out), Some(back)) if config.account != Account::Guest => {
            connection.activate_encryption(out.clone(), back.clone(), cipher);
            Ok(())
        }
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{}:{} cannot encrypt this session", config.host, config.port),
        )
        .with_context("hint", "use SMB 3 on the server and a real account, or set encryption = \"auto\"")),
    }
}

/// The path is of no interest yet; the server is.
fn at_server(config: &Config, act: &str, error: &smb2::Error) -> Error {
    rewritten(&format!("cannot {act} {}:{}", config.host, config.port), error)
}

fn share_error(config: &Config, error: &smb2::Error) -> Error {
    rewritten(&format!("cannot open the share {}", config.shown()), error)
}

fn rewritten(message: &str, error: &smb2::Error) -> Error {
    let found = failed("", &TargetPath::root(), error);
    let named = Error::new(found.kind().clone(), message.to_owned())
        .with_retry(found.retry())
        .with_source(said(error));
    found.context().iter().fold(named, |named, (key, value)| named.with_context(key, value.clone()))
}

impl Backend for Smb {
    fn identity(&self) -> String {
        self.config.identity()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        let share = TargetPath::root();
        let longest = self.on(call, "look at", &share, SHORT, |live| async move {
            // The share's own root: the target's folder may not exist yet.
            let root = live.open("", CreateDisposition::FileOpen, Access::LOOK, Options::ANY).await?;
            let longest = live.longest_name(root).await;
            live.close(root).await;
            longest
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
        let room = self.on(call, "ask the free space of", &share, SHORT, |live| async move {
            let root = live.open("", CreateDisposition::FileOpen, Access::LOOK, Options::ANY).await?;
            let room = live.room(root).await;
            live.close(root).await;
            room
        })?;
        Ok(Space { total: Some(room.total), free: Some(room.free) })
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
        let work = async move { live.leave().await };
        let _ = self.runtime.run(&Call::unwatched(), deadline, work);
    }
}
