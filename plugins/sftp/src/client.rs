//! The open target: its connections, and every path below its root.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Digest, Entry, EntryKind, Error, ErrorKind, Expect,
    Object, Opened, Page, Plugin, PublishRequest, Range, Result, Session, Sink, Source, Space, StageRequest,
    Staged, StagedInfo, TargetPath, Timestamp, Token,
};

use super::config::Config;
use super::error::{changed, exists, with_hint};
use super::link::{Link, Watch};
use super::pool::{Lease, Pool};
use super::traits::{Traits, other_case};
use super::wire::{self, Attrs, Out, Reply, SetAttrs};

pub const SECOND: i64 = 1_000_000_000;

pub struct SftpPlugin;

impl Plugin for SftpPlugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        Ok(Box::new(Sftp::open(&target)?))
    }
}

pub struct Sftp {
    pub(super) config: Arc<Config>,
    pool: Arc<Pool>,
    /// What the server can do, once known: the same for as long as the target is open.
    traits: Mutex<Option<Traits>>,
    /// A file's bytes are taken only in their order, by one connection; or they are known to be taken in any order.
    pub(super) in_order: AtomicBool,
    pub(super) pieces: AtomicBool,
}

impl Sftp {
    /// Errors: `InvalidConfig`. Uses no network.
    pub fn open(target: &Opened<'_>) -> Result<Self> {
        let config = Arc::new(Config::new(target.url, target.options, &target.secrets)?);
        Ok(Self {
            pool: Pool::new(config.clone(), target.host.clone()),
            config,
            traits: Mutex::default(),
            in_order: AtomicBool::new(false),
            pieces: AtomicBool::new(false),
        })
    }

    /// Where `path` is on the server.
    pub(super) fn at(&self, path: &TargetPath) -> Vec<u8> {
        let root = &self.config.root[..];
        match (root, path.is_root()) {
            (_, true) => root.to_vec(),
            (b"/", false) => [b"/", path.as_bytes()].concat(),
            (_, false) => [root, b"/", path.as_bytes()].concat(),
        }
    }

    pub(super) fn lease(&self, call: &Call) -> Result<Lease> {
        self.pool.lease(call)
    }

    /// One more for the same work, if there is one to be had.
    pub(super) fn spare(&self, call: &Call) -> Result<Option<Lease>> {
        self.pool.try_lease(call)
    }

    pub(super) fn lstat(&self, link: &mut Link, watch: &dyn Watch, path: &TargetPath) -> Result<Attrs> {
        let id = link.request(watch, wire::LSTAT, Out::default().bytes(&self.at(path)))?;
        link.attrs(watch, id, "look at", path)
    }

    /// The same, `None` where nothing is.
    pub(super) fn look(
        &self,
        link: &mut Link,
        watch: &dyn Watch,
        path: &TargetPath,
    ) -> Result<Option<Attrs>> {
        missing(self.lstat(link, watch, path))
    }

    /// Makes `dir` and its missing parents below the root, each durable where the server can do that. The root itself only
    /// if its parent is there: a whole missing path usually means that a disk is not mounted.
    pub(super) fn make_dirs(&self, link: &mut Link, watch: &dyn Watch, dir: &TargetPath) -> Result<()> {
        match self.make_one(link, watch, dir) {
            Err(e) if *e.kind() == ErrorKind::NotFound => match dir.parent() {
                Some(parent) => {
                    self.make_dirs(link, watch, &parent)?;
                    self.make_one(link, watch, dir)
                }
                None => Err(Error::new(
                    ErrorKind::NotFound,
                    format!("neither the folder '{}' nor its parent exists on the server", self.shown_root()),
                )
                .with_context(
                    "hint",
                    "check the path and that its disk is mounted there, or make the folder",
                )),
            },
            other => other,
        }
    }

