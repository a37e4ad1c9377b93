//! `check`: every act a run needs, on files of our own, taken away again.

use offsite_plugin_api::{
    Backend, Call, CheckReport, Error, ErrorKind, Probe, Result, StepResult, TargetPath,
};
use smb2::types::Dialect;

use super::client::Smb;
use super::config::Account;

/// Composed and decomposed: a file system that normalises names shows itself. Nothing that Windows refuses.
const AWKWARD: &str = "é e\u{301} 日本 #%+;";
const STEPS: &[&str] = &["list", "write", "read", "listed", "names", "replace", "delete"];

pub fn check(smb: &Smb, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let dialect = match smb.dialect(call) {
        Ok(dialect) => dialect,
        Err(error) => {
            report.add(step_of(&error), StepResult::Failed, error.to_string());
            report.skip(STEPS, "the share cannot be opened");
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
    report.step("list", listed.map(|_| "readable".to_owned()));
    let probe = Probe::new(smb, call, std::process::id().into(), AWKWARD)?;
    if probe.write(&mut report, "written, flushed and renamed into place") {
        probe.names(&mut report);
        probe.replace(&mut report);
        probe.delete(&mut report);
    }
    report.skip(STEPS, "nothing could be written");
    probe.space(&mut report);
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
