//! The open target: its sessions, and the looks at single names that all else builds on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offsite_plugin_api::{
    Attributes, Backend, Call, Capabilities, CheckReport, Digest, Entry, EntryKind, Error, ErrorKind, Expect,
    NameRules, Object, Opened, Page, Plugin, PublishRequest, Range, Replace, Result, Resume,
    Session as Stage, Sink, Source, Space, StageRequest, Staged, StagedInfo, TargetPath, Timestamp, Token,
};
use rustls::crypto::ring;

use super::config::Config;
use super::error::{Fault, changed, not_found, shown};
use super::facts::{Facts, mlsx, time};
use super::names::below;
use super::pool::Shared;
use super::session::Session;
use super::{change, check, list, read, stage, write};

pub struct FtpPlugin;

impl Plugin for FtpPlugin {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        let ftp = Ftp::open_at(target.url, target.options, &target.secrets)?;
        if let Some(text) = ftp.shared.config.unprotected() {
            let notice = serde_json::json!({ "code": "plain-password", "text": text });
            // A host that knows no notices is no reason not to work.
            let _ = target.host.invoke("notice", &notice.to_string());
        }
        Ok(Box::new(ftp))
    }
}

pub struct Ftp {
    pub(super) shared: Shared,
    /// Directories that were there a moment ago.
    dirs: Mutex<HashSet<TargetPath>>,
    /// Tokens of what this object staged whole: their publish need not look at the staging again.
    fresh: Mutex<HashSet<Token>>,
}

impl Ftp {
    /// Uses no network. Errors: `InvalidConfig`.
    pub fn open_at(
        url: &str,
        options: &serde_json::Value,
        secrets: &offsite_plugin_api::Secrets,
    ) -> Result<Self> {
        let config = Config::new(url, options, secrets)?;
        let provider = Arc::new(ring::default_provider());
        let trust = offsite_plugin_tls::verifier(config.ca_file.as_deref(), provider)?;
        Ok(Self { shared: Shared::new(config, trust), dirs: Mutex::default(), fresh: Mutex::default() })
    }

    pub(super) fn dirs(&self) -> MutexGuard<'_, HashSet<TargetPath>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fresh(&self) -> MutexGuard<'_, HashSet<Token>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has this name.
    pub(super) fn look(&self, call: &Call, path: &TargetPath) -> Result<Option<Facts>> {
        self.shared.on(call, "look at", &shown(path), |session| look(session, path))
    }

    pub(super) fn stat_entry(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        match self.look(call, path)? {
            Some(facts) => entry(path.clone(), &facts),
            None => Err(not_found(path)),
        }
    }

    pub(super) fn expect_version(&self, call: &Call, path: &TargetPath, wanted: &str) -> Result<Entry> {
        let entry = self.stat_entry(call, path)?;
        if entry.kind == EntryKind::File && entry.version.as_deref() == Some(wanted) {
            return Ok(entry);
        }
        Err(changed(path, false))
    }
}

/// What has this name; nothing where the server knows no file and no directory of it.
pub fn look(session: &mut Session, path: &TargetPath) -> Result<Option<Facts>, Fault> {
    let at = below(&session.root, path);
    look_at(session, &at)
}

pub fn look_at(session: &mut Session, at: &str) -> Result<Option<Facts>, Fault> {
    if session.features.mlst {
        let reply = session.command(&format!("MLST {at}"))?;
        match reply.code {
            250 => {
                let line = reply.bytes.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(b" "));
                let found = line.and_then(|line| mlsx(line.trim_ascii_end()));
                let complete =
                    |f: &Facts| f.kind != EntryKind::File || f.size.is_some() && f.modified.is_some();
                if let Some((facts, _)) = found.filter(|(facts, _)| complete(facts)) {
                    return Ok(Some(facts));
                }
            }
            450 | 550 | 553 if denied(&reply) => return Err(Fault::Said(reply)),
            450 | 550 | 553 => return Ok(None),
            // It knows MLSD only.
            _ => {}
        }
    }
    let reply = session.command(&format!("SIZE {at}"))?;
    if reply.code == 213 {
        let size = std::str::from_utf8(reply.rest()).ok().and_then(|text| text.trim().parse().ok());
        let size = size.ok_or_else(|| Fault::Nonsense("the size of a file is no number".to_owned()))?;
        let modified = modified(session, at)?;
        return Ok(Some(Facts { size: Some(size), modified, ..Facts::of(EntryKind::File) }));
    }
    if !matches!(reply.code, 450 | 550..=553) || denied(&reply) {
        return Err(Fault::Said(reply));
    }
    // A directory is what can be gone into. Names are absolute, so that it does not matter where we are.
    if session.moves && session.command(&format!("CWD {at}"))?.good() {
        return Ok(Some(Facts::of(EntryKind::Dir)));
    }
    Ok(None)
}

