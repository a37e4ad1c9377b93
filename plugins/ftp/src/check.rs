//! `check`: every act a run needs, on files of our own, taken away again.

use std::io::Write;

use offsite_plugin_api::{Backend, Call, CheckReport, ErrorKind, Probe, Result, StepResult, TargetPath};

use super::change::make_dirs;
use super::client::Ftp;
use super::config::Tls;
use super::names::below;

/// Characters beyond ASCII, composed and decomposed, and those that mean something to servers.
const AWKWARD: &str = "é e\u{301} 日本 #%[*?+;";
const STEPS: &[&str] =
    &["reach", "authenticate", "folder", "list", "write", "read", "listed", "names", "replace", "delete"];

pub fn check(ftp: &Ftp, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    if connect(ftp, call, &mut report) {
        acts(ftp, call, &mut report);
    }
    call.proceed()?;
    if !report.passed() {
        report.skip(STEPS, "an earlier step failed");
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
    report.step("folder", folder.map(|()| "the target's folder is there".to_owned()))
}

fn acts(ftp: &Ftp, call: &Call, report: &mut CheckReport) {
    let root = TargetPath::root();
    let listed = ftp.list(call, &root, false, None).map(|page| format!("entries: {}", page.entries.len()));
    if !report.step("list", listed) {
        return;
    }
    let Ok(probe) = Probe::new(ftp, call, std::process::id().into(), AWKWARD) else { return };
    if probe.write(report, "written under a staging name and renamed into place") {
        probe.names(report);
        probe.replace_by_name(report);
        probe.times(report, "this server does not know MFMT");
        probe.delete(report);
        resume(ftp, call, report, &probe);
    }
    probe.space(report);
}

/// Half a file, then the other half from there on.
fn resume(ftp: &Ftp, call: &Call, report: &mut CheckReport, probe: &Probe<'_>) {
    let (staging, whole) = (&probe.staging, Probe::SECOND);
    let half = whole.len() / 2;
    let taken_up = ftp.shared.on(call, "go on with", "an upload", |session| {
        let command = format!("STOR {}", below(&session.root, staging));
        for (offset, bytes) in [(0, &whole[..half]), (half, &whole[half..])] {
            let mut transfer = session.transfer(&ftp.shared, &command, offset as u64)?;
            transfer.write_all(bytes)?;
            session.finish(transfer)?;
        }
        Ok(())
    });
    let whole = taken_up.and_then(|()| probe.read(staging, whole));
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
