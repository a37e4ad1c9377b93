//! A backend that keeps everything in memory and does what the contract says; with the option `flaw` it breaks exactly
//! one promise. The conformance kit is tested with it, and so is the boundary.
#![allow(clippy::unwrap_used, dead_code)]

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use offsite_plugin_api::*;

use store::{File, Shared, Store, Upload, add_dirs, gaps, info, merge};

pub struct Memory;

offsite_plugin_api::export_backend! {
    plugin: Memory,
    metadata: {
        id: "memory",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "Keeps files in memory, for tests",
        schemes: [("memory", None)],
        options: r#"{"type":"object","properties":{"flaw":{"type":"string"}}}"#,
    }
}

pub use __offsite_export::Exported;

/// One store per URL, for the life of the process: opening it again is another process on the same target.
static STORES: Mutex<BTreeMap<String, Shared>> = Mutex::new(BTreeMap::new());

impl Plugin for Memory {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        let store = STORES.lock().unwrap().entry(target.url.to_owned()).or_default().clone();
        let flaw = target.options["flaw"].as_str().unwrap_or_default().to_owned();
        Ok(Box::new(Opened1 { url: target.url.to_owned(), store, flaw, host: target.host }))
    }
}

struct Opened1 {
    url: String,
    store: Shared,
    flaw: String,
    host: Arc<dyn Host>,
}

const PIECE: u64 = 256 * 1024;
const INTERVAL: u64 = 64 * 1024 * 1024;

fn error(kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, what)
}

impl Opened1 {
    fn flawed(&self, flaw: &str) -> bool {
        self.flaw == flaw
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn entry(&self, store: &Store, path: &TargetPath) -> Result<Entry> {
        if let Some(file) = store.files.get(path) {
            let mut entry = Entry::file(path.clone(), file.bytes.len() as u64);
            entry.version = Some(file.version.to_string());
            entry.mtime = file.mtime;
            return Ok(entry);
        }
        if path.is_root() || store.dirs.contains(path) {
            return Ok(Entry::dir(path.clone()));
        }
        Err(error(ErrorKind::NotFound, "no such file").with_context("path", path.display()))
    }

    fn expect(&self, store: &Store, path: &TargetPath, expect: &Expect) -> Result<()> {
        let found = store.files.get(path).map(|f| f.version.to_string());
        match (expect, found) {
            (Expect::Absent, Some(_)) if !self.flawed("overwrites") => {
                Err(error(ErrorKind::Exists, "exists"))
            }
            (Expect::Version(want), found)
                if found.as_ref() != Some(want) && !self.flawed("ignores versions") =>
            {
                Err(error(ErrorKind::PreconditionFailed, "another version"))
            }
            _ => Ok(()),
        }
    }

    fn name_fits(&self, path: &TargetPath) -> Result<()> {
        if path.components().any(|c| c.len() > 255) {
            return Err(error(ErrorKind::NameRefused, "a name is too long"));
        }
        Ok(())
    }

    fn put(
        &self,
        store: &mut Store,
        path: &TargetPath,
        bytes: Arc<Vec<u8>>,
        mtime: Option<Timestamp>,
    ) -> u64 {
        store.counter += 1;
        let version = store.counter;
        store.files.insert(path.clone(), File { bytes, version, mtime });
        add_dirs(store, path.parent());
        version
    }

    fn send(&self, sink: &dyn Sink, call: &Call, bytes: &[u8], range: Option<Range>) -> Result<()> {
        let (start, end) = range.map_or((0, bytes.len()), |r| (r.offset as usize, r.end() as usize));
        let extra = usize::from(self.flawed("range one too long") && range.is_some());
        let end = (end + extra).min(bytes.len());
        for piece in bytes.get(start..end).unwrap_or_default().chunks(PIECE as usize) {
            if !self.flawed("deaf to cancellation") {
                call.proceed()?;
            }
            let result = sink.write(piece);
            if !self.flawed("swallows sink errors") {
                result?;
            }
        }
        Ok(())
    }
}

impl Backend for Opened1 {
    fn identity(&self) -> String {
        if self.flawed("identity changes") {
            self.store().counter += 1;
            return self.store().counter.to_string();
        }
        self.url.clone()
    }

