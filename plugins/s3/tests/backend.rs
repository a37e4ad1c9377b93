//! What only this backend has: parts proved on resume, owners of uploads, untrusted keys, digests behind the body.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use offsite_plugin_api::{Call, Digest, EntryKind, ErrorKind, Expect, Range};
use offsite_tests::servers::garage::Garage;
use serde_json::json;

fn key(name: &str) -> Vec<u8> {
    format!("{FOLDER}/{name}").into_bytes()
}

use aws_smithy_types::base64::encode as base64;

#[test]
fn a_resume_takes_no_part_that_is_not_what_was_sent() {
    let server = Garage::start();
    let backend = open(server.service(), &json!({}), &machine(server.service()));
    let data = Data::broken(1, 80 * MIB, 64 * MIB);
    let journal = Arc::new(Journal::default());
    let mut request = stage_request("x.img", data.size, 1);
    backend.stage(&Call::unwatched(), &request, data, journal.clone()).unwrap_err();
    let last = journal.0.lock().unwrap().take().unwrap();
    assert_eq!(last.ranges, [Range { offset: 0, length: 64 * MIB }]);
    // Somebody with the same key puts other bytes into the second part.
    let (_, upload) = server.client().uploads().pop().unwrap();
    let other = Data::new(9, 16 * MIB);
    let query = [("partNumber", "2"), ("uploadId", upload.as_str())];
    let body = other.bytes(0, 16 << 20);
    let sum = base64(crc_fast::crc64_nvme(&body).to_be_bytes());
    let tamper = || {
        let headers = [("x-amz-checksum-crc64nvme", sum.as_str())];
        let answer = server.client().send("PUT", &key("x.img"), &query, &headers, &body).unwrap();
        assert_eq!(answer.head.status(), 200, "{answer:?}");
    };
    tamper();
    let publish = publish_request("x.img", last.token.clone(), &Data::new(1, 80 * MIB), Expect::Absent);
    assert!(backend.publish(&Call::unwatched(), &publish).is_err(), "an incomplete upload");

    request.resume = Some(last);
    let whole = Data::new(1, 80 * MIB);
    let staged = backend.stage(&Call::unwatched(), &request, whole.clone(), journal.clone()).unwrap();
    assert_eq!(
        whole.read.load(Ordering::SeqCst),
        32 * MIB,
        "the damaged part and the missing one are sent again"
    );
    // And once more after everything was staged and proved.
    tamper();
    let publish = publish_request("x.img", staged.token, &whole, Expect::Absent);
    let refused = backend.publish(&Call::unwatched(), &publish).unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Corrupt, "{refused}");
    assert!(server.client().list("").is_empty());
}

#[test]
fn large_parts_carry_their_digest_behind_the_body_or_are_read_twice() {
    let server = Garage::start();
    for (name, options, reads) in [("behind.img", json!({}), 1), ("twice.img", json!({"checksum": "md5"}), 2)]
    {
        let backend = open(server.service(), &options, &machine(server.service()));
        // Six parts of 16 MiB in flight are more than is held in memory.
        let data = Data::new(3, 96 * MIB);
        let staged = stage(&*backend, name, &data, 6).unwrap();
        assert_eq!(data.read.load(Ordering::SeqCst), reads * data.size, "{name}");
        let publish = publish_request(name, staged.token, &data, Expect::Absent);
        let entry = backend.publish(&Call::unwatched(), &publish).unwrap();
        assert_eq!(entry.size, data.size);
        assert!(get(&*backend, name).unwrap() == data.bytes(0, data.size as usize), "{name}");
    }
}

#[test]
fn an_upload_is_known_by_its_owner_while_the_local_state_is_there() {
    let server = Garage::start();
    let host = machine(server.service());
    let backend = open(server.service(), &json!({}), &host);
    let data = Data::new(4, 20 * MIB);
    let staged = stage(&*backend, "ours.img", &data, 2).unwrap();
    server.client().must("POST", &key("theirs.img"), &[("uploads", "")], b"");
    let call = Call::unwatched();
    let all = backend.list_staged(&call, &path("")).unwrap();
    let owner = |name: &str, all: &[offsite_plugin_api::StagedInfo]| {
        let found = all.iter().find(|i| i.path == Some(path(name))).unwrap();
        (found.owner.clone(), found.bytes, found.token == staged.token)
    };
    assert_eq!(owner("ours.img", &all), ("0123abcd".into(), 20 * MIB, true));
    assert_eq!(owner("theirs.img", &all), (String::new(), 0, false));
    // Another machine, or this one after its state was lost, sees strangers; it can drop them when told to.
    let stranger = open(server.service(), &json!({}), &machine(server.service()));
    let all = stranger.list_staged(&call, &path("")).unwrap();
    assert_eq!(owner("ours.img", &all).0, "");
    for info in all {
        stranger.discard(&call, &info.token).unwrap();
    }
    assert_eq!(server.client().uploads(), []);
    // What was dropped cannot be published, and is forgotten.
    let publish = publish_request("ours.img", staged.token, &data, Expect::Absent);
    let gone = backend.publish(&call, &publish).unwrap_err();
    assert!(matches!(gone.kind(), ErrorKind::StaleToken | ErrorKind::NotFound), "{gone}");
    assert!(backend.list_staged(&call, &path("")).unwrap().is_empty());
}

#[test]
fn keys_that_are_no_paths_are_passed_over() {
    let server = Garage::start();
    let backend = open(server.service(), &json!({}), &machine(server.service()));
    let client = server.client();
    for name in ["good.img", "../up.img", "a//b.img", "made by a tool/", "sub/./x.img", "tab\t.img"] {
        client.put(&key(name), b"x");
    }
    client.put(b"beside.img", b"x");
    client.put(b"a folder/deeper.img", b"x");
    let page = backend.list(&Call::unwatched(), &path(""), true, None).unwrap();
    let mut found: Vec<_> = page.entries.iter().map(|e| (e.path.display().into_owned(), e.kind)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let file = |n: &str| (n.to_owned(), EntryKind::File);
    assert_eq!(found, [file("good.img"), ("made by a tool".into(), EntryKind::Dir), file("tab\t.img")]);
    // A directory that a tool made can be removed while it is empty.
    client.put(&key("made by a tool/in.img"), b"x");
    let dir = path("made by a tool");
    assert!(backend.delete(&Call::unwatched(), &dir, &Expect::Any).is_err());
    backend.delete(&Call::unwatched(), &path("made by a tool/in.img"), &Expect::Any).unwrap();
    backend.delete(&Call::unwatched(), &dir, &Expect::Any).unwrap();
    assert!(client.list("a folder/deep/made").is_empty());
}

#[test]
fn a_small_file_that_changed_after_it_was_staged_is_not_published() {
    let server = Garage::start();
    let backend = open(server.service(), &json!({}), &machine(server.service()));
    let (data, changed) = (Data::new(5, 70_000), Data::new(6, 70_000));
    let staged = stage(&*backend, "s.img", &data, 1).unwrap();
    let hash = blake3::hash(&data.bytes(0, 70_000)).as_bytes().to_vec();
    let mut publish = publish_request("s.img", staged.token, &changed, Expect::Absent);
    publish.digests = vec![Digest { algorithm: "blake3".into(), value: hash }];
    let refused = backend.publish(&Call::unwatched(), &publish).unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::SourceChanged);
    publish.source = data;
    backend.publish(&Call::unwatched(), &publish).unwrap();
    // The same publish again, by now without a source: it is seen to have succeeded.
    publish.source = Data::broken(5, 70_000, 0);
    backend.publish(&Call::unwatched(), &publish).unwrap();
}
