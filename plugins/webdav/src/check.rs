//! `check`: every act a run needs, on files of our own, taken away again.

use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{
    Attributes, Backend, Call, CheckReport, Error, ErrorKind, Expect, PublishRequest, Range, Result, Session,
    Sink, Source, StageRequest, StepResult, TargetPath, Timestamp, Token,
};

use super::change::make_dirs;
use super::client::WebDav;

/// Characters beyond ASCII, composed and decomposed, and those that mean something in a URL.
const AWKWARD: &str = "é e\u{301} 日本 #%?+;";
const FIRST: &[u8] = b"offsite check, first content";
const SECOND: &[u8] = b"offsite check, second content, longer";
const STEPS: &[&str] =
    &["reach", "authenticate", "webdav", "folder", "list", "write", "read", "names", "replace", "delete"];

pub fn check(dav: &WebDav, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    if connect(dav, call, &mut report) {
        acts(dav, call, &mut report);
    }
    call.proceed()?;
    if report.steps.iter().any(|s| s.result == StepResult::Failed) {
        let missing: Vec<&str> =
            STEPS.iter().filter(|n| report.steps.iter().all(|s| s.name != **n)).copied().collect();
        for name in missing {
            report.add(name, StepResult::Skipped, "an earlier step failed");
        }
    }
    Ok(report)
}

/// Reached, logged in, speaks WebDAV, has the folder.
fn connect(dav: &WebDav, call: &Call, report: &mut CheckReport) -> bool {
    let plain = dav.config.root.scheme() == "http";
    let facts = match dav.facts(call) {
        Ok(facts) => facts,
        Err(error) => {
            // A server that refuses the login has been reached.
            if matches!(error.kind(), ErrorKind::Unauthenticated) {
                report.add("reach", StepResult::Passed, "the server answers");
                report.add("authenticate", StepResult::Failed, error.to_string());
            } else {
                report.add("reach", StepResult::Failed, error.to_string());
            }
            return false;
        }
    };
    report.server = match (&facts.cloud, &facts.server) {
        (Some(cloud), Some(server)) => Some(format!("{cloud} on {server}")),
        (cloud, server) => cloud.clone().or_else(|| server.clone()),
    };
    let how = if plain { "without encryption" } else { "over TLS" };
    report.add("reach", StepResult::Passed, format!("the server answers {how}"));
    match (dav.http.auth.user(), dav.http.auth.name()) {
        (None, _) => {
            report.add("authenticate", StepResult::Passed, "no login is configured, and none is asked for")
        }
        (Some(_), "none") => {
            report.add(
                "authenticate",
                StepResult::Warned,
                "the server asks for no login: everybody may write there",
            );
        }
        (Some(user), "Basic") if plain => report.add(
            "authenticate",
            StepResult::Warned,
            format!("logged in as '{user}', but password and files cross the network readable: use https:"),
        ),
        (Some(user), scheme) => {
            report.add("authenticate", StepResult::Passed, format!("logged in as '{user}' ({scheme})"))
        }
    }
    if dav.config.fingerprint.is_some() {
        let detail = "one certificate is trusted by its fingerprint; a renewed one must be given anew";
        report.add("certificate", StepResult::Warned, detail);
    }
    let root = TargetPath::root();
    let folder = make_dirs(dav, call, &root);
    match (&facts.classes, &folder) {
        // The folder answered PROPFIND: it is WebDAV, whatever the header says.
        (_, Ok(())) => report.add("webdav", StepResult::Passed, "the server speaks WebDAV"),
        (None, Err(_)) => report.add(
            "webdav",
            StepResult::Failed,
            "the server does not say that it speaks WebDAV: check the URL, and whether WebDAV is turned on",
        ),
        (Some(classes), Err(_)) => {
            report.add("webdav", StepResult::Passed, format!("the server speaks WebDAV (classes {classes})"));
        }
    }
    step(report, "folder", folder.map(|()| "the target's folder is there".to_owned()))
}

fn acts(dav: &WebDav, call: &Call, report: &mut CheckReport) {
    let root = TargetPath::root();
    let listed = dav.list(call, &root, false, None).map(|page| format!("{} entries", page.entries.len()));
    if !step(report, "list", listed) {
        return;
    }
    let id = std::process::id();
    let name = format!("offsite-check-{id:x}");
    let all =
        ["", ".part", ".old", &format!(" {AWKWARD}")].map(|end| TargetPath::new(format!("{name}{end}")));
    let Ok([path, staging, side, awkward]) = all
        .into_iter()
        .collect::<Result<Vec<_>>>()
        .map(|v| <[TargetPath; 4]>::try_from(v).expect("four names"))
    else {
        return;
    };
    let written = put(dav, call, &path, &staging, FIRST);
    if step(report, "write", written.map(|()| "written under a staging name and moved into place".to_owned()))
    {
        step(report, "read", read(dav, call, &path, FIRST).map(|()| "read back the same".to_owned()));
        names(dav, call, report, &awkward, &staging);
        step(report, "replace", replace(dav, call, [&path, &staging, &side]));
        time(dav, call, report, &path);
        let deleted = dav.delete(call, &path, &Expect::Any);
        step(report, "delete", deleted.map(|()| "deleted".to_owned()));
    }
    // Whatever a failed step left.
    for left in [&path, &staging, &side] {
        let _ = dav.delete(call, left, &Expect::Any);
    }
    if let Ok(space) = dav.space(call)
        && let Some(free) = space.free
    {
        report.add("space", StepResult::Passed, format!("{} MiB free", free >> 20));
    }
    chunks(dav, call, report);
}

