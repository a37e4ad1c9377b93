//! A target in memory: small, honest, with switchable capabilities, failing or "killed" at a chosen mutating call.
//!
//! Killing unwinds the test's thread through `killpoint`, before and after every change, so nothing of the code under
//! test runs after it. What was changed stays: a second [`Mem`] on the same [`Disk`] is the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Entry, EntryKind, Error, ErrorKind, Expect, Page,
    PublishRequest, Range, Replace, Result, Resume, Session, Sink, Source, StageRequest, Staged, StagedInfo,
    TargetPath, Timestamp, Token,
};

use crate::run::killpoint;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemFile {
    pub bytes: Vec<u8>,
    pub mtime: i64,
    /// Counted up with every file made: the version.
    pub serial: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct MemStaged {
    pub path: TargetPath,
    pub owner: String,
    pub bytes: Vec<u8>,
}

/// What outlives a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub files: BTreeMap<TargetPath, MemFile>,
    pub staged: BTreeMap<TargetPath, MemStaged>,
    /// Files that cannot be read for now, and names that are directories'.
    pub locked: BTreeSet<TargetPath>,
    pub directories: BTreeSet<TargetPath>,
    /// Names with this in them are refused when they are published.
    pub refused: BTreeSet<String>,
    /// Files that no listing shows, and directories that are not listed wholly.
    pub unlisted: BTreeSet<TargetPath>,
    pub incomplete: Vec<(TargetPath, String)>,
    pub serial: u64,
    /// Names asked for.
    pub asked: u64,
    /// Answers `place`, when set.
    pub place: Option<String>,
    /// Mutating calls made.
    calls: u64,
    /// This call (from 1) fails as if the connection broke: before its effect, or after it (true).
    pub fail: Option<(u64, bool)>,
    /// After that call every call fails, reads too: the target went away.
    pub gone: bool,
    /// Published files lose their last byte.
    pub lossy: bool,
    /// Seconds since stagings changed, where the server tells.
    pub age: Option<u64>,
    /// Entries of a page.
    pub page: usize,
}

impl Disk {
    /// Mutating calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }
}

#[derive(Clone)]
pub(crate) struct Mem {
    pub disk: Arc<Mutex<Disk>>,
    pub capabilities: Capabilities,
    /// Whether entries have versions.
    pub versions: bool,
}

impl Mem {
    /// Atomic replace, conditions, versions.
    pub fn atomic() -> Self {
        let capabilities = Capabilities {
            durable_checkpoints: true,
            resume: Resume::Ranges,
            replace: Replace::Atomic,
            conditional_publish: true,
            staged_readable: true,
            mtime_precision_ns: Some(1),
            rename: true,
            ..Capabilities::default()
        };
        let disk = Disk { page: 3, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)), capabilities, versions: true }
    }

    /// Neither atomic replace nor conditions; renames only.
    pub fn swapping() -> Self {
        let mut mem = Self::atomic();
        mem.capabilities.replace = Replace::None;
        mem.capabilities.conditional_publish = false;
        mem
    }

    /// As [`Mem::swapping`], and its entries have no version.
    pub fn plain() -> Self {
        Self { versions: false, ..Self::swapping() }
    }

    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of a file.
    pub fn content(&self, path: &TargetPath) -> Option<Vec<u8>> {
        self.disk().files.get(path).map(|f| f.bytes.clone())
    }

    /// Puts a file there, as somebody else would.
    pub fn put(&self, path: &TargetPath, bytes: &[u8], mtime: i64) {
        let mut disk = self.disk();
        disk.serial += 1;
        let file = MemFile { bytes: bytes.to_vec(), mtime, serial: disk.serial };
        disk.files.insert(path.clone(), file);
    }

    fn entry(&self, path: &TargetPath, file: &MemFile) -> Entry {
        let mut entry = Entry::file(path.clone(), file.bytes.len() as u64);
        entry.mtime = Some(Timestamp { ns: file.mtime, precision_ns: 1 });
        entry.version = self.versions.then(|| file.serial.to_string());
        entry
    }

    fn read(&self) -> Result<()> {
        if self.disk().gone { Err(Error::new(ErrorKind::Unreachable, "the target is gone")) } else { Ok(()) }
    }

    /// One change, between two kill points, failing when it is to.
    fn change<T>(&self, what: &str, act: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        self.read()?;
        killpoint::reach(what);
        let lost = |disk: &mut Disk| {
            disk.gone = true;
            Err(Error::new(ErrorKind::Interrupted, "the connection broke"))
        };
        let mut disk = self.disk();
        disk.calls += 1;
        let fail = disk.fail.filter(|(at, _)| *at == disk.calls).map(|(_, after)| after);
        if fail == Some(false) {
            return lost(&mut disk);
        }
        let result = act(&mut disk);
        if fail == Some(true) {
            return lost(&mut disk);
        }
        drop(disk);
        killpoint::reach(what);
        result
    }

    fn meets(&self, disk: &Disk, path: &TargetPath, expect: &Expect) -> Result<()> {
        let found = disk.files.get(path);
        match expect {
            Expect::Absent if found.is_some() => Err(Error::new(ErrorKind::Exists, "it exists")),
            Expect::Version(v) if found.is_none_or(|f| self.entry(path, f).version.as_ref() != Some(v)) => {
                Err(Error::new(ErrorKind::PreconditionFailed, "another version"))
            }
            _ => Ok(()),
        }
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "no such file")
}

