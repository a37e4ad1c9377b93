//! The open target: the connection, what is known about the server, and the looks at single names that all else builds on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Entry, EntryKind, Error, ErrorKind, Expect, Opened,
    Page, Plugin, PublishRequest, Range, Result, Session, Sink, Source, Space, StageRequest, Staged,
    StagedInfo, TargetPath, Timestamp, Token,
};

use super::config::Config;
use super::error::shown;
use super::http::{Answer, Http, Request};
use super::names::Place;
use super::propfind::{self, Found};
use super::traits::{self, Facts};

/// Ways to write the address of a file in `Destination`.
pub(super) const FORMS: usize = 3;

pub struct WebDavPlugin;

impl Plugin for WebDavPlugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        let dav = WebDav::open_at(target.url, target.options, &target.secrets)?;
        if let Some(text) = dav.config.unprotected() {
            let notice = serde_json::json!({ "code": "plain-password", "text": text });
            // A host that knows no notices is no reason not to work.
            let _ = target.host.invoke("notice", &notice.to_string());
        }
        Ok(Box::new(dav))
    }
}

pub struct WebDav {
    pub(super) config: Config,
    pub(super) http: Http,
    pub(super) files: Place,
    pub(super) facts: Mutex<Option<Facts>>,
    /// Directories that were there a moment ago.
    dirs: Mutex<HashSet<TargetPath>>,
    /// Tokens of what this object staged whole: their publish need not look at the staging again.
    fresh: Mutex<HashSet<Token>>,
    /// Two bytes sent one at a time ended up beside each other.
    pub(super) takes_ranges: AtomicBool,
    /// It says that it takes ranges, and does not.
    pub(super) whole_only: AtomicBool,
    /// How the server knows its own address.
    pub(super) known_by: AtomicUsize,
}

impl WebDav {
    /// Uses no network. Errors: `InvalidConfig`.
    pub fn open_at(
        url: &str,
        options: &serde_json::Value,
        secrets: &offsite_plugin_api::Secrets,
    ) -> Result<Self> {
        let config = Config::new(url, options, secrets)?;
        traits::fits(&config)?;
        Ok(Self {
            http: Http::new(&config)?,
            files: Place::new(config.root.clone()),
            config,
            facts: Mutex::default(),
            dirs: Mutex::default(),
            fresh: Mutex::default(),
            takes_ranges: AtomicBool::new(false),
            whole_only: AtomicBool::new(false),
            known_by: AtomicUsize::new(0),
        })
    }

    /// The header `Destination` for a file (RFC 4918 §10.3), as the server understood it last.
    pub(super) fn destination(&self, path: &TargetPath) -> String {
        self.destination_by(self.known_by.load(Ordering::Relaxed), path)
    }

    /// `form`: below [`FORMS`]; the address as we know it, without the TLS that a proxy ends, without the host.
    pub(super) fn destination_by(&self, form: usize, path: &TargetPath) -> String {
        let url = self.files.url(path, false);
        match form {
            0 => url.into(),
            1 => url.as_str().replacen("https:", "http:", 1),
            _ => url.path().to_owned(),
        }
    }

    pub(super) fn dirs(&self) -> MutexGuard<'_, HashSet<TargetPath>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fresh(&self) -> MutexGuard<'_, HashSet<Token>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// PROPFIND of one resource. `None`: nothing has that address.
    pub(super) fn look_at(
        &self,
        call: &Call,
        url: url::Url,
        body: &'static str,
        what: &str,
    ) -> Result<Option<Found>> {
        let answer = self.propfind(call, url, "0", body, what)?;
        let Some(answer) = answer else { return Ok(None) };
        let mut first = None;
        self.each(call, answer, what, &mut |found| {
            first.get_or_insert(found);
            // The rest is read, so that the connection can be used again.
            Ok(true)
        })?;
        Ok(first.filter(|f| !matches!(f.status, Some(404 | 410))))
    }

    /// What has this name.
    pub(super) fn look(&self, call: &Call, path: &TargetPath) -> Result<Option<Found>> {
        self.look_at(call, self.files.url(path, path.is_root()), propfind::ENTRY, &shown(path))
    }