    fn capabilities(&self, _: &Call) -> Result<Capabilities> {
        Ok(Capabilities {
            durable_checkpoints: true,
            resume: Resume::Ranges,
            replace: Replace::Atomic,
            conditional_publish: true,
            staged_readable: true,
            mtime_precision_ns: Some(1),
            digests: vec!["crc32".into()],
            copy: true,
            rename: true,
            ..Capabilities::default()
        })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        report.add("list", StepResult::Passed, "");
        if self.flawed("check leaves debris") {
            self.make_dir(call, &TargetPath::new("debris")?)?;
        }
        let _ = self.host.state_get("x")?;
        Ok(report)
    }

    fn list(&self, _: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        let store = self.store();
        if self.entry(&store, dir).is_err() {
            return if self.flawed("lists the missing") {
                Ok(Page::default())
            } else {
                Err(error(ErrorKind::NotFound, "no such directory"))
            };
        }
        let all =
            store.files.keys().chain(&store.dirs).filter(|p| {
                *p != dir && p.starts_with(dir) && (recursive || p.parent().as_ref() == Some(dir))
            });
        let hidden = self.flawed("leaves files out of listings");
        let sorted: BTreeSet<_> = all.filter(|p| !hidden || !store.files.contains_key(*p)).cloned().collect();
        let after = page.map(|p| TargetPath::new(p).unwrap());
        let mut left = sorted.into_iter().filter(|p| after.as_ref().is_none_or(|a| p > a));
        let mut found = Page::default();
        for path in left.by_ref().take(50) {
            found.entries.push(self.entry(&store, &path)?);
        }
        if self.flawed("always leaves something out") {
            found.incomplete.push((dir.clone(), "a line of no known form".to_owned()));
        }
        if left.next().is_some() && !self.flawed("one page only") {
            found.next = found.entries.last().map(|e| e.path.as_bytes().to_vec());
        }
        Ok(found)
    }

    fn stat(&self, _: &Call, path: &TargetPath) -> Result<Entry> {
        self.entry(&self.store(), path)
    }

    fn stage(
        &self,
        call: &Call,
        req: &StageRequest,
        src: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        let token = match &req.resume {
            Some(resume) if !self.flawed("resumes from nothing") => {
                if !self.store().uploads.contains_key(&resume.token) {
                    return Err(error(ErrorKind::StaleToken, "nothing is staged"));
                }
                resume.token.clone()
            }
            _ => {
                let token = Token(req.staging.as_bytes().to_vec());
                let upload = Upload {
                    path: req.path.clone(),
                    owner: if self.flawed("forgets the owner") { String::new() } else { req.owner.clone() },
                    bytes: vec![0; req.size as usize],
                    ranges: Vec::new(),
                    mtime: req.attributes.mtime,
                };
                self.store().uploads.insert(token.clone(), upload);
                token
            }
        };
        let known = req.resume.as_ref().map(|r| r.ranges.clone()).unwrap_or_default();
        let todo = if self.flawed("resends all") { gaps(&[], req.size) } else { gaps(&known, req.size) };
        let mut since = 0;
        let mut buf = vec![0; PIECE as usize];
        for gap in todo {
            let mut at = gap.offset;
            while at < gap.end() {
                if !self.flawed("deaf to cancellation") {
                    call.proceed()?;
                }
                let room = (gap.end() - at).min(PIECE) as usize;
                let read = match src.read_at(at, &mut buf[..room]) {
                    Err(e) if self.flawed("hides source errors") => {
                        return Err(error(ErrorKind::Other, "reading failed").with_source(e.to_string()));
                    }
                    other => other?,
                };
                if read == 0 && !self.flawed("takes short sources") {
                    return Err(error(ErrorKind::SourceChanged, "the source ended early"));
                }
                let read = if read == 0 { room } else { read };
                if !self.flawed("does not pace") {
                    let paced = call.pace(read as u64);
                    if !self.flawed("deaf to cancellation") {
                        paced?;
                    }
                }
                let mut store = self.store();
                let upload = store.uploads.get_mut(&token).unwrap();
                upload.bytes[at as usize..at as usize + read].copy_from_slice(&buf[..read]);
                merge(&mut upload.ranges, Range { offset: at, length: read as u64 });
                let ranges = upload.ranges.clone();
                drop(store);
                if !self.flawed("does not acknowledge") {
                    call.acked(read as u64);
                }
                at += read as u64;
                since += read as u64;
                if since >= INTERVAL && !self.flawed("no checkpoints") {
                    since = 0;
                    let result = session.checkpoint(&token, &ranges, true);
                    if !self.flawed("ignores checkpoint errors") {
                        result?;
                    }
                }
            }
        }
        if self.flawed("visible at once") {
            let mut store = self.store();
            let bytes = Arc::new(store.uploads[&token].bytes.clone());
            self.put(&mut store, &req.path, bytes, None);
        }
        Ok(Staged { token, size: req.size, digests: Vec::new() })
    }

