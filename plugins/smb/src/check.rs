//! `check`: every act a run needs, on files of our own, taken away again.

use std::sync::{Arc, Mutex};

use offsite_plugin_api::{
    Attributes, Backend, Call, CheckReport, Error, ErrorKind, Expect, PublishRequest, Range, Result, Session,
    Sink, Source, StageRequest, StepResult, TargetPath, Token,
};
use smb2::types::Dialect;

use super::client::Smb;
use super::config::Account;

/// Characters beyond ASCII, composed and decomposed: a file system that normalises names shows itself.
const NAME: &str = "offsite-check-é-e\u{301}-日本";
const FIRST: &[u8] = b"offsite check, first content";
const SECOND: &[u8] = b"offsite check, second content, longer";

pub fn check(smb: &Smb, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let dialect = match smb.dialect(call) {
        Ok(dialect) => dialect,
        Err(error) => {
            report.add(step_of(&error), StepResult::Failed, error.to_string());
            for step in ["list", "write", "read", "names", "replace", "delete"] {
                report.add(step, StepResult::Skipped, "the share cannot be opened");
            }
            return Ok(report);
        }
    };
    report.server = Some(format!("SMB {}", version(dialect)));
    report.add("reach", StepResult::Passed, format!("{} answers", smb.config.host));
    report.add("authenticate", StepResult::Passed, format!("logged in as {}", smb.config.account.shown()));
    if smb.config.account == Account::Guest {
        report.add(
            "signing",
            StepResult::Warned,
            "a guest's session is not signed: whoever sits on the way can change it",
        );
    }
    let made = super::change::make_dirs(smb, call, &TargetPath::root());
    let listed = made.and_then(|()| smb.list(call, &TargetPath::root(), false, None));
    step(&mut report, "list", listed.map(|_| "readable".to_owned()));

    let path = TargetPath::new(format!("{NAME}-{}", std::process::id()))?;
    let staging = TargetPath::new(format!("offsite-check-{}.part", std::process::id()))?;
    let written = put(smb, call, &path, &staging, FIRST, Expect::Absent);
    let works = written.is_ok();
    step(&mut report, "write", written.map(|_| "written, flushed and renamed into place".to_owned()));
    if works {
        let read = read(smb, call, &path, FIRST);
        step(&mut report, "read", read.map(|()| "read back the same".to_owned()));
        let listed = smb.list(call, &TargetPath::root(), false, None);
        let found = listed.is_ok_and(|page| page.entries.iter().any(|e| e.path == path));
        match found {
            true => report.add("names", StepResult::Passed, "a name beyond ASCII comes back byte for byte"),
            false => report.add("names", StepResult::Warned, "a name beyond ASCII comes back changed"),
        }
        let replaced = put(smb, call, &path, &staging, SECOND, Expect::Any)
            .and_then(|_| self::read(smb, call, &path, SECOND));
        step(&mut report, "replace", replaced.map(|()| "replaced in one act".to_owned()));
        let deleted = smb.delete(call, &path, &Expect::Any);
        step(&mut report, "delete", deleted.map(|()| "deleted".to_owned()));
    } else {
        for name in ["read", "names", "replace", "delete"] {
            report.add(name, StepResult::Skipped, "nothing could be written");
        }
    }
    // Whatever a failed step left.
    for left in [&path, &staging] {
        let _ = smb.delete(call, left, &Expect::Any);
    }
    if let Ok(space) = smb.space(call)
        && let Some(free) = space.free
    {
        report.add("space", StepResult::Passed, format!("{} MiB free", free >> 20));
    }
    Ok(report)
}

/// Which step an error of the log-in belongs to.
fn step_of(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Unauthenticated | ErrorKind::InvalidConfig => "authenticate",
        ErrorKind::NotFound | ErrorKind::Denied => "share",
        _ => "reach",
    }
}

fn version(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Smb2_0_2 => "2.0.2",
        Dialect::Smb2_1 => "2.1",
        Dialect::Smb3_0 => "3.0",
        Dialect::Smb3_0_2 => "3.0.2",
        Dialect::Smb3_1_1 => "3.1.1",
    }
}

fn step(report: &mut CheckReport, name: &str, result: Result<String>) {
    match result {
        Ok(detail) => report.add(name, StepResult::Passed, detail),
        Err(error) => report.add(name, StepResult::Failed, error.to_string()),
    }
}

fn put(
    smb: &Smb,
    call: &Call,
    path: &TargetPath,
    staging: &TargetPath,
    bytes: &'static [u8],
    expect: Expect,
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
    let staged = smb.stage(call, &request, source.clone(), Arc::new(Nobody))?;
    let request = PublishRequest {
        token: staged.token,
        path: path.clone(),
        expect,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: bytes.len() as u64,
        source,
    };
    smb.publish(call, &request).map(drop)
}

fn read(smb: &Smb, call: &Call, path: &TargetPath, wanted: &[u8]) -> Result<()> {
    let sink = Arc::new(Collected(Mutex::default()));
    smb.get(call, path, None, None, sink.clone())?;
    let got = sink.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *got == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "what was written came back different; check the server's disk"))
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
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
        Ok(())
    }
}

struct Nobody;

impl Session for Nobody {
    fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> Result<()> {
        Ok(())
    }
}
