//! Plugins keep the contract as libraries too: the conformance kit runs on this side of the boundary, the backend on the
//! other.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;

use offsite::plugin::{PluginLog, Registry};
use offsite_plugin_api::conformance::{self, Report, TestHost, Verdict};
use offsite_plugin_api::{Backend, Secrets};
use offsite_tests::build;
use serde_json::{Value, json};

/// Runs the kit on a folder of its own.
fn report(scheme: &str, options: Value, wanted: impl Fn(&str) -> bool) -> Report {
    build::artefacts();
    let registry = Registry::discover(&[]);
    let place = tempfile::tempdir().unwrap();
    let url = format!("{scheme}:{}", place.path().display());
    let open = || -> Box<dyn Backend> {
        let log = Arc::new(PluginLog::new("test"));
        registry.open_target(&url, &options, Secrets::default(), Arc::new(TestHost::default()), log).unwrap()
    };
    conformance::run_selected(&open, wanted)
}

#[test]
fn the_folder_library_conforms() {
    let report = report("folder", json!({}), |_| true);
    assert!(report.passed(), "{report}");
}

#[test]
fn a_poor_server_conforms_by_what_it_declares() {
    let poor = json!({
        "resume": "none", "replace": "none", "staged_readable": false,
        "mtime_precision_ns": null, "copy": false, "rename": false, "parallel_ranges": 1,
    });
    let report = report("chaos", json!({ "capabilities": poor }), |_| true);
    assert!(report.passed(), "{report}");
    let skipped = report.cases.iter().filter(|c| matches!(c.verdict, Verdict::Skipped(_))).count();
    assert!(skipped >= 9, "what is not declared must be skipped:\n{report}");
}

#[test]
fn a_backend_that_lies_or_panics_does_not_conform() {
    for (operation, mode, case) in [
        ("get", "wrong-bytes", "what is published is read back, at every size"),
        ("stat", "lie-size", "list and stat agree"),
        ("stage", "short-write", "what is published is read back, at every size"),
        ("publish", "panic", "a publish can be repeated"),
        ("list", "unknown-kind", "a recursive listing shows everything below"),
    ] {
        let fault = json!({ "fault": [{ "op": operation, "mode": mode }] });
        let report = report("chaos", fault, |name| name == case);
        assert!(matches!(report.verdict(case), Some(Verdict::Failed(_))), "{mode} in {operation}:\n{report}");
    }
}

#[test]
fn a_hanging_backend_that_hears_its_cancellation_ends_in_time() {
    let case = "a cancelled staging ends within two seconds";
    let report =
        report("chaos", json!({ "fault": [{ "op": "stage", "mode": "hang" }] }), |name| name == case);
    assert_eq!(report.verdict(case), Some(&Verdict::Passed), "{report}");
}
