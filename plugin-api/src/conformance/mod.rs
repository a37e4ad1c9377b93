//! The behaviours every backend must have, as named cases that any backend can be run through.
//!
//! Cases choose themselves by the capabilities the target declares; what does not apply is skipped with the reason. The
//! target must be empty and for the kit alone: it works below `offsite-conformance` and removes that in the end. A
//! case looks only at what the contract on [`crate::Backend`] promises, so a failure is a defect of the backend.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::{Backend, Call, EntryKind, Error, ErrorKind, Expect, TargetPath};

mod change;
mod conduct;
mod host;
mod kit;
mod names;
mod read;
mod resume;
mod upload;

pub use host::TestHost;
use kit::{Ctx, Stop};

/// Opens the target under test. Called once per case and more, always for the same target: a second object stands
/// for another process or machine.
pub type Make<'a> = &'a (dyn Fn() -> Box<dyn Backend> + Sync);

type Case = (&'static str, fn(&Ctx<'_>) -> Result<(), Stop>);

const CASES: &[&[Case]] =
    &[upload::CASES, resume::CASES, read::CASES, change::CASES, names::CASES, conduct::CASES];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// With the reason: a capability the target does not declare.
    Skipped(String),
    Failed(String),
}

#[derive(Clone, Debug)]
pub struct CaseReport {
    pub name: &'static str,
    pub verdict: Verdict,
    pub took: Duration,
}

/// What came of every case.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub cases: Vec<CaseReport>,
}

impl Report {
    pub fn failures(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|c| matches!(c.verdict, Verdict::Failed(_)))
    }

    pub fn passed(&self) -> bool {
        !self.cases.is_empty() && self.failures().next().is_none()
    }

    pub fn verdict(&self, name: &str) -> Option<&Verdict> {
        self.cases.iter().find(|c| c.name == name).map(|c| &c.verdict)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            let ms = case.took.as_millis();
            match &case.verdict {
                Verdict::Passed => writeln!(f, "passed   {} ({ms} ms)", case.name)?,
                Verdict::Skipped(why) => writeln!(f, "skipped  {}: {why}", case.name)?,
                Verdict::Failed(why) => writeln!(f, "FAILED   {} ({ms} ms): {why}", case.name)?,
            }
        }
        Ok(())
    }
}

/// The names of all cases, in the order they run.
pub fn cases() -> impl Iterator<Item = &'static str> {
    CASES.iter().flat_map(|group| group.iter()).map(|(name, _)| *name)
}

/// Runs every case.
pub fn run(make: Make<'_>) -> Report {
    run_selected(make, |_| true)
}

/// Runs the cases whose name `wanted` accepts.
pub fn run_selected(make: Make<'_>, wanted: impl Fn(&str) -> bool) -> Report {
    let mut report = Report::default();
    for (name, case) in CASES.iter().flat_map(|group| group.iter()).filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| Ctx::new(make, name).and_then(|ctx| case(&ctx))));
        let verdict = match outcome {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(Stop::Skip(why))) => Verdict::Skipped(why),
            Ok(Err(Stop::Fail(why))) => Verdict::Failed(why),
            Err(_) => Verdict::Failed("panicked".to_owned()),
        };
        report.cases.push(CaseReport { name, verdict, took: start.elapsed() });
    }
    let start = Instant::now();
    let verdict = match catch_unwind(AssertUnwindSafe(|| clean_up(&*make()))) {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(error)) => Verdict::Failed(error.to_string()),
        Err(_) => Verdict::Failed("panicked".to_owned()),
    };
    report.cases.push(CaseReport { name: "the target can be emptied again", verdict, took: start.elapsed() });
    report
}

/// For a test: panics with the whole report unless every case passed or does not apply.
pub fn assert_conforms(make: Make<'_>) {
    let report = run(make);
    assert!(report.passed(), "the backend does not conform:\n{report}");
}

/// Removes what the cases left: staged uploads, files, then directories, deepest first.
fn clean_up(backend: &dyn Backend) -> Result<(), Error> {
    let call = Call::unwatched();
    let root = TargetPath::new(kit::ROOT)?;
    for staged in backend.list_staged(&call, &TargetPath::root())? {
        backend.discard(&call, &staged.token)?;
    }
    let mut entries = match kit::list_all(backend, &root, true) {
        Ok(entries) => entries,
        Err(error) if *error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    entries.sort_by(|a, b| b.path.cmp(&a.path));
    let (dirs, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.kind == EntryKind::Dir);
    for entry in files.into_iter().chain(dirs) {
        missing_is_fine(backend.delete(&call, &entry.path, &Expect::Any))?;
    }
    missing_is_fine(backend.delete(&call, &root, &Expect::Any))
}

/// Where directories are only prefixes, they vanish with their last file.
fn missing_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if *error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