fn staging_of(token: &Token) -> Result<TargetPath> {
    TargetPath::new(token.0.clone())
}

impl Backend for Mem {
    fn identity(&self) -> String {
        "mem".into()
    }

    fn capabilities(&self, _: &Call) -> Result<Capabilities> {
        Ok(self.capabilities.clone())
    }

    fn check(&self, _: &Call) -> Result<CheckReport> {
        Err(Error::unsupported("check"))
    }

    fn list(&self, _: &Call, dir: &TargetPath, _: bool, page: Option<&[u8]>) -> Result<Page> {
        self.read()?;
        let disk = self.disk();
        let staged = disk.staged.iter().map(|(p, s)| Entry::file(p.clone(), s.bytes.len() as u64));
        let files = disk.files.iter().map(|(p, f)| self.entry(p, f));
        let mut all: Vec<Entry> = files.chain(staged).filter(|e| e.path.starts_with(dir)).collect();
        all.retain(|e| !disk.unlisted.contains(&e.path));
        all.sort_by(|a, b| a.path.cmp(&b.path));
        let from = page.map_or(0, |p| usize::from_le_bytes(p.try_into().unwrap()));
        let next = from + disk.page;
        let more = (next < all.len()).then(|| next.to_le_bytes().to_vec());
        let entries = all.into_iter().skip(from).take(disk.page).collect();
        Ok(Page { entries, next: more, incomplete: disk.incomplete.clone() })
    }

    fn stat(&self, _: &Call, path: &TargetPath) -> Result<Entry> {
        self.read()?;
        let mut disk = self.disk();
        disk.asked += 1;
        if disk.directories.contains(path) {
            return Ok(Entry { kind: EntryKind::Dir, ..Entry::file(path.clone(), 0) });
        }
        disk.files.get(path).map(|f| self.entry(path, f)).ok_or_else(missing)
    }

    fn stage(
        &self,
        _: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        let token = Token(request.staging.as_bytes().to_vec());
        let mut bytes = vec![0; usize::try_from(request.size).unwrap()];
        source.read_at(0, &mut bytes)?;
        let half = bytes.len() / 2;
        for end in [half, bytes.len()] {
            self.change("mem.stage", |disk| {
                let staged = MemStaged {
                    path: request.path.clone(),
                    owner: request.owner.clone(),
                    bytes: bytes[..end].to_vec(),
                };
                disk.staged.insert(request.staging.clone(), staged);
                Ok(())
            })?;
            session.checkpoint(&token, &[Range { offset: 0, length: end as u64 }], true)?;
        }
        Ok(Staged { token, size: request.size, digests: Vec::new() })
    }

