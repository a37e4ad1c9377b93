//! The simulated target: [`Mem`] with what servers differ in, what fails, what others do to it, and a judge that looks
//! after every change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{
    Backend, Call, Capabilities, CheckReport, Entry, Error, ErrorKind, Expect, Page, PublishRequest, Range,
    Result, Session, Sink, Source, Space, StageRequest, Staged, StagedInfo, TargetPath, Timestamp, Token,
};

use super::power::Power;
use super::source::SECOND;
use super::world::World;
use crate::target::tests::mem::{Mem, MemStaged};

/// What a target is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// Replaces a name in one act; else by the journalled swap.
    pub atomic: bool,
    pub versions: bool,
    /// Keeps times in steps of two seconds.
    pub coarse: bool,
    /// Ignores the case of names.
    pub folds: bool,
}

/// What is wrong with it now.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// This changing call (from 1) of the run fails: before its effect, or after it (true).
    pub fail: Option<(u64, bool)>,
    /// At this changing call (from 1) a product goes on with its work.
    pub meanwhile: Option<u64>,
    pub full: bool,
    /// Bytes that all of its files may have.
    pub capacity: Option<usize>,
    /// Leaves every n-th file out of its listing.
    pub hides: Option<u64>,
}

#[derive(Clone)]
pub struct Store {
    pub mem: Mem,
    pub nature: Nature,
    pub trouble: Arc<Mutex<Trouble>>,
    pub power: Arc<Power>,
    pub world: Arc<Mutex<World>>,
    /// Its place among the targets.
    pub number: usize,
    calls: Arc<AtomicU64>,
}

impl Store {
    pub fn new(nature: Nature, number: usize, power: Arc<Power>, world: Arc<Mutex<World>>) -> Self {
        let mut mem = if nature.atomic { Mem::atomic() } else { Mem::swapping() };
        mem.versions = nature.versions;
        mem.capabilities.names.case_sensitive = !nature.folds;
        mem.capabilities.mtime_precision_ns = Some(if nature.coarse { 2_000_000_000 } else { 1 });
        mem.disk().page = 1_000;
        Self { mem, nature, trouble: Arc::default(), power, world, number, calls: Arc::default() }
    }

    /// A new run begins.
    pub fn begins(&self) {
        self.calls.store(0, Ordering::SeqCst);
    }

    pub fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Result<()> {
        match self.power.cut() {
            true => Err(Error::new(ErrorKind::Unreachable, "killed, as far as this test is concerned")),
            false => Ok(()),
        }
    }

    /// The name as it is spelled there.
    pub fn spelled(&self, path: &TargetPath) -> TargetPath {
        if !self.nature.folds {
            return path.clone();
        }
        let disk = self.mem.disk();
        let same = |p: &&TargetPath| p.as_bytes().eq_ignore_ascii_case(path.as_bytes());
        disk.files.keys().find(same).cloned().unwrap_or_else(|| path.clone())
    }

    pub fn used(&self) -> usize {
        let disk = self.mem.disk();
        let files = disk.files.values().map(|f| f.bytes.len()).sum::<usize>();
        files + disk.staged.values().map(|s| s.bytes.len()).sum::<usize>()
    }

    fn fits(&self, size: usize) -> bool {
        let capacity = self.trouble().capacity;
        capacity.is_none_or(|most| self.used() + size <= most)
    }

    fn shown(&self, mut entry: Entry) -> Entry {
        let step = if self.nature.coarse { 2 * SECOND } else { 1 };
        entry.mtime = entry.mtime.map(|t| Timestamp { ns: t.ns - t.ns % step, precision_ns: step as u64 });
        entry
    }

    /// One change: a step of the process, failing when it is to, judged when it is made.
    fn change<T>(&self, what: &'static str, path: &TargetPath, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.power.step() {
            self.alive()?;
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fail = self.trouble().fail.filter(|(at, _)| *at == call).map(|(_, after)| after);
        let broke = || Err(Error::new(ErrorKind::Other, "the server failed, as this story wants it"));
        if self.trouble().meanwhile == Some(call) {
            self.world.lock().unwrap_or_else(PoisonError::into_inner).meanwhile(call as usize);
        }
        if fail == Some(false) {
            return broke();
        }
        let result = act();
        self.judge(what, path);
        if fail == Some(true) { broke() } else { result }
    }

