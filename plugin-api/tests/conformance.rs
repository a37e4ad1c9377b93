//! The kit itself: a backend that keeps every promise passes, directly and across the boundary, and for each promise a
//! backend that breaks only that one fails the case named for it.
#![allow(clippy::unwrap_used)]

mod memory;

use std::sync::Arc;

use offsite_plugin_api::abi::host::{LogSink, Module};
use offsite_plugin_api::conformance::{self, Verdict};
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

fn open(url: &str, flaw: &str) -> Box<dyn Backend> {
    let module = Module::in_process::<memory::Exported>();
    module
        .open(url, &json!({ "flaw": flaw }), &Secrets::default(), Arc::new(NoHost), Arc::new(NoHost))
        .unwrap()
}

#[test]
fn a_backend_that_keeps_the_contract_passes_across_the_boundary() {
    let report = conformance::run(&|| open("memory:good", ""));
    assert!(report.passed(), "{report}");
    let skipped: Vec<_> = report.cases.iter().filter(|c| matches!(c.verdict, Verdict::Skipped(_))).collect();
    assert!(skipped.is_empty(), "{report}");
    // And nothing is left of it.
    let backend = open("memory:good", "");
    let left = backend.list(&Call::unwatched(), &TargetPath::root(), true, None).unwrap();
    assert!(left.entries.is_empty(), "{left:?}");
}

const FLAWS: &[(&str, &str)] = &[
    ("leaves files out of listings", "a recursive listing shows everything below"),
    ("always leaves something out", "a recursive listing shows everything below"),
    ("overwrites", "publish, absent expected, refuses an existing name"),
    ("ignores versions", "publish, a version expected, refuses another one"),
    ("ignores versions", "get, a version expected, refuses another one"),
    ("ignores versions", "delete, a version expected, refuses another one"),
    ("range one too long", "a range is read exactly"),
    ("range one too long", "staged bytes can be read back"),
    ("deaf to cancellation", "a cancelled staging ends within two seconds"),
    ("deaf to cancellation", "a staging ends when its time runs out"),
    ("deaf to cancellation", "a cancelled get ends within two seconds"),
    ("swallows sink errors", "the sink's own error ends a get"),
    ("identity changes", "the identity is the same each time"),
    ("check leaves debris", "the check passes and leaves nothing behind"),
    ("lists the missing", "what is missing is NotFound"),
    ("one page only", "a listing of many files is whole"),
    ("resumes from nothing", "an interrupted staging sends only the rest"),
    ("resends all", "an interrupted staging sends only the rest"),
    ("no checkpoints", "an interrupted staging sends only the rest"),
    ("forgets the owner", "list_staged shows token, owner and bytes"),
    ("hides source errors", "the source's own error comes back"),
    ("takes short sources", "a source that ends early is not staged"),
    ("does not pace", "paced and acknowledged bytes are the file's size"),
    ("does not acknowledge", "paced and acknowledged bytes are the file's size"),
    ("does not pace", "a staging that waits for its pace can be cancelled"),
    ("ignores checkpoint errors", "a refused checkpoint stops the staging"),
    ("visible at once", "nothing has the name before the publish"),
    ("keeps the discarded", "a discard can be repeated, and the token is gone"),
    ("discards once", "a discard can be repeated, and the token is gone"),
    ("publishes once", "a publish can be repeated"),
    ("publishes halves", "an incomplete staging is not published"),
    ("gap at replace", "a replaced file is old or new, never neither"),
    ("loses the last byte", "what is published is read back, at every size"),
    ("flips a bit", "what is published is read back, at every size"),
    ("lowers case", "names that differ in case are two files"),
    ("lowers case", "awkward names come back byte for byte"),
    ("forgets times", "publish sets the modification time"),
    ("forgets times", "the modification time can be set"),
    ("deletes the missing", "a deleted file is gone"),
    ("deletes trees", "a directory is deleted only when it is empty"),
    ("short batches", "a batch of deletions has a result for each"),
    ("copies over", "a copy has the same bytes and overwrites nothing unasked"),
    ("renames by copying", "a rename moves the bytes and overwrites nothing unasked"),
    ("makes once", "a directory can be made, twice"),
    ("wrong digests", "digests are right"),
    ("any digest", "digests are right"),
    ("knows everything", "an unknown operation is Unsupported"),
    ("closes slowly", "closing returns in time"),
];

#[test]
fn each_broken_promise_fails_the_case_named_for_it() {
    for (n, (flaw, case)) in FLAWS.iter().enumerate() {
        let url = format!("memory:flaw-{n}");
        let report = conformance::run_selected(&|| open(&url, flaw), |name| name == *case);
        let verdict = report.verdict(case);
        assert!(matches!(verdict, Some(Verdict::Failed(_))), "'{flaw}' passed '{case}': {verdict:?}");
    }
}

#[test]
fn every_case_that_can_be_broken_is_broken_by_some_flaw() {
    let broken: Vec<_> = FLAWS.iter().map(|(_, case)| *case).collect();
    let untested: Vec<_> = conformance::cases().filter(|c| !broken.contains(c)).collect();
    // What these look at has no switch of its own in the memory backend.
    let known = [
        "several files can be in flight at once",
        "a token that names nothing is stale or starts anew",
        "list and stat agree",
        "a name that is refused is refused, not changed",
        "the capabilities make sense",
        "free space makes sense",
    ];
    assert_eq!(untested, known);
}
