//! A backend that does what a script in the test says: notes each call with its arguments, and returns, fails or
//! panics as told. One script per URL.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offsite_plugin_api::abi::host::{LogSink, Module};
use offsite_plugin_api::*;
use zeroize::Zeroizing;

pub struct Script {
    /// Method and arguments of each call.
    pub seen: Vec<(&'static str, String)>,
    pub panic_at: &'static str,
    pub error: Option<Error>,
    pub capabilities: Capabilities,
    pub space: Space,
    pub report: CheckReport,
    pub page: Page,
    pub entry: Entry,
    pub staged: Staged,
    pub infos: Vec<StagedInfo>,
    pub batch: Vec<Result<()>>,
    pub digest: Digest,
}

impl Default for Script {
    fn default() -> Self {
        let token = Token(vec![0, 255, 10]);
        let info = StagedInfo { token: token.clone(), path: None, owner: String::new(), bytes: 7, age: None };
        Self {
            seen: Vec::new(),
            panic_at: "",
            error: None,
            capabilities: Capabilities::default(),
            space: Space { total: Some(u64::MAX), free: None },
            report: CheckReport::default(),
            page: Page::default(),
            entry: Entry::file(TargetPath::new("x").unwrap(), 1),
            staged: Staged { token, size: 3, digests: vec![digest()] },
            infos: vec![info],
            batch: vec![Ok(()), Err(Error::new(ErrorKind::NotFound, "gone"))],
            digest: digest(),
        }
    }
}

pub fn digest() -> Digest {
    Digest { algorithm: "sha256".into(), value: vec![0, 1, 255] }
}

static SCRIPTS: Mutex<BTreeMap<String, Arc<Mutex<Script>>>> = Mutex::new(BTreeMap::new());

pub fn script(url: &str) -> Arc<Mutex<Script>> {
    SCRIPTS.lock().unwrap().entry(url.to_owned()).or_default().clone()
}

pub struct Scripted;

offsite_plugin_api::export_backend! {
    plugin: Scripted,
    metadata: {
        id: "scripted",
        version: "9.8.7",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "Follows a script, for tests",
        schemes: [("scripted", Some(4711))],
        options: r#"{"type":"object"}"#,
    }
}

struct Player {
    script: Arc<Mutex<Script>>,
    host: Arc<dyn Host>,
}

impl Plugin for Scripted {
    fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
        let player = Player { script: script(target.url), host: target.host };
        let secrets: Vec<_> = target.secrets.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        player.enter("open", format!("{} {secrets:?}", target.options))?;
        Ok(Box::new(player))
    }
}

impl Player {
    fn enter(&self, method: &'static str, arguments: String) -> Result<()> {
        let mut script = self.script.lock().unwrap();
        script.seen.push((method, arguments));
        let panics = script.panic_at == method;
        let error = script.error.clone().filter(|_| method != "open" && method != "identity");
        drop(script);
        assert!(!panics, "told to panic in {method}");
        error.map_or(Ok(()), Err)
    }

    fn read<T>(&self, f: impl FnOnce(&Script) -> T) -> T {
        f(&self.script.lock().unwrap())
    }

    /// Drives every callback and notes what came of it.
    fn drive(&self, call: &Call) -> Result<String> {
        let mut notes = Vec::new();
        let mut note = |what: &str, outcome: String| notes.push(format!("{what}: {outcome}"));
        note("cancelled", call.cancelled().to_string());
        note("remaining", format!("{:?}", call.remaining()));
        note("pace", format!("{:?}", call.pace(11).map_err(|e| e.kind().clone())));
        call.acked(12);
        call.alive("still here");
        call.log(Level::Warn, "look");
        let kinds = |e: Error| format!("{} {e}", e.kind());
        note("secret", format!("{:?}", self.host.secret("password").map(|s| s.to_string()).map_err(kinds)));
        note("state_get", format!("{:?}", self.host.state_get("key").map_err(kinds)));
        note("state_put", format!("{:?}", self.host.state_put("key", &[0, 254]).map_err(kinds)));
        note("invoke", format!("{:?}", self.host.invoke("op", "{}").map_err(kinds)));
        Ok(notes.join("\n"))
    }
}