    fn stat_staged(&self, _: &Call, token: &Token) -> Result<StagedInfo> {
        self.read()?;
        let staging = staging_of(token)?;
        let disk = self.disk();
        let staged = disk.staged.get(&staging).ok_or_else(missing)?;
        Ok(StagedInfo {
            token: token.clone(),
            // As the unfinished uploads of an object store: they have an image's path, and nobody's name.
            path: Some(if staged.owner.is_empty() { staged.path.clone() } else { staging }),
            owner: staged.owner.clone(),
            bytes: staged.bytes.len() as u64,
            age: disk.age,
        })
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        let names: Vec<TargetPath> =
            self.disk().staged.keys().filter(|p| p.starts_with(dir)).cloned().collect();
        names.iter().map(|p| self.stat_staged(call, &Token(p.as_bytes().to_vec()))).collect()
    }

    fn discard(&self, _: &Call, token: &Token) -> Result<()> {
        let staging = staging_of(token)?;
        self.change("mem.discard", |disk| {
            disk.staged.remove(&staging);
            Ok(())
        })
    }

    fn publish(&self, _: &Call, request: &PublishRequest) -> Result<Entry> {
        if self.disk().refused.iter().any(|part| request.path.display().contains(part.as_str())) {
            return Err(Error::new(ErrorKind::NameRefused, "this name is refused"));
        }
        let staging = staging_of(&request.token)?;
        self.change("mem.publish", |disk| {
            self.meets(disk, &request.path, &request.expect)?;
            if disk.directories.contains(&request.path) {
                return Err(Error::new(ErrorKind::Exists, "it exists"));
            }
            if self.capabilities.replace == Replace::None && disk.files.contains_key(&request.path) {
                return Err(Error::new(ErrorKind::Exists, "this server does not replace"));
            }
            let staged = disk.staged.remove(&staging);
            let staged = staged.ok_or_else(|| Error::new(ErrorKind::StaleToken, "nothing staged"))?;
            disk.serial += 1;
            let mtime = request.attributes.mtime.map_or(disk.serial as i64, |m| m.ns);
            let mut bytes = staged.bytes;
            if disk.lossy {
                bytes.pop();
            }
            let file = MemFile { bytes, mtime, serial: disk.serial };
            let entry = self.entry(&request.path, &file);
            disk.files.insert(request.path.clone(), file);
            Ok(entry)
        })
    }

    fn get(
        &self,
        _: &Call,
        path: &TargetPath,
        range: Option<Range>,
        _: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        self.read()?;
        if self.disk().locked.contains(path) {
            return Err(Error::new(ErrorKind::Locked, "somebody has it open"));
        }
        let bytes = self.content(path).ok_or_else(missing)?;
        let range = range.unwrap_or(Range { offset: 0, length: bytes.len() as u64 });
        let end = usize::try_from(range.end()).unwrap().min(bytes.len());
        sink.write(&bytes[usize::try_from(range.offset).unwrap().min(end)..end])
    }

    fn delete(&self, _: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        self.change("mem.delete", |disk| {
            if !disk.files.contains_key(path) {
                return Err(missing());
            }
            self.meets(disk, path, expect)?;
            disk.files.remove(path);
            Ok(())
        })
    }

    fn rename(&self, _: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        self.change("mem.rename", |disk| {
            self.meets(disk, to, expect)?;
            let file = disk.files.remove(from).ok_or_else(missing)?;
            let entry = self.entry(to, &file);
            disk.files.insert(to.clone(), file);
            Ok(entry)
        })
    }

    fn invoke(
        &self,
        _: &Call,
        operation: &str,
        _: &str,
        _: Option<Arc<dyn Source>>,
        _: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        match &self.disk().place {
            Some(place) if operation == "place" => Ok(place.clone()),
            _ => Err(Error::unsupported(operation)),
        }
    }

    fn set_attributes(&self, _: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        self.change("mem.attributes", |disk| {
            let file = disk.files.get_mut(path).ok_or_else(missing)?;
            file.mtime = attributes.mtime.map_or(file.mtime, |m| m.ns);
            Ok(self.entry(path, file))
        })
    }
}
