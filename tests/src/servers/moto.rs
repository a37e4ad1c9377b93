//! Moto's server, for what Garage lacks: Object Lock, conditional writes, versioning, regions.
//!
//! It keeps everything in memory, and checks no signature.

use std::net::{Ipv4Addr, SocketAddr};

use super::garage::Service;
use super::port::Port;
use super::process::{Process, Recipe};
use super::s3::Client;

/// What `tests/run` installs from PyPI.
pub const VERSION: &str = "5.2.5";

/// It names the answer to ListParts wrongly ("ListPartsResponse"); clients that check the name refuse that.
const START: &str = "\
import sys
import moto.s3.responses as responses
given = responses.S3Response.list_parts
def list_parts(self):
    *head, body = given(self)
    return (*head, body.replace('ListPartsResponse', 'ListPartsResult'))
responses.S3Response.list_parts = list_parts
from moto.server import main
sys.exit(main())
";

pub struct Moto {
    process: Process,
    service: Service,
    locked: bool,
    _port: Port,
    _dir: tempfile::TempDir,
}

impl Default for Moto {
    fn default() -> Self {
        Self::start()
    }
}

impl Moto {
    /// In region `us-east-1`, with an empty bucket `offsite`.
    #[track_caller]
    pub fn start() -> Self {
        Self::with("us-east-1", false)
    }

    /// `locked`: the bucket is made with Object Lock, so versioned.
    #[track_caller]
    pub fn with(region: &str, locked: bool) -> Self {
        let installed = |name: &str| {
            super::installed(super::cache().join(format!("moto-{VERSION}/bin/{name}")), "moto's server")
        };
        installed("moto_server");
        let program = installed("python3");
        let port = Port::take();
        let dir = super::folder("moto");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        let service = Service {
            address,
            region: region.into(),
            bucket: "offsite".into(),
            access_key: "AKIAOFFSITETESTS".into(),
            secret_key: super::random_hex(20),
        };
        let recipe = Recipe::new("moto", &program, dir.path().join("log"))
            .args(["-c", START])
            .args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()])
            .env("TMPDIR", &dir.path().to_string_lossy());
        let mut server = Self { process: Process::new(recipe), service, locked, _port: port, _dir: dir };
        server.up();
        server
    }

    #[track_caller]
    fn up(&mut self) {
        let address = self.service.address;
        self.process.start(|| super::process::accepts(address));
        self.client().make_bucket(self.locked);
    }

    pub fn service(&self) -> &Service {
        &self.service
    }

    pub fn client(&self) -> Client {
        self.service.client()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn stop(&mut self) {
        self.process.stop();
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// On the same port, with an empty bucket: it keeps nothing over a restart.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.stop();
        self.up();
    }

    /// Throws away what it holds.
    #[track_caller]
    pub fn reset(&mut self) {
        self.restart();
    }
}
