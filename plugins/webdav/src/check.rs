//! `check`: every act a run needs, on files of our own, taken away again.

use offsite_plugin_api::{
    Backend, Bytes, Call, CheckReport, ErrorKind, Probe, Result, StepResult, TargetPath, Unwatched,
};

use super::change::make_dirs;
use super::client::WebDav;
use super::ranges;

/// Characters beyond ASCII, composed and decomposed, and those that mean something in a URL.
const AWKWARD: &str = "é e\u{301} 日本 #%?+;";
const STEPS: &[&str] = &[
    "reach",
    "authenticate",
    "webdav",
    "folder",
    "list",
    "write",
    "read",
    "listed",
    "names",
    "replace",
    "delete",
];

pub fn check(dav: &WebDav, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    if connect(dav, call, &mut report) {
        acts(dav, call, &mut report);
    }
    call.proceed()?;
    if !report.passed() {
        report.skip(STEPS, "an earlier step failed");
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
    report.step("folder", folder.map(|()| "the target's folder is there".to_owned()))
}

fn acts(dav: &WebDav, call: &Call, report: &mut CheckReport) {
    let root = TargetPath::root();
    let listed = dav.list(call, &root, false, None).map(|page| format!("entries: {}", page.entries.len()));
    if !report.step("list", listed) {
        return;
    }
    let Ok(probe) = Probe::new(dav, call, std::process::id().into(), AWKWARD) else { return };
    if probe.write(report, "written under a staging name and moved into place") {
        probe.names(report);
        probe.replace_by_name(report);
        probe.times(report, "WebDAV has no other");
        probe.delete(report);
        resume(dav, call, report, &probe);
    }
    probe.space(report);
}

/// What becomes of a large file, and of one that is interrupted.
fn resume(dav: &WebDav, call: &Call, report: &mut CheckReport, probe: &Probe<'_>) {
    let (chunks, ranges) = dav.facts(call).map_or((false, false), |f| (f.uploads.is_some(), f.ranges));
    let whole = "the file in flight starts again";
    let (result, text) = match (chunks, ranges) {
        (true, _) => {
            (StepResult::Passed, "large files go in chunks, and an interrupted one is taken up again".into())
        }
        (false, false) => {
            (StepResult::Skipped, format!("this server cannot take up an interrupted upload: {whole}"))
        }
        (false, true) => {
            let request = probe.stage_request(&probe.path, Probe::SECOND);
            probe.expect_left(&probe.staging);
            let staged = ranges::stage(dav, call, &request, &Bytes(Probe::SECOND), &Unwatched);
            match staged.and_then(|_| probe.read(&probe.staging, Probe::SECOND)) {
                Ok(()) => (StepResult::Passed, "an interrupted upload is taken up where it broke off".into()),
                Err(error) => (
                    StepResult::Warned,
                    format!("this server should take parts of files and does not, so {whole}: {error}"),
                ),
            }
        }
    };
    let _ = probe.remove(&probe.staging);
    report.add("resume", result, text);
}
