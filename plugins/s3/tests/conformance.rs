//! The conformance kit against real servers: Garage, which compares nothing on writing, and moto's, which does.

mod common;

use common::{machine, open};
use offsite_plugin_api::conformance::{Verdict, assert_conforms, run};
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::moto::Moto;
use serde_json::json;

#[test]
fn garage() {
    let server = Garage::start();
    let host = machine(server.service());
    assert_conforms(&|| open(server.service(), &json!({}), &host));
}

#[test]
fn a_server_that_compares_by_itself() {
    let server = Moto::start();
    let host = machine(server.service());
    // Its list of parts has no CRCs.
    let options = json!({"service": "minio", "checksum": "md5"});
    let report = run(&|| open(server.service(), &options, &host));
    // It gives every upload the same date in 2010, and checks no digest, which is what the check is there to find.
    let own = ["list_staged shows token, owner and bytes", "the check passes and leaves nothing behind"];
    let failed: Vec<_> = report.failures().map(|c| c.name).collect();
    assert_eq!(failed, own, "{report}");
    let told = |name: &str, words: &str| matches!(report.verdict(name), Some(Verdict::Failed(why)) if why.contains(words));
    assert!(
        told(own[0], "the age came back") && told(own[1], "the server takes a wrong md5 for right"),
        "{report}"
    );
}