fn denied(reply: &super::reply::Reply) -> bool {
    reply.says(&["permission denied", "access is denied", "access denied"])
}

pub fn modified(session: &mut Session, at: &str) -> Result<Option<i64>, Fault> {
    if !session.features.mdtm {
        return Ok(None);
    }
    let reply = session.command(&format!("MDTM {at}"))?;
    let text = std::str::from_utf8(reply.rest()).unwrap_or_default();
    Ok(if reply.code == 213 { time(text) } else { None })
}

/// Errors: `Unsupported` for a file whose size the server does not tell.
pub fn entry(path: TargetPath, facts: &Facts) -> Result<Entry> {
    let mtime = facts
        .modified
        .and_then(|s| s.checked_mul(1_000_000_000))
        .map(|ns| Timestamp { ns, precision_ns: 1_000_000_000 });
    Ok(match facts.kind {
        EntryKind::File => {
            let size = facts.size.ok_or_else(|| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("the server does not tell the length of {}", shown(&path)),
                )
            })?;
            Entry { mtime, version: facts.version(), ..Entry::file(path, size) }
        }
        kind => Entry { kind, mtime, ..Entry::dir(path) },
    })
}

impl Backend for Ftp {
    fn identity(&self) -> String {
        self.shared.config.identity()
    }

    fn capabilities(&self, call: &Call) -> Result<Capabilities> {
        let features = self
            .shared
            .on(call, "ask", &self.shared.config.server(), |session| Ok(session.features.clone()))?;
        Ok(Capabilities {
            // FTP has no word for "it is on the disk".
            durable_checkpoints: false,
            resume: Resume::Offset,
            // Some servers refuse a name that is taken, some overwrite: the host swaps.
            replace: Replace::None,
            conditional_publish: false,
            staged_readable: true,
            // Of other bytes some servers take one for two (RFC 959 has commands on Telnet, where 0xFF is special).
            names: NameRules { longest_path: 2048, utf8_only: true, ..NameRules::default() },
            mtime_precision_ns: features.mfmt.then_some(1_000_000_000),
            digests: features.digests.iter().map(|(algorithm, _)| algorithm.clone()).collect(),
            rename: true,
            parallel_ranges: 1,
            ..Capabilities::default()
        })
    }

    fn space(&self, call: &Call) -> Result<Space> {
        let free = self.shared.on(call, "ask the free space of", "the target's folder", |session| {
            if !session.features.avbl {
                return Ok(None);
            }
            let reply = session.command(&format!("AVBL {}", below(&session.root, &TargetPath::root())))?;
            let text = std::str::from_utf8(reply.rest()).unwrap_or_default();
            Ok(if reply.code == 213 { text.trim().parse().ok() } else { None })
        })?;
        Ok(Space { free, total: None })
    }

    fn check(&self, call: &Call) -> Result<CheckReport> {
        check::check(self, call)
    }

    fn list(&self, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        list::list(self, call, dir, recursive, page)
    }

    fn stat(&self, call: &Call, path: &TargetPath) -> Result<Entry> {
        self.stat_entry(call, path)
    }

    fn stage(
        &self,
        call: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Stage>,
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

    fn digest(&self, call: &Call, object: &Object, algorithm: &str, range: Option<Range>) -> Result<Digest> {
        read::digest(self, call, object, algorithm, range)
    }

    fn close(&self, _deadline: Duration) {
        self.shared.close();
    }
}