    fn stat_staged(&self, _: &Call, token: &Token) -> Result<StagedInfo> {
        match self.store().uploads.get(token) {
            Some(upload) => Ok(info(token, upload)),
            None => Err(error(ErrorKind::NotFound, "nothing is staged")),
        }
    }

    fn read_staged(&self, call: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        let bytes = match self.store().uploads.get(token) {
            Some(upload) => upload.bytes.clone(),
            None => return Err(error(ErrorKind::NotFound, "nothing is staged")),
        };
        self.send(&*sink, call, &bytes, Some(range))
    }

    fn list_staged(&self, _: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        let store = self.store();
        Ok(store.uploads.iter().filter(|(_, u)| u.path.starts_with(dir)).map(|(t, u)| info(t, u)).collect())
    }

    fn discard(&self, _: &Call, token: &Token) -> Result<()> {
        if self.flawed("keeps the discarded") {
            return Ok(());
        }
        let found = self.store().uploads.remove(token);
        if found.is_none() && self.flawed("discards once") {
            return Err(error(ErrorKind::NotFound, "nothing is staged"));
        }
        Ok(())
    }

    fn publish(&self, _: &Call, request: &PublishRequest) -> Result<Entry> {
        self.name_fits(&request.path)?;
        let mut store = self.store();
        let Some(upload) = store.uploads.get(&request.token) else {
            if let Some((path, version)) = store.published.get(&request.token)
                && store.files.get(path).is_some_and(|f| f.version == *version)
                && !self.flawed("publishes once")
            {
                return self.entry(&store, path);
            }
            return Err(error(ErrorKind::StaleToken, "nothing is staged"));
        };
        if !gaps(&upload.ranges, request.size).is_empty() && !self.flawed("publishes halves") {
            return Err(error(ErrorKind::PreconditionFailed, "the staging is not complete"));
        }
        self.expect(&store, &request.path, &request.expect)?;
        if self.flawed("gap at replace") {
            store.files.remove(&request.path);
            drop(store);
            std::thread::sleep(Duration::from_millis(40));
            store = self.store();
        }
        let upload = store.uploads.remove(&request.token).unwrap();
        let mut bytes = upload.bytes;
        if self.flawed("loses the last byte") {
            bytes.pop();
        }
        if self.flawed("flips a bit")
            && let Some(byte) = bytes.last_mut()
        {
            *byte ^= 1;
        }
        let path = if self.flawed("lowers case") {
            TargetPath::new(request.path.as_bytes().to_ascii_lowercase())?
        } else {
            request.path.clone()
        };
        let mtime = request.attributes.mtime.or(upload.mtime).filter(|_| !self.flawed("forgets times"));
        let version = self.put(&mut store, &path, Arc::new(bytes), mtime);
        store.published.insert(request.token.clone(), (path.clone(), version));
        self.entry(&store, &path)
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        let file = self
            .store()
            .files
            .get(path)
            .cloned()
            .ok_or_else(|| error(ErrorKind::NotFound, "no such file"))?;
        if if_version.is_some_and(|v| v != file.version.to_string()) && !self.flawed("ignores versions") {
            return Err(error(ErrorKind::PreconditionFailed, "another version"));
        }
        self.send(&*sink, call, &file.bytes, range)
    }

