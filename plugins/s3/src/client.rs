//! The open target: its runtime, its connection (made at the first use, made anew when the bucket turns out to be
//! elsewhere), and how a request is made from a blocking call.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Entry, Error, ErrorKind, Expect, Host, NameRules,
    Opened, Page, PartSizes, Plugin, PublishRequest, Range, Replace, Result, Resume, Secrets, Session, Sink,
    Source, StageRequest, Staged, StagedInfo, TargetPath, Token,
};

use super::config::{Config, PART_UNIT};
use super::connect::{self, Connection, Found};
use super::digest::Algorithm;
use super::uploads::Uploads;
use super::{change, check, error, list, read, stage, write};

/// Bytes of a key at most.
const LONGEST_KEY: usize = 1024;
/// A short request that is not answered by then is given up.
pub const SHORT: Duration = Duration::from_secs(60);
/// Acts that may take a server long: completing an upload of many parts, a copy.
pub const LONG: Duration = Duration::from_secs(1800);
const TICK: Duration = Duration::from_millis(100);
/// Parts in flight: more only cost memory.
const MOST_STREAMS: u32 = 16;
pub const LARGEST: u64 = 5 << 40;
pub const MOST_PARTS: u64 = 10_000;

pub struct S3Plugin;

impl Plugin for S3Plugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        let config = Config::new(target.url, target.options)?;
        connect::complete(&config, &target.secrets)?;
        if let Some(text) = config.unprotected() {
            let notice = serde_json::json!({ "code": "plain-password", "text": text });
            // A host that knows no notices is no reason not to work.
            let _ = target.host.invoke("notice", &notice.to_string());
        }
        Ok(Box::new(S3::new(config, target.secrets, target.host)?))
    }
}

pub struct S3 {
    pub config: Config,
    pub host: Arc<dyn Host>,
    secrets: Mutex<Secrets>,
    /// `None` only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    /// Nonces of small stagings that were discarded: nothing on the server knows of them.
    discarded: Mutex<HashSet<String>>,
    pub uploads: Uploads,
    /// The server has said which digest it found: it checks the one that it is given.
    pub checks: AtomicBool,
}