/// Reads all of a source from four threads and returns it.
fn read_all(source: &dyn Source) -> Result<Vec<u8>> {
    let size = source.size();
    let quarter = size.div_ceil(4).max(1);
    let parts: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn(move || {
                    let start = (n * quarter).min(size);
                    let mut buf = vec![0; (size - start).min(quarter) as usize];
                    let read = source.read_at(start, &mut buf)?;
                    buf.truncate(read);
                    Ok(buf)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

impl Backend for Player {
    fn identity(&self) -> String {
        self.enter("identity", String::new()).unwrap();
        "scripted://ünique".to_owned()
    }
    fn capabilities(&self, _: &Call) -> Result<Capabilities> {
        self.enter("capabilities", String::new())?;
        Ok(self.read(|s| s.capabilities.clone()))
    }
    fn space(&self, _: &Call) -> Result<Space> {
        self.enter("space", String::new())?;
        Ok(self.read(|s| s.space))
    }
    fn check(&self, call: &Call) -> Result<CheckReport> {
        self.enter("check", String::new())?;
        let mut report = self.read(|s| s.report.clone());
        report.add("drive", StepResult::Passed, self.drive(call)?);
        Ok(report)
    }
    fn list(&self, _: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        self.enter("list", format!("{dir:?} {recursive} {page:?}"))?;
        Ok(self.read(|s| s.page.clone()))
    }
    fn stat(&self, _: &Call, path: &TargetPath) -> Result<Entry> {
        self.enter("stat", format!("{path:?}"))?;
        Ok(self.read(|s| s.entry.clone()))
    }
    fn stage(
        &self,
        _: &Call,
        r: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        self.enter("stage", format!("{r:?} {:?}", read_all(&*source)?))?;
        let ranges = [Range { offset: 0, length: 1 }, Range { offset: 5, length: u64::MAX - 5 }];
        session.checkpoint(&Token(vec![1, 0, 2]), &ranges, true)?;
        Ok(self.read(|s| s.staged.clone()))
    }
    fn stat_staged(&self, _: &Call, token: &Token) -> Result<StagedInfo> {
        self.enter("stat_staged", format!("{token:?}"))?;
        Ok(self.read(|s| s.infos[0].clone()))
    }
    fn read_staged(&self, _: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        self.enter("read_staged", format!("{token:?} {range:?}"))?;
        sink.write(b"staged")
    }
    fn list_staged(&self, _: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        self.enter("list_staged", format!("{dir:?}"))?;
        Ok(self.read(|s| s.infos.clone()))
    }
    fn discard(&self, _: &Call, token: &Token) -> Result<()> {
        self.enter("discard", format!("{token:?}"))
    }
    fn publish(&self, _: &Call, r: &PublishRequest) -> Result<Entry> {
        let bytes = read_all(&*r.source)?;
        let what = (&r.token, &r.path, &r.expect, &r.attributes, &r.digests, r.size, bytes);
        self.enter("publish", format!("{what:?}"))?;
        Ok(self.read(|s| s.entry.clone()))
    }
    fn get(
        &self,
        _: &Call,
        path: &TargetPath,
        range: Option<Range>,
        v: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        self.enter("get", format!("{path:?} {range:?} {v:?}"))?;
        sink.write(b"got")?;
        sink.write(b" it")
    }
    fn delete(&self, _: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        self.enter("delete", format!("{path:?} {expect:?}"))
    }
    fn delete_batch(&self, _: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        self.enter("delete_batch", format!("{items:?}"))?;
        Ok(self.read(|s| s.batch.clone()))
    }
    fn copy(&self, _: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        self.enter("copy", format!("{from:?} {to:?} {expect:?}"))?;
        Ok(self.read(|s| s.entry.clone()))
    }
    fn rename(&self, _: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        self.enter("rename", format!("{from:?} {to:?} {expect:?}"))?;
        Ok(self.read(|s| s.entry.clone()))
    }
    fn make_dir(&self, _: &Call, path: &TargetPath) -> Result<()> {
        self.enter("make_dir", format!("{path:?}"))
    }
    fn set_attributes(&self, _: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        self.enter("set_attributes", format!("{path:?} {attributes:?}"))?;
        Ok(self.read(|s| s.entry.clone()))
    }
    fn digest(&self, _: &Call, object: &Object, algorithm: &str, range: Option<Range>) -> Result<Digest> {
        self.enter("digest", format!("{object:?} {algorithm} {range:?}"))?;
        Ok(self.read(|s| s.digest.clone()))
    }
    fn invoke(
        &self,
        _: &Call,
        op: &str,
        json: &str,
        source: Option<Arc<dyn Source>>,
        sink: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        let bytes = source.map(|s| read_all(&*s)).transpose()?;
        self.enter("invoke", format!("{op} {json} {bytes:?} {}", sink.is_some()))?;
        match op {
            "tracing" => {
                tracing::info!(number = 3, text = "a\"b", "said {}", "it");
                tracing::debug!("too verbose");
            }
            "log" => log::warn!(target: "elsewhere", "said {}", "so"),
            "thread" => std::thread::spawn(|| tracing::error!("from a thread")).join().unwrap(),
            "thread panic" => drop(std::thread::spawn(|| panic!("on its own")).join()),
            _ => {}
        }
        sink.map_or(Ok(()), |s| s.write(b"poured"))?;
        Ok("{\"ok\":true}".to_owned())
    }
    fn close(&self, deadline: Duration) {
        self.enter("close", format!("{deadline:?}")).unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if let Ok(mut script) = self.script.lock() {
            script.seen.push(("drop", String::new()));
            let panics = script.panic_at == "drop";
            drop(script);
            assert!(!panics, "told to panic in drop");
        }
    }
}

/// A host that answers, and keeps what the plugin logs.
#[derive(Default)]
pub struct TestHost {
    pub fail: bool,
    pub panic: bool,
    pub state: Mutex<BTreeMap<String, Vec<u8>>>,
    pub log: Mutex<Vec<(Level, String, String)>>,
}

impl TestHost {
    fn act<T>(&self, value: T) -> Result<T> {
        assert!(!self.panic, "the host panics");
        if self.fail {
            return Err(
                Error::new(ErrorKind::Locked, "not now").with_retry(Retry::After(Duration::from_secs(9)))
            );
        }
        Ok(value)
    }
}

impl Host for TestHost {
    fn secret(&self, name: &str) -> Result<Zeroizing<String>> {
        self.act(Zeroizing::new(format!("{name} geheim ✓")))
    }
    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.act(self.state.lock().unwrap().get(key).cloned())
    }
    fn state_put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.act(())?;
        self.state.lock().unwrap().insert(key.to_owned(), value.to_vec());
        Ok(())
    }
    fn invoke(&self, operation: &str, json: &str) -> Result<String> {
        self.act(format!("{operation}{json}"))
    }
}

impl LogSink for TestHost {
    fn log(&self, level: Level, target: &str, message: &str) {
        self.log.lock().unwrap().push((level, target.to_owned(), message.to_owned()));
    }
}

pub fn module() -> Module {
    Module::in_process::<__offsite_export::Exported>()
}

pub fn open_with(url: &str, host: &Arc<TestHost>) -> Result<Box<dyn Backend>> {
    let secrets = Secrets(vec![("password".into(), Zeroizing::new("pässword".into()))]);
    module().open(url, &serde_json::json!({"a": [1, "ü"]}), &secrets, host.clone(), host.clone())
}

pub fn open(url: &str) -> Box<dyn Backend> {
    open_with(url, &Arc::new(TestHost::default())).unwrap()
}

/// Calls every method once with telling arguments; the outcome as text, or the error.
pub fn call_each(
    backend: &dyn Backend,
    call: &Call,
    sink: &Arc<Bytes>,
) -> Vec<(&'static str, Result<String>)> {
    let path = TargetPath::new(b"d\xfc/\xe9 \xf0\x9f\xa6\x80.img".to_vec()).unwrap();
    let to = TargetPath::new("to").unwrap();
    let token = Token(vec![0, 1, 2, 255]);
    let attributes = Attributes {
        mtime: Some(Timestamp { ns: -5, precision_ns: 100 }),
        retention: Some(Retention { mode: "GOVERNANCE".into(), until: i64::MAX }),
        class: Some("COLD".into()),
        extra: BTreeMap::from([("k".into(), "v".into())]),
    };
    let range = Range { offset: 3, length: 4 };
    let source: Arc<dyn Source> = Arc::new(Bytes::of(b"0123456789"));
    let stage = StageRequest {
        path: path.clone(),
        staging: TargetPath::new("s.part").unwrap(),
        attributes: attributes.clone(),
        size: 10,
        streams: 3,
        owner: "öwner".into(),
        resume: Some(ResumeFrom { token: token.clone(), ranges: vec![range] }),
    };
    let publish = PublishRequest {
        token: token.clone(),
        path: path.clone(),
        expect: Expect::Version("v\"1".into()),
        attributes: attributes.clone(),
        digests: vec![digest()],
        size: 10,
        source: source.clone(),
    };
    let version = Expect::Version("v".into());
    let items = [(path.clone(), Expect::Absent), (to.clone(), Expect::Any)];
    fn show<T: std::fmt::Debug>(result: Result<T>) -> Result<String> {
        result.map(|v| format!("{v:?}"))
    }
    let staged = Object::Staged(token.clone());
    vec![
        ("capabilities", show(backend.capabilities(call))),
        ("space", show(backend.space(call))),
        ("check", show(backend.check(call))),
        ("list", show(backend.list(call, &path, true, Some(&[9, 0])))),
        ("stat", show(backend.stat(call, &path))),
        ("stage", show(backend.stage(call, &stage, source.clone(), sink.clone()))),
        ("stat_staged", show(backend.stat_staged(call, &token))),
        ("read_staged", show(backend.read_staged(call, &token, range, sink.clone()))),
        ("list_staged", show(backend.list_staged(call, &path))),
        ("discard", show(backend.discard(call, &token))),
        ("publish", show(backend.publish(call, &publish))),
        ("get", show(backend.get(call, &path, Some(range), Some("v"), sink.clone()))),
        ("delete", show(backend.delete(call, &path, &version))),
        ("delete_batch", show(backend.delete_batch(call, &items))),
        ("copy", show(backend.copy(call, &path, &to, &Expect::Absent))),
        ("rename", show(backend.rename(call, &path, &to, &Expect::Any))),
        ("make_dir", show(backend.make_dir(call, &path))),
        ("set_attributes", show(backend.set_attributes(call, &path, &attributes))),
        ("digest", show(backend.digest(call, &staged, "sha256", Some(range)))),
        ("invoke", show(backend.invoke(call, "op", "{\"x\":1}", Some(source), Some(sink.clone())))),
    ]
}

/// A source of these bytes; a sink and a session that keep what comes.
#[derive(Default)]
pub struct Bytes {
    pub bytes: Vec<u8>,
    pub written: Mutex<Vec<u8>>,
    pub checkpoints: Mutex<Vec<(Token, Vec<Range>, bool)>>,
}

impl Bytes {
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::default() }
    }
}

impl Source for Bytes {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl Sink for Bytes {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.written.lock().unwrap().extend(bytes);
        Ok(())
    }
}

impl Session for Bytes {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        self.checkpoints.lock().unwrap().push((token.clone(), ranges.to_vec(), durable));
        Ok(())
    }
}
