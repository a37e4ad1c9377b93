//! `check`: every act a run needs, step by step, on files of our own, taken away again.

use std::sync::{Arc, Mutex};

use offsite_plugin_api::{
    Attributes, Backend, Call, CheckReport, Error, ErrorKind, Expect, Object, PublishRequest, Range, Result,
    Session, Sink, Source, StageRequest, StepResult, TargetPath, Token,
};

use super::client::Sftp;
use super::link::write_room;
use super::wire::{self, Out, SetAttrs};

/// Characters beyond ASCII, composed and decomposed: a file system that normalises names shows itself.
const NAME: &str = "offsite-check-é-e\u{301}-日本";
const FIRST: &[u8] = b"offsite check, first content";
const SECOND: &[u8] = b"offsite check, second content, longer";
const STEPS: &[&str] =
    &["reach", "trust", "authenticate", "list", "write", "read", "names", "replace", "delete"];

pub fn check(sftp: &Sftp, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let server = sftp.config.server();
    match sftp.lease(call) {
        Ok(link) => {
            report.server = Some(link.banner.clone());
            report.add("reach", StepResult::Passed, format!("{server} answers: {}", link.banner));
            report.add("trust", StepResult::Passed, "the host key is the expected one");
            let logged_in =
                format!("'{}' is logged in, by one of: {:?}", sftp.config.user, sftp.config.logins);
            report.add("authenticate", StepResult::Passed, logged_in);
        }
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled) => return Err(error),
        Err(error) => {
            let failed = match error.kind() {
                ErrorKind::UntrustedPeer => 1,
                ErrorKind::Unauthenticated | ErrorKind::InvalidConfig | ErrorKind::Denied => 2,
                _ => 0,
            };
            for (number, step) in STEPS.iter().enumerate() {
                match number {
                    n if n < failed => report.add(step, StepResult::Passed, server.clone()),
                    n if n == failed => report.add(step, StepResult::Failed, error.to_string()),
                    _ => report.add(step, StepResult::Skipped, "there is no connection"),
                }
            }
            return Ok(report);
        }
    }
    let root = TargetPath::root();
    let listed = sftp.make_dir(call, &root).and_then(|()| sftp.list(call, &root, false, None));
    let readable = listed.is_ok();
    step(&mut report, "list", listed.map(|_| format!("'{}' can be listed", sftp.shown_root())));
    if !readable {
        for name in ["write", "read", "names", "replace", "delete"] {
            report.add(name, StepResult::Skipped, "the folder cannot be listed");
        }
        return Ok(report);
    }
    let path = TargetPath::new(format!("{NAME}-{}", std::process::id()))?;
    let staging = TargetPath::new(format!("offsite-check-{}.part", std::process::id()))?;
    let features = sftp.traits(call)?.features;
    let written = put(sftp, call, &path, &staging, FIRST, Expect::Absent);
    let works = written.is_ok();
    let how = if features.fsync {
        "written, synced and renamed into place"
    } else {
        "written and renamed into place"
    };
    step(&mut report, "write", written.map(|_| how.to_owned()));
    if works {
        let read = read(sftp, call, &path, FIRST);
        step(&mut report, "read", read.map(|()| "read back the same".to_owned()));
        let found =
            sftp.list(call, &root, false, None).is_ok_and(|p| p.entries.iter().any(|e| e.path == path));
        match found {
            true => report.add("names", StepResult::Passed, "a name beyond ASCII comes back byte for byte"),
            false => report.add("names", StepResult::Warned, "a name beyond ASCII comes back changed"),
        }
        if features.posix_rename {
            let replaced = put(sftp, call, &path, &staging, SECOND, Expect::Any)
                .and_then(|()| self::read(sftp, call, &path, SECOND));
            step(&mut report, "replace", replaced.map(|()| "replaced in one act".to_owned()));
        } else {
            let side = TargetPath::new(format!("offsite-check-{}.old", std::process::id()))?;
            let moved = sftp.rename(call, &path, &side, &Expect::Absent);
            let back = moved.and_then(|_| sftp.rename(call, &side, &path, &Expect::Absent));
            match back {
                Ok(_) => report.add(
                    "replace",
                    StepResult::Warned,
                    "this server cannot replace a name in one act: files are replaced by swapping names, and readers can \
                     meet the moment between",
                ),
                Err(error) => report.add("replace", StepResult::Failed, error.to_string()),
            }
            let _ = sftp.delete(call, &side, &Expect::Any);
        }
        if let Some(command) = &sftp.config.digest {
            let object = Object::Path(path.clone());
            let digest = sftp.digest(call, &object, command.algorithm, None);
            step(&mut report, "digest", digest.map(|_| format!("'{}' works on the server", command.command)));
        }
        resume(sftp, call, &mut report, &staging);
        let deleted = sftp.delete(call, &path, &Expect::Any);
        step(&mut report, "delete", deleted.map(|()| "deleted".to_owned()));
    } else {
        for name in ["read", "names", "replace", "delete"] {
            report.add(name, StepResult::Skipped, "nothing could be written");
        }
    }
    // Whatever a failed step left.
    for left in [&path, &staging] {
        let _ = sftp.delete(call, left, &Expect::Any);
    }
    if !features.fsync {
        report.add(
            "durable",
            StepResult::Warned,
            "this server cannot be told to write to its disk: after a power cut there, the end of a file is compared before \
             it is gone on with",
        );
    }
    if let Ok(space) = sftp.space(call)
        && let Some(free) = space.free
    {
        report.add("space", StepResult::Passed, format!("{} MiB free", free >> 20));
    }
    Ok(report)
}