    pub fn judge(&self, what: &'static str, path: &TargetPath) {
        let disk = self.mem.disk();
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.changed(self.number, &disk.files, what, path);
    }
}

fn staging_of(token: &Token) -> TargetPath {
    TargetPath::new(token.0.clone()).unwrap_or_default()
}

impl Backend for Store {
    fn identity(&self) -> String {
        format!("model-{}", self.number)
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        self.mem.capabilities(call)
    }

    fn space(&self, _: &Call) -> Result<Space> {
        let capacity = self.trouble().capacity.map(|c| c as u64);
        Ok(Space { total: capacity, free: capacity.map(|c| c.saturating_sub(self.used() as u64)) })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        self.mem.check(call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, all: bool, page: Option<&[u8]>) -> Result<Page> {
        self.alive()?;
        let mut page = self.mem.list(call, dir, all, page)?;
        let hides = self.trouble().hides;
        let mut entries = Vec::new();
        for (at, entry) in (0u64..).zip(std::mem::take(&mut page.entries)) {
            if hides.is_some_and(|n| at % n == n - 1) && !entry.path.as_bytes().starts_with(b"offsite") {
                continue;
            }
            entries.push(self.shown(entry));
        }
        page.entries = entries;
        Ok(page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        self.alive()?;
        self.mem.stat(call, &self.spelled(path)).map(|e| self.shown(e))
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        let image = !request.path.as_bytes().starts_with(b"offsite");
        self.change("stage", &request.path, || {
            if image && (self.trouble().full || !self.fits(request.size as usize)) {
                return Err(Error::new(ErrorKind::NoSpace, "the target is full"));
            }
            if request.size == 0 {
                let staged =
                    MemStaged { path: request.path.clone(), owner: request.owner.clone(), bytes: Vec::new() };
                self.mem.disk().staged.insert(request.staging.clone(), staged);
                let token = Token(request.staging.as_bytes().to_vec());
                return Ok(Staged { token, size: 0, digests: Vec::new() });
            }
            self.mem.stage(call, request, source, session)
        })
    }

    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo> {
        self.alive()?;
        self.mem.stat_staged(call, token)
    }

    fn read_staged(&self, _: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        self.alive()?;
        let staged = self.mem.disk().staged.get(&staging_of(token)).map(|s| s.bytes.clone());
        let bytes = staged.ok_or_else(|| Error::new(ErrorKind::StaleToken, "nothing staged"))?;
        let (from, end) = (range.offset as usize, (range.end() as usize).min(bytes.len()));
        sink.write(bytes.get(from..end).unwrap_or_default())
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        self.alive()?;
        self.mem.list_staged(call, dir)
    }

    fn discard(&self, call: &Call, token: &Token) -> Result<()> {
        self.change("discard", &staging_of(token), || self.mem.discard(call, token))
    }

    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry> {
        let request = PublishRequest { path: self.spelled(&request.path), ..request.clone() };
        let act = || {
            if self.mem.disk().directories.contains(&request.path) {
                return Err(Error::new(ErrorKind::Exists, "a directory has that name"));
            }
            self.mem.publish(call, &request)
        };
        self.change("publish", &request.path, act).map(|e| self.shown(e))
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        self.alive()?;
        self.mem.get(call, &self.spelled(path), range, version, sink)
    }

    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        let path = self.spelled(path);
        self.change("delete", &path, || self.mem.delete(call, &path, expect))
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        let (from, to) = (self.spelled(from), self.spelled(to));
        self.change("rename", &from, || self.mem.rename(call, &from, &to, expect)).map(|e| self.shown(e))
    }

    fn set_attributes(
        &self,
        call: &Call,
        path: &TargetPath,
        attributes: &offsite_plugin_api::Attributes,
    ) -> Result<Entry> {
        let path = self.spelled(path);
        self.change("set_attributes", &path, || self.mem.set_attributes(call, &path, attributes))
            .map(|e| self.shown(e))
    }
}
