//! A server and the ways to open it that the tests share.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use offsite_plugin_api::conformance::TestHost;
use offsite_plugin_api::*;
use offsite_plugin_sftp::Sftp;
use offsite_tests::servers::sshd::Sshd;
use serde_json::{Value, json};

pub struct Place {
    pub server: Sshd,
    pub host: Arc<TestHost>,
}

impl Place {
    pub fn of(server: Sshd) -> Self {
        Self { server, host: Arc::default() }
    }

    /// By key, with the server's known_hosts.
    pub fn options(&self) -> Value {
        json!({"key_file": self.server.key(), "known_hosts": self.server.known_hosts()})
    }

    pub fn open(&self) -> Box<dyn Backend> {
        self.open_with(&self.server.url(), self.options(), &[]).unwrap()
    }

    pub fn open_with(&self, url: &str, options: Value, secrets: &[(&str, &str)]) -> Result<Box<dyn Backend>> {
        let secret = |(name, value): &(&str, &str)| ((*name).to_owned(), Zeroizing::new((*value).to_owned()));
        let secrets = Secrets(secrets.iter().map(secret).collect());
        let host: Arc<dyn Host> = self.host.clone();
        Ok(Box::new(Sftp::open(&Opened { url, options: &options, secrets, host })?))
    }
}

pub fn path(text: &str) -> TargetPath {
    TargetPath::new(text).unwrap()
}

/// Bytes that depend on the offset alone.
pub struct Data(pub u64);

impl Data {
    pub fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(2_654_435_761) >> 13) as u8
    }

    pub fn bytes(&self) -> Vec<u8> {
        (0..self.0).map(Self::byte).collect()
    }
}

impl Source for Data {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let n = self.0.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (i, byte) in buf[..n].iter_mut().enumerate() {
            *byte = Self::byte(offset + i as u64);
        }
        Ok(n)
    }
}

#[derive(Default)]
pub struct Checkpoints(pub Mutex<Vec<(ResumeFrom, bool)>>);

impl Session for Checkpoints {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        let at = ResumeFrom { token: token.clone(), ranges: ranges.to_vec() };
        self.0.lock().unwrap().push((at, durable));
        Ok(())
    }
}

pub fn request(name: &str, size: u64, streams: u32) -> StageRequest {
    let target = path(name);
    let staging = target.parent().unwrap().join("offsite-0123abcd-0011223344556677.part").unwrap();
    StageRequest {
        path: target,
        staging,
        attributes: Attributes::default(),
        size,
        streams,
        owner: "x".into(),
        resume: None,
    }
}

pub fn put(backend: &dyn Backend, name: &str, size: u64, streams: u32, expect: Expect) -> Result<Entry> {
    let call = Call::unwatched();
    let source = Arc::new(Data(size));
    let staged =
        backend.stage(&call, &request(name, size, streams), source.clone(), Arc::<Checkpoints>::default())?;
    let request = PublishRequest {
        token: staged.token,
        path: path(name),
        expect,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size,
        source,
    };
    backend.publish(&call, &request)
}
