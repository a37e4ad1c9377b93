//! What the tests share: an opened target, sources, one upload in a line.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use offsite_plugin_api::conformance::TestHost;
use offsite_plugin_api::{
    Attributes, Backend, Call, Entry, Error, Expect, Host, Opened, Plugin, PublishRequest, Range, Result,
    ResumeFrom, Secrets, Session, Sink, Source, StageRequest, Staged, TargetPath, Token, Zeroizing,
};
use offsite_plugin_s3::S3Plugin;
use offsite_tests::servers::garage::Service;
use serde_json::Value;

pub const MIB: u64 = 1 << 20;
pub const FOLDER: &str = "a folder/deep";

pub fn secrets(service: &Service) -> Secrets {
    let secret = |name: &str, value: &str| (name.to_owned(), Zeroizing::new(value.to_owned()));
    Secrets(vec![
        secret("access_key_id", &service.access_key),
        secret("secret_access_key", &service.secret_key),
    ])
}

/// One machine: what the plugin remembers outlasts each opened target.
pub fn machine(service: &Service) -> Arc<dyn Host> {
    Arc::new(TestHost::new(secrets(service)))
}

pub fn url(service: &Service) -> String {
    format!("s3+{}/{}/a%20folder/deep", service.endpoint(), service.bucket)
}

pub fn open(service: &Service, options: &Value, host: &Arc<dyn Host>) -> Box<dyn Backend> {
    open_at(&url(service), secrets(service), options, host)
}

pub fn open_at(url: &str, secrets: Secrets, options: &Value, host: &Arc<dyn Host>) -> Box<dyn Backend> {
    S3Plugin.open(Opened { url, options, secrets, host: host.clone() }).unwrap()
}

/// What is wrong before any server is asked.
pub fn refused_at(url: &str, secrets: Secrets, options: &Value, host: &Arc<dyn Host>) -> Error {
    S3Plugin.open(Opened { url, options, secrets, host: host.clone() }).err().unwrap()
}

pub fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

/// Bytes that depend on seed and offset; counts what is read.
pub struct Data {
    pub seed: u64,
    pub size: u64,
    pub read: AtomicU64,
    /// Reads from here on fail.
    pub broken_from: u64,
}

impl Data {
    pub fn new(seed: u64, size: u64) -> Arc<Self> {
        Arc::new(Self { seed, size, read: AtomicU64::new(0), broken_from: u64::MAX })
    }

    pub fn broken(seed: u64, size: u64, from: u64) -> Arc<Self> {
        Arc::new(Self { seed, size, read: AtomicU64::new(0), broken_from: from })
    }

    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        for (n, chunk) in out.chunks_mut(64).enumerate() {
            let word = (offset / 64 + n as u64 + self.seed * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for (m, byte) in chunk.iter_mut().enumerate() {
                *byte = (word >> (m % 8 * 8)) as u8 ^ m as u8;
            }
        }
        out
    }
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        assert!(offset.is_multiple_of(64));
        if offset + buf.len() as u64 > self.broken_from {
            return Err(offsite_plugin_api::Error::new(
                offsite_plugin_api::ErrorKind::Offline,
                "the source is gone",
            ));
        }
        let n = (self.size - offset).min(buf.len() as u64) as usize;
        buf[..n].copy_from_slice(&self.bytes(offset, n));
        self.read.fetch_add(n as u64, Ordering::SeqCst);
        Ok(n)
    }
}

/// Keeps the last checkpoint.
#[derive(Default)]
pub struct Journal(pub Mutex<Option<ResumeFrom>>);

impl Session for Journal {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        assert!(durable);
        *self.0.lock().unwrap() = Some(ResumeFrom { token: token.clone(), ranges: ranges.to_vec() });
        Ok(())
    }
}

#[derive(Default)]
pub struct Collect(pub Mutex<Vec<u8>>);

impl Sink for Collect {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
}

pub fn stage_request(name: &str, size: u64, streams: u32) -> StageRequest {
    StageRequest {
        path: path(name),
        staging: path("offsite-0123abcd-0123456789abcdef.part"),
        attributes: Attributes::default(),
        size,
        streams,
        owner: "0123abcd".into(),
        resume: None,
    }
}

pub fn stage(backend: &dyn Backend, name: &str, data: &Arc<Data>, streams: u32) -> Result<Staged> {
    let request = stage_request(name, data.size, streams);
    backend.stage(&Call::unwatched(), &request, data.clone(), Arc::new(Journal::default()))
}

pub fn publish_request(name: &str, token: Token, data: &Arc<Data>, expect: Expect) -> PublishRequest {
    PublishRequest {
        token,
        path: path(name),
        expect,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: data.size,
        source: data.clone(),
    }
}

pub fn put(backend: &dyn Backend, name: &str, data: &Arc<Data>) -> Result<Entry> {
    let staged = stage(backend, name, data, 2)?;
    backend.publish(&Call::unwatched(), &publish_request(name, staged.token, data, Expect::Any))
}

pub fn get(backend: &dyn Backend, name: &str) -> Result<Vec<u8>> {
    let sink = Arc::new(Collect::default());
    backend.get(&Call::unwatched(), &path(name), None, None, sink.clone())?;
    Ok(std::mem::take(&mut *sink.0.lock().unwrap()))
}
