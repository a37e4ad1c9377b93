//! Each method: the fault that is due, then the folder's own method, within the capabilities claimed.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Digest, Entry, Error, ErrorKind, Expect, Object,
    Opened, Page, Plugin, PublishRequest, Range, Replace, Result, Resume, ResumeFrom, Session, Sink, Source,
    Space, StageRequest, Staged, StagedInfo, TargetPath, Token,
};
use serde::Deserialize;

use crate::facts::Facts;
use crate::fault::{Effect, Faults, Written, is_left_out};
use crate::source::{Tampered, TamperedSink, Weaker};
use crate::store::Folder;

pub struct ChaosPlugin;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Options {
    fault: Vec<Written>,
    counter_dir: Option<String>,
    capabilities: serde_json::Map<String, serde_json::Value>,
    log: Option<String>,
}

impl Plugin for ChaosPlugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        let invalid = |e: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidConfig, format!("chaos: {e}"));
        let options: Options = match target.options {
            serde_json::Value::Null => Options::default(),
            given => Options::deserialize(given).map_err(|e| invalid(&e))?,
        };
        let path = target.url.strip_prefix("chaos:").unwrap_or(target.url);
        let chaos = Chaos {
            folder: Folder::open_at(path, &serde_json::Value::Null)?,
            faults: Faults::new(options.fault, options.counter_dir.as_deref())?,
            facts: Facts::new(options.counter_dir.as_deref()),
            claimed: options.capabilities,
        };
        if let Some(text) = options.log {
            tracing::info!("{text}");
        }
        chaos.faults.meet("open", None)?;
        let opened = target.host.state_get("opened")?.map_or(0, |v| v.len());
        target.host.state_put("opened", &vec![b'.'; (opened + 1).min(9)])?;
        Ok(Box::new(chaos))
    }
}

pub struct Chaos {
    folder: Folder,
    faults: Faults,
    facts: Facts,
    claimed: serde_json::Map<String, serde_json::Value>,
}

impl Chaos {
    fn claimed(&self, call: &Call) -> Result<Capabilities> {
        let mut own = serde_json::to_value(self.folder.capabilities(call)?).expect("capabilities serialise");
        overlay(&mut own, &serde_json::Value::Object(self.claimed.clone()));
        serde_json::from_value(own).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, format!("chaos: the capabilities are wrong: {e}"))
        })
    }

    /// A server that cannot replace refuses a name that exists, whatever was asked.
    fn may_replace(&self, call: &Call, path: &TargetPath) -> Result<()> {
        self.facts.may_change(path)?;
        if self.claimed(call)?.replace == Replace::None && self.folder.stat(call, path).is_ok() {
            let what = format!("'{}' exists, and this server cannot replace a name", path.display());
            return Err(Error::new(ErrorKind::Exists, what));
        }
        Ok(())
    }

    fn told(&self, mut entry: Entry, effect: Option<Effect>) -> Entry {
        self.facts.add_to(&mut entry);
        if effect == Some(Effect::LieSize) {
            entry.size += 1;
        }
        entry
    }
}

fn overlay(own: &mut serde_json::Value, claimed: &serde_json::Value) {
    match (own, claimed) {
        (serde_json::Value::Object(own), serde_json::Value::Object(claimed)) => {
            for (key, value) in claimed {
                overlay(own.entry(key.clone()).or_insert(serde_json::Value::Null), value);
            }
        }
        (own, claimed) => *own = claimed.clone(),
    }
}

fn sink(inner: Arc<dyn Sink>, effect: Option<Effect>) -> Arc<dyn Sink> {
    match effect {
        None => inner,
        Some(effect) => Arc::new(TamperedSink {
            inner,
            effect,
            passed: AtomicU64::new(0),
            flipped: AtomicBool::new(false),
        }),
    }
}

impl Backend for Chaos {
    fn identity(&self) -> String {
        let _ = self.faults.meet("identity", None);
        format!("chaos:{}", self.folder.identity())
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        self.faults.meet("capabilities", Some(call))?;
        self.claimed(call)
    }