    /// `None`: not found.
    pub(super) fn propfind(
        &self,
        call: &Call,
        url: url::Url,
        depth: &str,
        body: &'static str,
        what: &str,
    ) -> Result<Option<Answer>> {
        let request = Request::new("PROPFIND", url)
            .header("depth", depth)
            .header("content-type", "application/xml; charset=utf-8")
            .body(body.as_bytes());
        let answer = self.http.send(call, &request, "look at", what)?;
        match answer.code() {
            207 => Ok(Some(answer)),
            404 | 410 => {
                self.http.drain(call, answer);
                Ok(None)
            }
            200 => Err(Error::new(
                ErrorKind::Unsupported,
                format!("cannot look at {what}: the server does not speak WebDAV there"),
            )
            .with_context(
                "hint",
                "check the URL; WebDAV may have to be turned on, or have an address of its own",
            )),
            _ => Err(self.http.fail(call, answer, "look at", what)),
        }
    }

    /// Every response of a multistatus.
    pub(super) fn each(
        &self,
        call: &Call,
        answer: Answer,
        what: &str,
        each: &mut dyn FnMut(Found) -> Result<bool>,
    ) -> Result<()> {
        let mut reader = self.http.reader(call, answer, what);
        let parsed = propfind::parse(&mut reader, each);
        match reader.failure.take() {
            Some(error) => Err(error),
            None => parsed,
        }
    }

    /// The entry for what was found under a name; asks again for a length that a listing leaves out.
    pub(super) fn entry(&self, call: &Call, path: TargetPath, found: &Found) -> Result<Entry> {
        let mtime = found
            .modified
            .and_then(|s| s.checked_mul(1_000_000_000))
            .map(|ns| Timestamp { ns, precision_ns: 1_000_000_000 });
        if found.collection {
            return Ok(Entry { mtime, ..Entry::dir(path) });
        }
        let size = match found.size {
            Some(size) => size,
            None => self.length(call, &path)?,
        };
        Ok(Entry { mtime, version: found.etag.clone(), ..Entry::file(path, size) })
    }

    fn length(&self, call: &Call, path: &TargetPath) -> Result<u64> {
        let what = shown(path);
        let request = Request::new("HEAD", self.files.url(path, false)).header("accept-encoding", "identity");
        let answer = self.http.send(call, &request, "ask the length of", &what)?;
        if !answer.status().is_success() {
            return Err(self.http.fail(call, answer, "ask the length of", &what));
        }
        answer.length().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("the server does not tell the length of {what}"))
        })
    }

    pub(super) fn not_found(path: &TargetPath) -> Error {
        Error::new(ErrorKind::NotFound, format!("{} does not exist", shown(path)))
    }

    pub(super) fn stat_entry(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        match self.look(call, path)? {
            Some(found) => self.entry(call, path.clone(), &found),
            None => Err(Self::not_found(path)),
        }
    }

    pub(super) fn expect_version(&self, call: &Call, path: &TargetPath, wanted: &str) -> Result<Entry> {
        let entry = self.stat_entry(call, path)?;
        if entry.kind == EntryKind::File && entry.version.as_deref() == Some(wanted) {
            return Ok(entry);
        }
        Err(super::error::changed(path, false))
    }
}

impl Backend for WebDav {
    fn identity(&self) -> String {
        self.config.identity()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        Ok(self.facts(call)?.capabilities(&self.config))
    }

    fn space(&self, call: &Call) -> Result<Space> {
        let root = TargetPath::root();
        let found = self.look_at(call, self.files.url(&root, true), propfind::QUOTA, &shown(&root))?;
        // Nextcloud writes -1 to -3 for what it does not know or limit.
        let positive = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        let Some(found) = found else { return Ok(Space::default()) };
        let (free, used) = (positive(found.free), positive(found.used));
        Ok(Space { free, total: free.zip(used).map(|(f, u)| f.saturating_add(u)) })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        super::check::check(self, call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        super::list::list(self, call, dir, recursive, page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        self.stat_entry(call, path)
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        super::stage::stage(self, call, request, &*source, &*session)
    }

    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo> {
        super::write::stat_staged(self, call, token)
    }

    fn read_staged(&self, call: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        super::read::staged(self, call, token, range, &*sink)
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        super::list::staged(self, call, dir)
    }

    fn discard(&self, call: &Call, token: &Token) -> Result<()> {
        super::write::discard(self, call, token)
    }

    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry> {
        super::write::publish(self, call, request)
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        super::read::get(self, call, path, range, if_version, &*sink)
    }

    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        super::change::delete(self, call, path, expect)
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        super::change::rename(self, call, from, to, expect)
    }

    fn make_dir(&self, call: &Call, path: &TargetPath) -> Result<()> {
        super::change::make_dirs(self, call, path)
    }

    fn set_attributes(&self, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        super::change::set_attributes(self, call, path, attributes)
    }

    fn close(&self, _deadline: Duration) {}
}
