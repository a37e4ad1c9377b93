//! `check`: every act a run needs, on files of our own, taken away again.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use offsite_plugin_api::{
    Attributes, Backend, Call, CheckReport, Error, ErrorKind, Expect, PublishRequest, Range, Result, Session,
    Sink, Source, StageRequest, StepResult, TargetPath, Timestamp, Token,
};

use super::change::make_dirs;
use super::client::Ftp;
use super::config::Tls;
use super::names::below;

/// Characters beyond ASCII, composed and decomposed, and those that mean something to servers.
const AWKWARD: &str = "é e\u{301} 日本 #%[*?+;";
const FIRST: &[u8] = b"offsite check, first content";
const SECOND: &[u8] = b"offsite check, second content, longer";
const STEPS: &[&str] =
    &["reach", "authenticate", "folder", "list", "write", "read", "names", "replace", "delete"];

pub fn check(ftp: &Ftp, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    if connect(ftp, call, &mut report) {
        acts(ftp, call, &mut report);
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

/// Reached, logged in, has the folder.
fn connect(ftp: &Ftp, call: &Call, report: &mut CheckReport) -> bool {
    let config = &ftp.shared.config;
    let features =
        match ftp.shared.on(call, "reach", &config.server(), |session| Ok(session.features.clone())) {
            Ok(features) => features,
            Err(error) => {
                // A server that refuses the login has been reached.
                if matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::Denied) {
                    report.add("reach", StepResult::Passed, "the server answers");
                    report.add("authenticate", StepResult::Failed, error.to_string());
                } else {
                    report.add("reach", StepResult::Failed, error.to_string());
                }
                return false;
            }
        };
    report.server = Some(features.greeting.clone()).filter(|greeting| !greeting.is_empty());
    let how = if config.tls == Tls::None { "without encryption" } else { "over TLS" };
    report.add("reach", StepResult::Passed, format!("the server answers {how}"));
    match config.tls {
        Tls::None => report.add(
            "authenticate",
            StepResult::Warned,
            format!(
                "logged in as '{}', but password and files cross the network readable: use ftps:",
                config.user
            ),
        ),
        _ => report.add("authenticate", StepResult::Passed, format!("logged in as '{}'", config.user)),
    }
    let folder = make_dirs(ftp, call, &TargetPath::root());
    step(report, "folder", folder.map(|()| "the target's folder is there".to_owned()))
}

fn acts(ftp: &Ftp, call: &Call, report: &mut CheckReport) {
    let root = TargetPath::root();
    let listed = ftp.list(call, &root, false, None).map(|page| format!("{} entries", page.entries.len()));
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
    let written = put(ftp, call, &path, &staging, FIRST);
    if step(
        report,
        "write",
        written.map(|()| "written under a staging name and renamed into place".to_owned()),
    ) {
        step(report, "read", read(ftp, call, &path, FIRST).map(|()| "read back the same".to_owned()));
        names(ftp, call, report, &awkward, &staging);
        step(report, "replace", replace(ftp, call, [&path, &staging, &side]));
        time(ftp, call, report, &path);
        let deleted = ftp.delete(call, &path, &Expect::Any);
        step(report, "delete", deleted.map(|()| "deleted".to_owned()));
    }
    // Whatever a failed step left.
    for left in [&path, &staging, &side] {
        let _ = ftp.delete(call, left, &Expect::Any);
    }
    if let Ok(space) = ftp.space(call)
        && let Some(free) = space.free
    {
        report.add("space", StepResult::Passed, format!("{} MiB free", free >> 20));
    }
    if report.steps.iter().any(|s| s.name == "write" && s.result == StepResult::Passed) {
        resume(ftp, call, report, &staging);
    }
}

/// Whether the server keeps every character of a name. What it made of the name is taken away again.
fn names(ftp: &Ftp, call: &Call, report: &mut CheckReport, path: &TargetPath, staging: &TargetPath) {
    let written = put(ftp, call, path, staging, FIRST).and_then(|()| read(ftp, call, path, FIRST));
    let page = ftp.list(call, &TargetPath::root(), false, None);
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
        let _ = ftp.delete(call, left, &Expect::Any);
    }
}

/// As the host replaces: the old file aside, the new one into the gap, the old one away.
fn replace(ftp: &Ftp, call: &Call, [path, staging, side]: [&TargetPath; 3]) -> Result<String> {
    match put(ftp, call, path, staging, SECOND) {
        Err(e) if *e.kind() == ErrorKind::Exists => {}
        Err(e) => return Err(e),
        Ok(()) => {
            return Err(Error::new(ErrorKind::Unsupported, "a name that was taken was taken again"));
        }
    }
    ftp.rename(call, path, side, &Expect::Absent)?;
    put(ftp, call, path, staging, SECOND)?;
    read(ftp, call, path, SECOND)?;
    ftp.delete(call, side, &Expect::Any)?;
    Ok("moved aside, replaced, and the old one deleted".to_owned())
}

fn time(ftp: &Ftp, call: &Call, report: &mut CheckReport, path: &TargetPath) {
    let wanted = Timestamp { ns: 1_234_567_890_000_000_000, precision_ns: 1_000_000_000 };
    let attributes = Attributes { mtime: Some(wanted), ..Attributes::default() };
    match ftp.set_attributes(call, path, &attributes) {
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
                "files get the time of their upload: this server does not know MFMT",
            );
        }
        Err(e) => report.add("times", StepResult::Warned, e.to_string()),
    }
}

/// Half a file, then the other half from there on.
fn resume(ftp: &Ftp, call: &Call, report: &mut CheckReport, staging: &TargetPath) {
    let half = SECOND.len() / 2;
    let taken_up = ftp.shared.on(call, "go on with", "an upload", |session| {
        let command = format!("STOR {}", below(&session.root, staging));
        for (offset, bytes) in [(0, &SECOND[..half]), (half, &SECOND[half..])] {
            let mut transfer = session.transfer(&ftp.shared, &command, offset as u64)?;
            transfer.write_all(bytes)?;
            session.finish(transfer)?;
        }
        Ok(())
    });
    let whole = taken_up.and_then(|()| read(ftp, call, staging, SECOND));
    let _ = super::change::remove(ftp, call, staging);
    match whole {
        Ok(()) => {
            report.add("resume", StepResult::Passed, "an interrupted upload is taken up where it broke off")
        }
        Err(error) => report.add(
            "resume",
            StepResult::Warned,
            format!("an interrupted upload begins again (ProFTPD: AllowStoreRestart on): {error}"),
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

fn put(ftp: &Ftp, call: &Call, path: &TargetPath, staging: &TargetPath, bytes: &'static [u8]) -> Result<()> {
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
    let staged = ftp.stage(call, &request, source.clone(), Arc::new(Nobody))?;
    let request = PublishRequest {
        token: staged.token,
        path: path.clone(),
        expect: Expect::Absent,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: bytes.len() as u64,
        source,
    };
    ftp.publish(call, &request).map(drop)
}

fn read(ftp: &Ftp, call: &Call, path: &TargetPath, wanted: &[u8]) -> Result<()> {
    let sink = Arc::new(Collected(Mutex::default()));
    let part = Range { offset: 8, length: 5 };
    ftp.get(call, path, Some(part), None, sink.clone())?;
    ftp.get(call, path, None, None, sink.clone())?;
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