    fn make_one(&self, link: &mut Link, watch: &dyn Watch, dir: &TargetPath) -> Result<()> {
        let there = |attrs: Attrs| {
            // A link to a directory at the root is the user's own choice.
            let fits = attrs.is_dir() || dir.is_root();
            if fits { Ok(()) } else { Err(exists(dir)) }
        };
        if dir.is_root()
            && let Some(attrs) = self.look(link, watch, dir)?
        {
            return there(attrs);
        }
        if dir.is_root() && !self.config.create {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the folder '{}' does not exist", self.shown_root()),
            )
            .with_context("hint", "make it on the server, or set create = true"));
        }
        let body = Out::default().bytes(&self.at(dir)).attrs(&SetAttrs::default());
        let id = link.request(watch, wire::MKDIR, body)?;
        match link.done(watch, id, "make the directory", dir) {
            Ok(()) => {
                if let Some(parent) = dir.parent() {
                    self.sync_dir(link, watch, &parent)?;
                }
                Ok(())
            }
            // It was there, or somebody else made it meanwhile: version 3 has no word for that.
            Err(error) => match self.look(link, watch, dir)? {
                Some(attrs) => there(attrs),
                None => {
                    let at = self.at(&dir.parent().unwrap_or_default());
                    Err(link.why(watch, error, &at))
                }
            },
        }
    }

    /// Asks for a directory's handle, to make its names durable. Servers that cannot open one say so; then nothing can.
    pub(super) fn ask_dir(
        &self,
        link: &mut Link,
        watch: &dyn Watch,
        dir: &TargetPath,
    ) -> Result<Option<u32>> {
        if !link.features.fsync {
            return Ok(None);
        }
        let body = Out::default().bytes(&self.at(dir)).u32(wire::OPEN_READ).attrs(&SetAttrs::default());
        link.request(watch, wire::OPEN, body).map(Some)
    }

    pub(super) fn sync_dir(&self, link: &mut Link, watch: &dyn Watch, dir: &TargetPath) -> Result<()> {
        let Some(id) = self.ask_dir(link, watch, dir)? else { return Ok(()) };
        let Some(handle) = got_dir(link.handle(watch, id, "open", dir))? else { return Ok(()) };
        let sync = link.extended(watch, b"fsync@openssh.com", Out::default().bytes(&handle))?;
        let close = link.request(watch, wire::CLOSE, Out::default().bytes(&handle))?;
        let _ = got_dir(link.done(watch, sync, "make durable", dir))?;
        link.abandon(close);
        Ok(())
    }

    pub(super) fn shown_root(&self) -> String {
        String::from_utf8_lossy(&self.config.root).into_owned()
    }

    /// What the server can do; asked once.
    pub(super) fn traits(&self, call: &Call) -> Result<Traits> {
        if let Some(known) = *self.traits.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(known);
        }
        let mut link = self.lease(call)?;
        let mut traits = Traits::new(link.features, &link.banner);
        let root = &self.config.root[..];
        let asked = Instant::now();
        let look = |link: &mut Link, path: &[u8]| link.request(call, wire::LSTAT, Out::default().bytes(path));
        let mine = look(&mut link, root)?;
        let mut space = if traits.features.statvfs { Some(link.ask_space(call, root)?) } else { None };
        let others = other_case(root).map(|other| look(&mut link, &other)).transpose()?;
        let mut seen = |id| match link.answer(call, id)? {
            Reply::Attrs(attrs) => Ok(Some(attrs)),
            _ => Ok::<_, Error>(None),
        };
        let mine = seen(mine)?;
        traits.round_trip = asked.elapsed();
        if let Some(others) = others {
            // Two folders that differ in case alone hardly changed in the same second.
            let dated = mine.is_some_and(|attrs| attrs.mtime.is_some_and(|m| m > 0));
            traits.ignores_case = seen(others)? == mine && dated;
        }
        // Of the root, or of what is above it while it is not made yet.
        let mut at = root.to_vec();
        while let Some(id) = space.take() {
            if let Some(space) = link.space_of(call, id)? {
                traits.longest_name = Some(space.longest_name);
                break;
            }
            match at.iter().rposition(|&b| b == b'/') {
                Some(0) if at.len() > 1 => at.truncate(1),
                Some(slash) if slash > 0 => at.truncate(slash),
                _ => break,
            }
            space = Some(link.ask_space(call, &at)?);
        }
        *self.traits.lock().unwrap_or_else(PoisonError::into_inner) = Some(traits);
        Ok(traits)
    }
}