impl S3 {
    fn new(config: Config, secrets: Secrets, host: Arc<dyn Host>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|e| Error::io("cannot start the plugin's threads", &e))?;
        Ok(Self {
            config,
            uploads: Uploads::new(host.clone()),
            host,
            secrets: Mutex::new(secrets),
            runtime: Some(runtime),
            connection: tokio::sync::Mutex::default(),
            discarded: Mutex::default(),
            checks: AtomicBool::new(false),
        })
    }

    /// A server that does not know a digest passes over it in silence: until it has named one, MD5, which all know, goes along.
    pub fn wants_md5(&self, connection: &Connection, algorithm: Algorithm) -> bool {
        algorithm != Algorithm::Md5
            && connection.service.name != "aws"
            && !self.checks.load(Ordering::Relaxed)
    }

    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().expect("the runtime lives as long as the target")
    }

    /// Waits for `work`, and gives it up when the call ends or `limit` has gone by.
    pub fn wait<T>(&self, call: &Call, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        call.proceed()?;
        self.runtime().block_on(async {
            tokio::pin!(work);
            let since = Instant::now();
            let mut said = since;
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done,
                    () = tokio::time::sleep(TICK) => call.proceed()?,
                }
                if since.elapsed() > limit {
                    let message = format!("the server did not answer within {} s", limit.as_secs());
                    return Err(Error::new(ErrorKind::TimedOut, message));
                }
                if limit > SHORT && said.elapsed() > Duration::from_secs(10) {
                    call.alive("the server is working");
                    said = Instant::now();
                }
            }
        })
    }

    /// The connection, made now if need be.
    pub async fn connection(&self) -> Result<Arc<Connection>> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let secrets = lock(&self.secrets).clone();
        let mut found = Found::load(&self.config, &*self.host);
        let made = Arc::new(connect::connect(&self.config, &self.host, &secrets, &mut found).await?);
        *held = Some(made.clone());
        Ok(made)
    }

    /// Forgets the connection; the next one is for `region`, or for where the bucket then says it is.
    async fn move_to(&self, region: Option<String>) {
        let mut held = self.connection.lock().await;
        let mut found = Found::load(&self.config, &*self.host);
        found.region = region;
        found.store(&*self.host);
        *held = None;
    }

    /// New temporary keys, if the host has any. False: none.
    async fn refresh(&self) -> bool {
        let mut held = self.connection.lock().await;
        let names: Vec<String> = lock(&self.secrets).0.iter().map(|(name, _)| name.clone()).collect();
        let mut fresh = Vec::new();
        for name in names {
            match self.host.secret(&name) {
                Ok(value) => fresh.push((name, value)),
                Err(_) => return false,
            }
        }
        let changed = {
            let mut secrets = lock(&self.secrets);
            let changed =
                secrets.0.iter().zip(&fresh).any(|((_, old), (_, new))| old.as_str() != new.as_str());
            *secrets = Secrets(fresh);
            changed
        };
        // Without keys of ours the chain looks again.
        let chain = lock(&self.secrets).0.is_empty();
        *held = None;
        changed || chain
    }

    /// What an answer tells beside the failure itself: true when the same request can be made again at once.
    pub async fn heal<E: ProvideErrorMetadata>(&self, failure: &SdkError<E, HttpResponse>) -> bool {
        if let Some(region) = error::elsewhere(failure) {
            self.move_to(region).await;
            return true;
        }
        error::expired(failure) && self.refresh().await
    }

    /// Makes a request; once more where the bucket turns out to be in another region, or temporary keys ran out.
    pub async fn request<T, E, F>(
        &self,
        act: &str,
        path: &TargetPath,
        make: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    {
        match make(self.connection().await?).await {
            Ok(answer) => Ok(answer),
            Err(failure) if self.heal(&failure).await => {
                make(self.connection().await?).await.map_err(|f| error::failed(act, path, &f))
            }
            Err(failure) => Err(error::failed(act, path, &failure)),
        }
    }

    /// The key of a path; of the target's folder: the prefix without its slash.
    pub fn key(&self, path: &TargetPath) -> Result<String> {
        let refuse =
            |why: String| Error::new(ErrorKind::NameRefused, format!("{} {why}", error::shown(path)));
        let text = std::str::from_utf8(path.as_bytes())
            .map_err(|_| refuse("is not UTF-8, and S3 has only names that are".into()))?;
        let key = format!("{}{text}", self.config.prefix);
        if key.len() > LONGEST_KEY {
            return Err(refuse(format!("makes a key of {} bytes; S3 takes {LONGEST_KEY}", key.len())));
        }
        Ok(key)
    }

    /// What every key below a directory begins with.
    pub fn prefix_of(&self, dir: &TargetPath) -> Result<String> {
        if dir.is_root() { Ok(self.config.prefix.clone()) } else { Ok(format!("{}/", self.key(dir)?)) }
    }

    pub fn discard_small(&self, nonce: &str) {
        lock(&self.discarded).insert(nonce.to_owned());
    }

    pub fn is_discarded(&self, nonce: &str) -> bool {
        lock(&self.discarded).contains(nonce)
    }

    fn names(&self, longest_name: u32) -> NameRules {
        let room = (LONGEST_KEY - self.config.prefix.len()) as u32;
        NameRules {
            longest_name: if longest_name == 0 { room } else { room.min(longest_name) },
            longest_path: room,
            utf8_only: true,
            ..NameRules::default()
        }
    }

    /// Refuses a name that the server would, or would change. Errors: `NameRefused`.
    pub fn new_key(&self, path: &TargetPath, connection: &Connection) -> Result<String> {
        let longest = connection.service.longest_name as usize;
        if longest > 0
            && let Some(long) = path.components().find(|c| c.len() > longest)
        {
            let message = format!(
                "{} has a part of {} bytes; the server takes {longest}",
                error::shown(path),
                long.len()
            );
            return Err(Error::new(ErrorKind::NameRefused, message));
        }
        self.key(path)
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Not waiting: a name look-up may hang in the system.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Backend for S3 {
    fn identity(&self) -> String {
        self.config.identity()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        let connection = self.wait(call, SHORT, self.connection())?;
        let service = connection.service;
        Ok(Capabilities {
            durable_checkpoints: true,
            resume: Resume::Parts,
            replace: Replace::Atomic,
            conditional_publish: service.conditional_write && service.conditional_delete,
            staged_readable: false,
            names: self.names(service.longest_name),
            part_sizes: Some(PartSizes {
                smallest: self.config.part_size.unwrap_or(PART_UNIT),
                largest: 5 << 30,
                most_parts: MOST_PARTS as u32,
            }),
            mtime_precision_ns: Some(1),
            digests: Vec::new(),
            checked_digests: vec![connection.algorithm(&self.config).name().to_owned()],
            copy: true,
            rename: false,
            retention: self.config.retention.is_some(),
            parallel_ranges: MOST_STREAMS,
            streams: None,
            largest_file: Some(LARGEST),
            small_at_publish: stage::SMALL,
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

    fn delete_batch(&self, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        change::delete_batch(self, call, items)
    }

    fn copy(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        change::copy(self, call, from, to, expect)
    }

    fn set_attributes(&self, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        change::set_attributes(self, call, path, attributes)
    }
}
