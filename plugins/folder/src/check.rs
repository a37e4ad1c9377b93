//! `check`: every act a run needs, on files of our own, taken away again.

use offsite_plugin_api::{Backend, Call, CheckReport, Probe, Result, StepResult, TargetPath};

use super::client::Folder;

/// Composed and decomposed: a file system that normalises names shows itself. Nothing that Windows' file systems refuse.
const AWKWARD: &str = "é e\u{301} 日本 #%+;";
const STEPS: &[&str] = &["list", "write", "read", "listed", "names", "replace", "delete"];

pub fn check(folder: &Folder, call: &Call) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let root = match folder.root(true) {
        Ok(root) => root,
        Err(error) => {
            report.add("reach", StepResult::Failed, error.to_string());
            report.skip(STEPS, "the folder cannot be opened");
            return Ok(report);
        }
    };
    let (magic, name) = folder.file_system().unwrap_or((0, None));
    report.server = Some(name.map_or_else(|| format!("file system {magic:#x}"), str::to_owned));
    report.add("reach", StepResult::Passed, format!("'{}' is open", folder.config.root.display()));
    if root.on_root_file_system()? {
        report.add(
            "mounted",
            StepResult::Warned,
            "the folder is on the root file system; if it should be a share or another disk, mount it",
        );
    }
    let listed = folder.list(call, &TargetPath::root(), false, None);
    report.step("list", listed.map(|_| "readable".to_owned()));
    let probe = Probe::new(folder, call, std::process::id().into(), AWKWARD)?;
    if probe.write(&mut report, "written, synced and renamed into place") {
        probe.names(&mut report);
        probe.replace(&mut report);
        probe.times(&mut report, "this user may not set another one");
        probe.delete(&mut report);
    }
    report.skip(STEPS, "nothing could be written");
    probe.space(&mut report);
    Ok(report)
}
