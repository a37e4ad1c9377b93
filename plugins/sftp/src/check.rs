//! `check`: every act a run needs, step by step, on files of our own, taken away again.

use offsite_plugin_api::{
    Backend, Call, CheckReport, ErrorKind, Expect, Object, Probe, Result, StepResult, TargetPath,
};

use super::client::Sftp;
use super::link::write_room;
use super::wire::{self, Out, SetAttrs};

/// Composed and decomposed: a file system that normalises names shows itself. Nothing that Windows refuses.
const AWKWARD: &str = "é e\u{301} 日本 #%+;";
const STEPS: &[&str] =
    &["reach", "trust", "authenticate", "list", "write", "read", "listed", "names", "replace", "delete"];

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
    if !report.step("list", listed.map(|_| format!("'{}' can be listed", sftp.shown_root()))) {
        report.skip(STEPS, "the folder cannot be listed");
        return Ok(report);
    }
    let features = sftp.traits(call)?.features;
    let probe = Probe::new(sftp, call, std::process::id().into(), AWKWARD)?;
    let how = if features.fsync {
        "written, synced and renamed into place"
    } else {
        "written and renamed into place"
    };
    if probe.write(&mut report, how) {
        probe.names(&mut report);
        replace(sftp, call, &mut report, &probe);
        if let Some(command) = &sftp.config.digest {
            let object = Object::Path(probe.path.clone());
            let digest = sftp.digest(call, &object, command.algorithm, None);
            report.step("digest", digest.map(|_| format!("'{}' works on the server", command.command)));
        }
        resume(sftp, call, &mut report, &probe);
        probe.delete(&mut report);
    }
    report.skip(STEPS, "nothing could be written");
    if !features.fsync {
        report.add(
            "durable",
            StepResult::Warned,
            "this server cannot be told to write to its disk: after a power cut there, the end of a file is compared before \
             it is gone on with",
        );
    }
    probe.space(&mut report);
    Ok(report)
}

fn replace(sftp: &Sftp, call: &Call, report: &mut CheckReport, probe: &Probe<'_>) {
    if sftp.traits(call).is_ok_and(|traits| traits.features.posix_rename) {
        return probe.replace(report);
    }
    let (path, aside) = (&probe.path, &probe.aside);
    probe.expect_left(aside);
    let moved = sftp.rename(call, path, aside, &Expect::Absent);
    let back = moved.and_then(|_| sftp.rename(call, aside, path, &Expect::Absent));
    match back {
        Ok(_) => report.add(
            "replace",
            StepResult::Warned,
            "this server cannot replace a name in one act: files are replaced by swapping names, and readers can meet the \
             moment between",
        ),
        Err(error) => report.add("replace", StepResult::Failed, error.to_string()),
    }
}

/// The end of a file before its beginning: what striped and resumed uploads need.
fn resume(sftp: &Sftp, call: &Call, report: &mut CheckReport, probe: &Probe<'_>) {
    let (staging, content) = (&probe.staging, Probe::SECOND);
    let half = content.len() / 2;
    let written = || -> Result<()> {
        let mut link = sftp.lease(call)?;
        let flags = wire::OPEN_WRITE | wire::OPEN_CREATE | wire::OPEN_EXCLUSIVE;
        let body = Out::default().bytes(&sftp.at(staging)).u32(flags).attrs(&SetAttrs::default());
        let id = link.request(call, wire::OPEN, body)?;
        let handle = link.handle(call, id, "create", staging)?;
        for (offset, bytes) in [(half, &content[half..]), (0, &content[..half])] {
            let mut packet = vec![0; write_room(&handle)];
            packet.extend_from_slice(bytes);
            let id = link.write(call, &handle, offset as u64, &mut packet)?;
            link.done(call, id, "write", staging).inspect_err(|_| link.let_go(&handle))?;
        }
        let id = link.request(call, wire::CLOSE, Out::default().bytes(&handle))?;
        link.done(call, id, "close", staging)
    };
    let whole = written().and_then(|()| probe.read(staging, content));
    let _ = probe.remove(staging);
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