    fn space(&self, call: &Call) -> Result<Space> {
        self.faults.meet("space", Some(call))?;
        self.folder.space(call)
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        self.faults.meet("check", Some(call))?;
        self.folder.check(call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        let effect = self.faults.meet("list", Some(call))?;
        let mut page = self.folder.list(call, dir, recursive, page)?;
        if matches!(effect, Some(Effect::Hide | Effect::Skip)) {
            page.entries.retain(|entry| !is_left_out(entry.path.name()));
        }
        if effect == Some(Effect::Skip) {
            page.incomplete.push((dir.clone(), "a line is of no known form".to_owned()));
        }
        page.entries = page.entries.into_iter().map(|entry| self.told(entry, effect)).collect();
        Ok(page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        let effect = self.faults.meet("stat", Some(call))?;
        Ok(self.told(self.folder.stat(call, path)?, effect))
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        let effect = self.faults.meet("stage", Some(call))?;
        let capabilities = self.claimed(call)?;
        let mut request = request.clone();
        request.streams = request.streams.min(capabilities.parallel_ranges.max(1));
        match capabilities.resume {
            Resume::None => request.resume = None,
            Resume::Offset => {
                request.streams = 1;
                request.resume = request.resume.and_then(|r| {
                    let first = r.ranges.first().copied().filter(|first| first.offset == 0)?;
                    Some(ResumeFrom { token: r.token, ranges: vec![first] })
                });
            }
            Resume::Ranges | Resume::Parts => {}
        }
        let size = request.size;
        let source: Arc<dyn Source> = match effect {
            None => source,
            Some(effect) => Arc::new(Tampered { inner: source, effect, passed: AtomicU64::new(0) }),
        };
        if effect == Some(Effect::ShortWrite) {
            request.size /= 2;
            request.resume = None;
        }
        let session: Arc<dyn Session> = Arc::new(Weaker { inner: session, capabilities });
        let mut staged = self.folder.stage(call, &request, source, session)?;
        match effect {
            Some(Effect::ShortWrite) => staged.size = size,
            Some(Effect::LieSize) => staged.size += 1,
            _ => {}
        }
        Ok(staged)
    }

    fn stat_staged(&self, call: &Call, token: &Token) -> Result<StagedInfo> {
        let effect = self.faults.meet("stat_staged", Some(call))?;
        let mut info = self.folder.stat_staged(call, token)?;
        if effect == Some(Effect::LieSize) {
            info.bytes += 1;
        }
        Ok(info)
    }

    fn read_staged(&self, call: &Call, token: &Token, range: Range, to: Arc<dyn Sink>) -> Result<()> {
        let effect = self.faults.meet("read_staged", Some(call))?;
        if !self.claimed(call)?.staged_readable {
            return Err(Error::unsupported("reading staged bytes"));
        }
        self.folder.read_staged(call, token, range, sink(to, effect))
    }

    fn list_staged(&self, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        self.faults.meet("list_staged", Some(call))?;
        self.folder.list_staged(call, dir)
    }

    fn discard(&self, call: &Call, token: &Token) -> Result<()> {
        self.faults.meet("discard", Some(call))?;
        self.folder.discard(call, token)
    }

    fn publish(&self, call: &Call, request: &PublishRequest) -> Result<Entry> {
        let effect = self.faults.meet("publish", Some(call))?;
        let mut request = request.clone();
        // A repeat after success is answered before anything is refused.
        let repeat = self.folder.stat_staged(call, &request.token).is_err();
        if !repeat {
            self.may_replace(call, &request.path)?;
        }
        if !self.claimed(call)?.conditional_publish {
            request.expect = Expect::Any;
        }
        let entry = self.folder.publish(call, &request)?;
        self.facts.put(&request.path, &Attributes { mtime: None, ..request.attributes.clone() });
        Ok(self.told(entry, effect))
    }

    fn get(
        &self,
        call: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        to: Arc<dyn Sink>,
    ) -> Result<()> {
        let effect = self.faults.meet("get", Some(call))?;
        self.folder.get(call, path, range, if_version, sink(to, effect))
    }

    fn delete(&self, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        self.faults.meet("delete", Some(call))?;
        self.facts.may_change(path)?;
        let any = Expect::Any;
        let expect = if self.claimed(call)?.conditional_publish { expect } else { &any };
        self.folder.delete(call, path, expect)
    }

    fn delete_batch(&self, call: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        self.faults.meet("delete_batch", Some(call))?;
        let one = |(path, expect): &(TargetPath, Expect)| {
            self.facts.may_change(path)?;
            self.folder.delete(call, path, expect)
        };
        Ok(items.iter().map(one).collect())
    }

    fn copy(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        self.faults.meet("copy", Some(call))?;
        if !self.claimed(call)?.copy {
            return Err(Error::unsupported("copying at the server"));
        }
        self.may_replace(call, to)?;
        self.folder.copy(call, from, to, expect)
    }

    fn rename(&self, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        let effect = self.faults.meet("rename", Some(call))?;
        if !self.claimed(call)?.rename {
            return Err(Error::unsupported("renaming"));
        }
        self.facts.may_change(from)?;
        self.may_replace(call, to)?;
        Ok(self.told(self.folder.rename(call, from, to, expect)?, effect))
    }

    fn make_dir(&self, call: &Call, path: &TargetPath) -> Result<()> {
        self.faults.meet("make_dir", Some(call))?;
        self.folder.make_dir(call, path)
    }

    fn set_attributes(&self, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        let effect = self.faults.meet("set_attributes", Some(call))?;
        if attributes.retention.is_some() && !self.claimed(call)?.retention {
            return Err(Error::unsupported("retention"));
        }
        self.facts.put(path, &Attributes { mtime: None, ..attributes.clone() });
        let rest = Attributes { retention: None, ..attributes.clone() };
        Ok(self.told(self.folder.set_attributes(call, path, &rest)?, effect))
    }

    fn digest(&self, call: &Call, object: &Object, algorithm: &str, range: Option<Range>) -> Result<Digest> {
        let effect = self.faults.meet("digest", Some(call))?;
        if algorithm != "blake3" || !self.claimed(call)?.digests.iter().any(|d| d == algorithm) {
            return Err(Error::unsupported(&format!("the digest '{algorithm}'")));
        }
        let hash = Arc::new(Hash(Mutex::new(blake3::Hasher::new())));
        let to = sink(hash.clone(), effect);
        match object {
            Object::Path(path) => self.folder.get(call, path, range, None, to)?,
            Object::Staged(token) => {
                let size = self.folder.stat_staged(call, token)?.bytes;
                self.folder.read_staged(
                    call,
                    token,
                    range.unwrap_or(Range { offset: 0, length: size }),
                    to,
                )?;
            }
        }
        let value = hash.0.lock().unwrap_or_else(PoisonError::into_inner).finalize().as_bytes().to_vec();
        Ok(Digest { algorithm: algorithm.to_owned(), value })
    }

    fn invoke(
        &self,
        call: &Call,
        operation: &str,
        json: &str,
        source: Option<Arc<dyn Source>>,
        to: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        self.faults.meet("invoke", Some(call))?;
        match operation {
            // Says back what it was given, and copies the source's first bytes to the sink.
            "echo" => {
                if let (Some(source), Some(to)) = (source, to) {
                    let mut bytes = vec![0; source.size().min(4096) as usize];
                    let read = source.read_at(0, &mut bytes)?;
                    to.write(&bytes[..read])?;
                }
                Ok(json.to_owned())
            }
            other => self.folder.invoke(call, other, json, source, to),
        }
    }

    fn close(&self, deadline: Duration) {
        let _ = self.faults.meet("close", None);
        self.folder.close(deadline);
    }
}

struct Hash(Mutex<blake3::Hasher>);

impl Sink for Hash {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).update(bytes);
        Ok(())
    }
}
