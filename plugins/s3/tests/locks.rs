//! Object Lock and conditional writes, on the server that has them.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::*;
use offsite_plugin_api::{Attributes, Call, ErrorKind, Expect, Retention, StepResult};
use offsite_tests::servers::garage::Garage;
use offsite_tests::servers::moto::Moto;
use serde_json::json;

const DAY: i64 = 86_400;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn what_is_published_is_locked_and_refuses_to_go_until_the_lock_ends() {
    let server = Moto::with("us-east-1", true);
    let options =
        json!({"service": "minio", "checksum": "md5", "retention_mode": "governance", "retention_days": 3});
    let backend = open(server.service(), &options, &machine(server.service()));
    let call = Call::unwatched();
    assert!(backend.capabilities(&call).unwrap().retention);
    for (name, size) in [("small.img", 1000), ("large.img", 20 * MIB)] {
        let data = Data::new(1, size);
        put(&*backend, name, &data).unwrap();
        let entry = backend.stat(&call, &path(name)).unwrap();
        let lock = entry.retention.unwrap();
        assert_eq!(lock.mode, "GOVERNANCE", "{name}");
        assert!((lock.until - now() - 3 * DAY).abs() < 120, "{name}: {}", lock.until - now());
        let kept = backend.delete(&call, &path(name), &Expect::Any).unwrap_err();
        assert_eq!(kept.kind(), &ErrorKind::Retained, "{name}: {kept}");
        let batch = backend.delete_batch(&call, &[(path(name), Expect::Any)]).unwrap();
        assert_eq!(batch[0].as_ref().unwrap_err().kind(), &ErrorKind::Retained);
        assert_eq!(get(&*backend, name).unwrap().len() as u64, size);
    }
    // A listing tells it too, so that a plan does not try what will be refused.
    let page = backend.list(&call, &path(""), true, None).unwrap();
    assert!(page.entries.iter().all(|e| (e.retention.as_ref().unwrap().until - now() - 3 * DAY).abs() < 120));
    // The host's own records come and go.
    put(&*backend, "offsite-manifest/x.0000000001", &Data::new(1, 10)).unwrap();
    backend.delete(&call, &path("offsite-manifest/x.0000000001"), &Expect::Any).unwrap();
    let until = now() + 30 * DAY;
    let longer = Retention { mode: "GOVERNANCE".into(), until };
    let attributes = Attributes { retention: Some(longer.clone()), ..Attributes::default() };
    let entry = backend.set_attributes(&call, &path("small.img"), &attributes).unwrap();
    assert_eq!(entry.retention, Some(longer));
}

#[test]
fn a_server_that_compares_lets_no_stranger_be_overwritten() {
    let server = Moto::start();
    let backend =
        open(server.service(), &json!({"service": "minio", "checksum": "md5"}), &machine(server.service()));
    let call = Call::unwatched();
    for size in [1000, 20 * MIB] {
        let name = format!("{size}.img");
        let data = Data::new(2, size);
        let staged = stage(&*backend, &name, &data, 2).unwrap();
        // It appears between the plan and the publish.
        server.client().put(format!("{FOLDER}/{name}").as_bytes(), b"a stranger's");
        // It compares when it takes an object, not when it completes an upload.
        if size == 1000 {
            let publish = publish_request(&name, staged.token.clone(), &data, Expect::Absent);
            assert_eq!(backend.publish(&call, &publish).unwrap_err().kind(), &ErrorKind::Exists);
            let publish =
                publish_request(&name, staged.token.clone(), &data, Expect::Version("0".repeat(32)));
            assert_eq!(backend.publish(&call, &publish).unwrap_err().kind(), &ErrorKind::PreconditionFailed);
            assert_eq!(get(&*backend, &name).unwrap(), b"a stranger's");
        }
        let version = backend.stat(&call, &path(&name)).unwrap().version.unwrap();
        let publish = publish_request(&name, staged.token, &data, Expect::Version(version));
        let entry = backend.publish(&call, &publish).unwrap();
        // An answer that was lost: the same again finds its own object.
        assert_eq!(backend.publish(&call, &publish).unwrap(), entry, "{name}");
        assert_eq!(get(&*backend, &name).unwrap().len() as u64, size);
    }
}

#[test]
fn the_check_tells_a_bucket_that_cannot_lock() {
    let options =
        json!({"service": "minio", "checksum": "md5", "retention_mode": "compliance", "retention_days": 1});
    for (locked, result) in [(true, StepResult::Passed), (false, StepResult::Failed)] {
        let server = Moto::with("us-east-1", locked);
        let backend = open(server.service(), &options, &machine(server.service()));
        let report = backend.check(&Call::unwatched()).unwrap();
        let step = report.steps.iter().find(|s| s.name == "lock").unwrap();
        assert_eq!(step.result, result, "{report:?}");
        assert_eq!(server.client().list(""), [], "objects of the check are not locked");
    }
    let server = Garage::start();
    let options = json!({"retention_mode": "compliance", "retention_days": 1});
    let backend = open(server.service(), &options, &machine(server.service()));
    let refused = backend.capabilities(&Call::unwatched()).unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::InvalidConfig, "{refused}");
}