/// Whether the server keeps every character of a name. What it made of the name is taken away again.
fn names(dav: &WebDav, call: &Call, report: &mut CheckReport, path: &TargetPath, staging: &TargetPath) {
    let written = put(dav, call, path, staging, FIRST).and_then(|()| read(dav, call, path, FIRST));
    let page = dav.list(call, &TargetPath::root(), false, None);
    let begin = path.as_bytes().split(|byte| !byte.is_ascii()).next().unwrap_or_default();
    let entries = page.into_iter().flat_map(|page| page.entries);
    let found: Vec<_> = entries.map(|e| e.path).filter(|found| found.as_bytes().starts_with(begin)).collect();
    match (written, found.iter().find(|found| *found != path)) {
        (Ok(()), None) if !found.is_empty() => {
            report.add("names", StepResult::Passed, "a name beyond ASCII comes back byte for byte");
        }
        (_, Some(other)) => report.add(
            "names",
            StepResult::Warned,
            format!(
                "'{}' came back as '{}': keep to plain letters and digits",
                path.display(),
                other.display()
            ),
        ),
        (written, None) => report.add(
            "names",
            StepResult::Warned,
            match written {
                Ok(()) => format!("'{}' is not listed: keep to plain letters and digits", path.display()),
                Err(error) => format!("keep to plain letters and digits in names: {error}"),
            },
        ),
    }
    for left in found.iter().chain([path]) {
        let _ = dav.delete(call, left, &Expect::Any);
    }
}

/// As the host replaces: the old file aside, the new one into the gap, the old one away.
fn replace(dav: &WebDav, call: &Call, [path, staging, side]: [&TargetPath; 3]) -> Result<String> {
    match put(dav, call, path, staging, SECOND) {
        Err(e) if *e.kind() == ErrorKind::Exists => {}
        Err(e) => return Err(e),
        Ok(()) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the server overwrote a file although it was told not to (Overwrite: F)",
            ));
        }
    }
    dav.rename(call, path, side, &Expect::Absent)?;
    put(dav, call, path, staging, SECOND)?;
    read(dav, call, path, SECOND)?;
    dav.delete(call, side, &Expect::Any)?;
    Ok("moved aside, replaced, and the old one deleted".to_owned())
}

fn time(dav: &WebDav, call: &Call, report: &mut CheckReport, path: &TargetPath) {
    let wanted = Timestamp { ns: 1_234_567_890_000_000_000, precision_ns: 1_000_000_000 };
    let attributes = Attributes { mtime: Some(wanted), ..Attributes::default() };
    match dav.set_attributes(call, path, &attributes) {
        Ok(entry) if entry.mtime.is_some_and(|t| t.ns == wanted.ns) => {
            report.add("times", StepResult::Passed, "files keep their modification time");
        }
        Ok(_) => {
            report.add("times", StepResult::Warned, "the server does not keep a file's modification time")
        }
        Err(e) if *e.kind() == ErrorKind::Unsupported => {
            report.add(
                "times",
                StepResult::Skipped,
                "files get the time of their upload: WebDAV has no other",
            );
        }
        Err(e) => report.add("times", StepResult::Warned, e.to_string()),
    }
}

fn chunks(dav: &WebDav, call: &Call, report: &mut CheckReport) {
    match dav.facts(call).map(|f| f.uploads.is_some()) {
        Ok(true) => report.add(
            "resume",
            StepResult::Passed,
            "large files go in chunks, and an interrupted one is taken up again",
        ),
        _ => report.add(
            "resume",
            StepResult::Skipped,
            "this server cannot take up an interrupted upload: the file in flight starts again",
        ),
    }
}

fn step(report: &mut CheckReport, name: &str, result: Result<String>) -> bool {
    match &result {
        Ok(detail) => report.add(name, StepResult::Passed, detail),
        Err(error) => report.add(name, StepResult::Failed, error.to_string()),
    }
    result.is_ok()
}

fn put(
    dav: &WebDav,
    call: &Call,
    path: &TargetPath,
    staging: &TargetPath,
    bytes: &'static [u8],
) -> Result<()> {
    let source: Arc<dyn Source> = Arc::new(Bytes(bytes));
    let request = StageRequest {
        path: path.clone(),
        staging: staging.clone(),
        attributes: Attributes::default(),
        size: bytes.len() as u64,
        streams: 1,
        owner: "check".to_owned(),
        resume: None,
    };
    let staged = dav.stage(call, &request, source.clone(), Arc::new(Nobody))?;
    let request = PublishRequest {
        token: staged.token,
        path: path.clone(),
        expect: Expect::Absent,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: bytes.len() as u64,
        source,
    };
    dav.publish(call, &request).map(drop)
}

fn read(dav: &WebDav, call: &Call, path: &TargetPath, wanted: &[u8]) -> Result<()> {
    let sink = Arc::new(Collected(Mutex::default()));
    let part = Range { offset: 8, length: 5 };
    dav.get(call, path, Some(part), None, sink.clone())?;
    dav.get(call, path, None, None, sink.clone())?;
    let got = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
    if got.strip_prefix(&wanted[8..13]).is_some_and(|whole| whole == wanted) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "what was written came back different; a proxy or the server changes it",
    ))
}

struct Bytes(&'static [u8]);

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

struct Collected(Mutex<Vec<u8>>);

impl Sink for Collected {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(())
    }
}

struct Nobody;

impl Session for Nobody {
    fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> Result<()> {
        Ok(())
    }
}
