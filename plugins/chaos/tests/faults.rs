//! The faults do what they say: a test tool that does nothing would make every fault test pass.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use offsite_plugin_api::*;
use offsite_plugin_chaos::ChaosPlugin;
use serde_json::json;

struct Store;

impl Host for Store {
    fn secret(&self, _: &str) -> Result<zeroize::Zeroizing<String>> {
        Err(Error::unsupported("secrets"))
    }
    fn state_get(&self, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn state_put(&self, _: &str, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn invoke(&self, _: &str, _: &str) -> Result<String> {
        Err(Error::unsupported("that"))
    }
}

fn open(dir: &std::path::Path, options: serde_json::Value) -> Result<Box<dyn Backend>> {
    let url = format!("chaos:{}", dir.display());
    ChaosPlugin.open(Opened {
        url: &url,
        options: &options,
        secrets: Secrets::default(),
        host: Arc::new(Store),
    })
}

struct Data(Vec<u8>);

impl Source for Data {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = &self.0[offset as usize..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

#[derive(Default)]
struct Seen(Mutex<Vec<bool>>);

impl Session for Seen {
    fn checkpoint(&self, _: &Token, _: &[Range], durable: bool) -> Result<()> {
        self.0.lock().unwrap().push(durable);
        Ok(())
    }
}

fn put(backend: &dyn Backend, name: &str, data: &[u8]) -> Result<(Staged, Entry)> {
    let call = Call::unwatched();
    let source = Arc::new(Data(data.to_vec()));
    let request = StageRequest {
        path: TargetPath::new(name)?,
        staging: TargetPath::new(&b"offsite-00000000-0000000000000000.part"[..])?,
        attributes: Attributes::default(),
        size: data.len() as u64,
        streams: 2,
        owner: "00000000".into(),
        resume: None,
    };
    let staged = backend.stage(&call, &request, source.clone(), Arc::new(Seen::default()))?;
    let publish = PublishRequest {
        token: staged.token.clone(),
        path: request.path,
        expect: Expect::Any,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: data.len() as u64,
        source,
    };
    Ok((staged, backend.publish(&call, &publish)?))
}

#[test]
fn faults_count_over_processes_and_end() {
    let (dir, counters) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = json!({
        "fault": [{"op": "list", "mode": "error:Quota", "after": 1, "times": 2}],
        "counter_dir": counters.path(),
    });
    let list = || {
        let backend = open(dir.path(), options.clone()).unwrap();
        backend.list(&Call::unwatched(), &TargetPath::root(), true, None).err().map(|e| e.kind().clone())
    };
    assert_eq!(
        [list(), list(), list(), list()],
        [None, Some(ErrorKind::Quota), Some(ErrorKind::Quota), None]
    );
}

#[test]
fn lies_shortness_and_wrong_bytes_show() {
    let data = vec![9; 100_000];
    for (mode, size, same) in [("lie-size", 100_001, true), ("wrong-bytes", 100_000, false)] {
        let dir = tempfile::tempdir().unwrap();
        let backend = open(dir.path(), json!({"fault": [{"op": "stage", "mode": mode}]})).unwrap();
        let (staged, _) = put(&*backend, "a", &data).unwrap();
        assert_eq!(staged.size, size, "{mode}");
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap() == data, same, "{mode}");
    }
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path(), json!({"fault": [{"op": "stage", "mode": "short-write"}]})).unwrap();
    assert_eq!(
        put(&*backend, "a", &data).unwrap_err().kind(),
        &ErrorKind::Corrupt,
        "published with half its bytes"
    );
    let backend = open(dir.path(), json!({"fault": [{"op": "stage", "mode": "cut-after:1000"}]})).unwrap();
    assert_eq!(put(&*backend, "a", &data).unwrap_err().kind(), &ErrorKind::Interrupted);
}

#[test]
fn claimed_capabilities_are_kept_to() {
    let dir = tempfile::tempdir().unwrap();
    let claimed = json!({"capabilities": {
        "replace": "none", "staged_readable": false, "rename": false, "digests": ["blake3"], "names": {"case_sensitive": false},
    }});
    let backend = open(dir.path(), claimed).unwrap();
    let call = Call::unwatched();
    let capabilities = backend.capabilities(&call).unwrap();
    assert_eq!((capabilities.replace, capabilities.names.case_sensitive), (Replace::None, false));
    assert_eq!(capabilities.names.longest_name, 255, "what is not claimed stays");
    let (staged, _) = put(&*backend, "a", b"one").unwrap();
    assert_eq!(put(&*backend, "a", b"two").unwrap_err().kind(), &ErrorKind::Exists);
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"one");
    let digest = backend.digest(&call, &Object::Path(TargetPath::new("a").unwrap()), "blake3", None).unwrap();
    assert_eq!(digest.value, blake3::hash(b"one").as_bytes());
    let (a, b) = (TargetPath::new("a").unwrap(), TargetPath::new("b").unwrap());
    assert_eq!(backend.rename(&call, &a, &b, &Expect::Absent).unwrap_err().kind(), &ErrorKind::Unsupported);
    drop(staged);
}

#[test]
fn a_lock_keeps_a_file_until_it_ends() {
    let (dir, counters) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = json!({"capabilities": {"retention": true}, "counter_dir": counters.path()});
    let backend = open(dir.path(), options).unwrap();
    let (call, path) = (Call::unwatched(), TargetPath::new("a").unwrap());
    put(&*backend, "a", b"one").unwrap();
    let lock = |until| Attributes {
        retention: Some(Retention { mode: "GOVERNANCE".into(), until }),
        ..Attributes::default()
    };
    backend.set_attributes(&call, &path, &lock(i64::MAX)).unwrap();
    assert_eq!(backend.delete(&call, &path, &Expect::Any).unwrap_err().kind(), &ErrorKind::Retained);
    assert!(backend.stat(&call, &path).unwrap().retention.is_some());
    backend.set_attributes(&call, &path, &lock(1)).unwrap();
    backend.delete(&call, &path, &Expect::Any).unwrap();
}

#[test]
fn unknown_modes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path(), json!({"fault": [{"op": "list", "mode": "explode"}]})).err().unwrap();
    assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
}
