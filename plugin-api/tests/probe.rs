//! What a plugin's check finds out with files of its own, and that none of them stays.
#![allow(clippy::unwrap_used)]

mod memory;

use std::sync::Arc;

use offsite_plugin_api::abi::host::{LogSink, Module};
use offsite_plugin_api::*;
use serde_json::json;
use zeroize::Zeroizing;

struct NoHost;

impl Host for NoHost {
    fn secret(&self, _: &str) -> Result<Zeroizing<String>> {
        Err(Error::unsupported("secrets"))
    }
    fn state_get(&self, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn state_put(&self, _: &str, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn invoke(&self, operation: &str, _: &str) -> Result<String> {
        Err(Error::unsupported(operation))
    }
}

impl LogSink for NoHost {
    fn log(&self, _: Level, _: &str, _: &str) {}
}

/// Each step's result, on a backend with this flaw; what is left there afterwards.
fn probed(flaw: &str) -> (Vec<(String, StepResult)>, Vec<String>) {
    let module = Module::in_process::<memory::Exported>();
    let options = json!({ "flaw": flaw });
    let url = format!("memory:probe-{}", flaw.replace(' ', "-"));
    let backend =
        module.open(&url, &options, &Secrets::default(), Arc::new(NoHost), Arc::new(NoHost)).unwrap();
    let call = Call::unwatched();
    let mut report = CheckReport::default();
    {
        let probe = Probe::new(&*backend, &call, 7, "é E #").unwrap();
        if probe.write(&mut report, "written") {
            probe.names(&mut report);
            probe.replace(&mut report);
            probe.replace_by_name(&mut report);
            probe.times(&mut report, "it does not know them");
        }
    }
    let steps = report.steps.into_iter().map(|step| (step.name, step.result)).collect();
    let left = backend.list(&call, &TargetPath::root(), true, None).unwrap();
    let left = left.entries.into_iter().map(|entry| entry.path.display().into_owned()).collect();
    (steps, left)
}

#[test]
fn a_good_backend_passes_every_step_and_nothing_is_left() {
    let (steps, left) = probed("");
    let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["write", "read", "listed", "names", "replace", "replace", "times"]);
    assert!(steps.iter().all(|(_, result)| *result == StepResult::Passed), "{steps:?}");
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn each_flaw_is_found_by_its_step_and_nothing_is_left() {
    for (flaw, step, result) in [
        ("loses the last byte", "read", StepResult::Failed),
        ("flips a bit", "read", StepResult::Failed),
        ("range one too long", "read", StepResult::Failed),
        ("leaves files out of listings", "listed", StepResult::Failed),
        ("always leaves something out", "listed", StepResult::Warned),
        ("lowers case", "names", StepResult::Warned),
        ("overwrites", "replace", StepResult::Failed),
        ("forgets times", "times", StepResult::Warned),
    ] {
        let (steps, left) = probed(flaw);
        assert!(steps.contains(&(step.to_owned(), result)), "{flaw}: {steps:?}");
        assert_eq!(left, Vec::<String>::new(), "{flaw}");
    }
}

#[test]
fn steps_that_were_not_reached_are_told() {
    let mut report = CheckReport::default();
    assert!(report.step("write", Ok("written".to_owned())));
    assert!(!report.step("read", Err(Error::unsupported("reading"))));
    report.skip(&["write", "read", "delete"], "an earlier step failed");
    let results: Vec<StepResult> = report.steps.iter().map(|step| step.result).collect();
    assert_eq!(results, [StepResult::Passed, StepResult::Failed, StepResult::Skipped]);
    assert!(!report.passed());
}