/// The end of a file before its beginning: what striped and resumed uploads need.
fn resume(sftp: &Sftp, call: &Call, report: &mut CheckReport, staging: &TargetPath) {
    let half = SECOND.len() / 2;
    let written = || -> Result<()> {
        let mut link = sftp.lease(call)?;
        let flags = wire::OPEN_WRITE | wire::OPEN_CREATE | wire::OPEN_EXCLUSIVE;
        let body = Out::default().bytes(&sftp.at(staging)).u32(flags).attrs(&SetAttrs::default());
        let id = link.request(call, wire::OPEN, body)?;
        let handle = link.handle(call, id, "create", staging)?;
        for (offset, bytes) in [(half, &SECOND[half..]), (0, &SECOND[..half])] {
            let mut packet = vec![0; write_room(&handle)];
            packet.extend_from_slice(bytes);
            let id = link.write(call, &handle, offset as u64, &mut packet)?;
            link.done(call, id, "write", staging).inspect_err(|_| link.let_go(&handle))?;
        }
        let id = link.request(call, wire::CLOSE, Out::default().bytes(&handle))?;
        link.done(call, id, "close", staging)
    };
    let whole = written().and_then(|()| read(sftp, call, staging, SECOND));
    let _ = sftp.delete(call, staging, &Expect::Any);
    match whole {
        Ok(()) => {
            report.add("resume", StepResult::Passed, "an interrupted upload is taken up where it broke off")
        }
        Err(error) => report.add(
            "resume",
            StepResult::Warned,
            format!("this server takes a file's bytes only in their order: one connection for each file, and an interrupted \
                     upload begins again: {error}"),
        ),
    }
}

fn step(report: &mut CheckReport, name: &str, result: Result<String>) {
    match result {
        Ok(detail) => report.add(name, StepResult::Passed, detail),
        Err(error) => report.add(name, StepResult::Failed, error.to_string()),
    }
}

fn put(
    sftp: &Sftp,
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
    let staged = sftp.stage(call, &request, source.clone(), Arc::new(Nobody))?;
    let request = PublishRequest {
        token: staged.token,
        path: path.clone(),
        expect,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: bytes.len() as u64,
        source,
    };
    sftp.publish(call, &request).map(drop)
}

fn read(sftp: &Sftp, call: &Call, path: &TargetPath, wanted: &[u8]) -> Result<()> {
    let sink = Arc::new(Collected(Mutex::default()));
    sftp.get(call, path, None, None, sink.clone())?;
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