/// Directories cannot be opened or synced everywhere; only a lost connection is an error then.
pub(super) fn got_dir<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::Other | ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Unsupported
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

pub(super) fn missing<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if *e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Changes with size and modification time: version 3 shows nothing else of a file.
pub(super) fn version(attrs: &Attrs) -> String {
    format!("{:x}-{:x}", attrs.size.unwrap_or(0), attrs.mtime.unwrap_or(0))
}

pub(super) fn entry(path: TargetPath, attrs: &Attrs) -> Entry {
    let kind = match attrs {
        a if a.is_file() => EntryKind::File,
        a if a.is_dir() => EntryKind::Dir,
        _ => EntryKind::Other,
    };
    let size = if kind == EntryKind::File { attrs.size.unwrap_or(0) } else { 0 };
    Entry {
        kind,
        mtime: attrs.mtime.map(|s| Timestamp { ns: i64::from(s) * SECOND, precision_ns: SECOND as u64 }),
        version: Some(version(attrs)),
        ..Entry::file(path, size)
    }
}

/// Whole seconds, within what the protocol holds (1970 to 2106).
pub(super) fn seconds(time: Timestamp) -> u32 {
    time.ns.div_euclid(SECOND).clamp(0, i64::from(u32::MAX)) as u32
}

/// Whether what is there is what `expect` says.
pub(super) fn expected(path: &TargetPath, expect: &Expect, there: Option<&Attrs>) -> Result<()> {
    match (expect, there) {
        (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
        (Expect::Absent, Some(_)) => Err(exists(path)),
        (Expect::Version(wanted), Some(found)) if *wanted == version(found) => Ok(()),
        (Expect::Version(_), found) => Err(changed(path, found.is_none())),
    }
}

impl Backend for Sftp {
    fn identity(&self) -> String {
        self.config.identity()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        Ok(self.traits(call)?.capabilities(self.config.digest.as_ref().map(|d| d.algorithm)))
    }

    fn space(&self, call: &Call) -> Result<Space> {
        let mut link = self.lease(call)?;
        let space = link.space(call, &self.config.root)?;
        Ok(space
            .map_or_else(Space::default, |s| Space { total: Some(s.total), free: Some(s.free.min(s.total)) }))
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        super::check::check(self, call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        super::list::list(self, call, dir, recursive, page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        let mut link = self.lease(call)?;
        if path.is_root() {
            // Where the root is a link, what it leads to.
            let dir = super::list::open_dir(self, &mut link, call, path)?;
            super::list::close_dir(&mut link, call, &dir)?;
            return Ok(Entry::dir(path.clone()));
        }
        let attrs = self.lstat(&mut link, call, path)?;
        Ok(entry(path.clone(), &attrs))
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

    fn delete_batch(&self, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        super::change::delete_batch(self, call, items)
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        super::change::rename(self, call, from, to, expect)
    }

    fn make_dir(&self, call: &Call, path: &TargetPath) -> Result<()> {
        let mut link = self.lease(call)?;
        self.make_dirs(&mut link, call, path)
    }

    fn set_attributes(&self, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        super::change::set_attributes(self, call, path, attributes)
    }

    fn digest(&self, call: &Call, object: &Object, algorithm: &str, range: Option<Range>) -> Result<Digest> {
        super::digest::digest(self, call, object, algorithm, range)
    }

    fn close(&self, _deadline: Duration) {
        self.pool.close();
    }
}

/// Adds the hint that fits where the target's folder itself is missing.
pub(super) fn root_hint(error: Error, path: &TargetPath) -> Error {
    if path.is_root() && *error.kind() == ErrorKind::NotFound {
        return with_hint(error, "check the path in the URL, and that its disk is mounted on the server");
    }
    error
}