    fn delete(&self, _: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        let mut store = self.store();
        match self.entry(&store, path) {
            Err(_) if self.flawed("deletes the missing") => return Ok(()),
            other => other?,
        };
        self.expect(&store, path, expect)?;
        if store.dirs.contains(path) {
            let full = store.files.keys().chain(&store.dirs).any(|p| p != path && p.starts_with(path));
            if full && !self.flawed("deletes trees") {
                return Err(error(ErrorKind::Other, "the directory is not empty"));
            }
            store.files.retain(|p, _| !p.starts_with(path));
            store.dirs.retain(|p| !p.starts_with(path));
        }
        store.files.remove(path);
        Ok(())
    }

    fn delete_batch(&self, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        let skip = usize::from(self.flawed("short batches") && !items.is_empty());
        Ok(items.iter().skip(skip).map(|(path, expect)| self.delete(call, path, expect)).collect())
    }

    fn copy(&self, _: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        let mut store = self.store();
        let file =
            store.files.get(from).cloned().ok_or_else(|| error(ErrorKind::NotFound, "no such file"))?;
        if !self.flawed("copies over") {
            self.expect(&store, to, expect)?;
        }
        self.put(&mut store, to, file.bytes, file.mtime);
        self.entry(&store, to)
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        let entry = self.copy(call, from, to, expect)?;
        if !self.flawed("renames by copying") {
            self.store().files.remove(from);
        }
        Ok(entry)
    }

    fn make_dir(&self, _: &Call, path: &TargetPath) -> Result<()> {
        let mut store = self.store();
        if store.dirs.contains(path) && self.flawed("makes once") {
            return Err(error(ErrorKind::Exists, "exists"));
        }
        add_dirs(&mut store, Some(path.clone()));
        Ok(())
    }

    fn set_attributes(&self, _: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        let mut store = self.store();
        let file = store.files.get_mut(path).ok_or_else(|| error(ErrorKind::NotFound, "no such file"))?;
        if !self.flawed("forgets times") {
            file.mtime = attributes.mtime.or(file.mtime);
        }
        self.entry(&store, path)
    }

    fn digest(&self, _: &Call, object: &Object, algorithm: &str, range: Option<Range>) -> Result<Digest> {
        if algorithm != "crc32" && !self.flawed("any digest") {
            return Err(Error::unsupported(algorithm));
        }
        let store = self.store();
        let bytes: &[u8] = match object {
            Object::Path(path) => {
                &store.files.get(path).ok_or_else(|| error(ErrorKind::NotFound, "none"))?.bytes
            }
            Object::Staged(token) => {
                &store.uploads.get(token).ok_or_else(|| error(ErrorKind::NotFound, "none"))?.bytes
            }
        };
        let range = range.unwrap_or(Range { offset: 0, length: bytes.len() as u64 });
        let mut crc = !u32::from(self.flawed("wrong digests"));
        for byte in &bytes[range.offset as usize..range.end() as usize] {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1));
            }
        }
        Ok(Digest { algorithm: algorithm.into(), value: (!crc).to_be_bytes().to_vec() })
    }

    fn invoke(
        &self,
        _: &Call,
        operation: &str,
        _: &str,
        _: Option<Arc<dyn Source>>,
        _: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        if self.flawed("knows everything") { Ok("{}".into()) } else { Err(Error::unsupported(operation)) }
    }

    fn close(&self, deadline: Duration) {
        if self.flawed("closes slowly") {
            std::thread::sleep(deadline * 3);
        }
    }
}
