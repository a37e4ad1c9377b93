//! Garage with its LMDB engine: one node, one bucket, one key.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::port::Port;
use super::process::{Process, Recipe};
use super::s3::Client;

/// What `tests/run` builds.
pub const VERSION: &str = "2.5.0";

/// An S3 service that a test talks to: where it is and how to get in.
#[derive(Clone, Debug)]
pub struct Service {
    pub address: SocketAddr,
    pub region: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Service {
    /// `http://127.0.0.1:…`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same service through another address, a proxy's.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// A client of the harness's own.
    pub fn client(&self) -> Client {
        Client::new(self.clone())
    }
}

pub struct Garage {
    process: Process,
    service: Service,
    _ports: [Port; 2],
    dir: tempfile::TempDir,
}

impl Default for Garage {
    fn default() -> Self {
        Self::start()
    }
}

impl Garage {
    /// In region `garage`, with an empty bucket `offsite`.
    #[track_caller]
    pub fn start() -> Self {
        Self::in_region("garage")
    }

    #[track_caller]
    pub fn in_region(region: &str) -> Self {
        let program = program();
        let ports = [Port::take(), Port::take()];
        let dir = super::folder("garage");
        let service = Service {
            address: (Ipv4Addr::LOCALHOST, ports[0].number()).into(),
            region: region.into(),
            bucket: "offsite".into(),
            access_key: format!("GK{}", super::random_hex(12)),
            secret_key: super::random_hex(32),
        };
        let path = dir.path();
        let text = format!(
            "metadata_dir = \"{0}/meta\"\ndata_dir = \"{0}/data\"\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             metadata_fsync = false\ndata_fsync = false\nrpc_bind_addr = \"127.0.0.1:{1}\"\n\
             rpc_public_addr = \"127.0.0.1:{1}\"\nrpc_secret = \"{2}\"\n\
             [s3_api]\ns3_region = \"{3}\"\napi_bind_addr = \"{4}\"\n",
            path.display(),
            ports[1].number(),
            super::random_hex(32),
            service.region,
            service.address,
        );
        let config = path.join("garage.toml");
        fs::write(&config, text).expect("the folder is writable");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("the mode can be set");
        let recipe = Recipe::new("garage", &program, path.join("log"))
            .args(["-c"])
            .args([&config])
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", &service.access_key)
            .env("GARAGE_DEFAULT_SECRET_KEY", &service.secret_key)
            .env("GARAGE_DEFAULT_BUCKET", &service.bucket)
            .env("RUST_LOG", "garage=info");
        let mut server = Self { process: Process::new(recipe), service, _ports: ports, dir };
        server.up();
        server
    }

    #[track_caller]
    fn up(&mut self) {
        let client = self.service.client();
        self.process.start(|| client.try_list("").is_ok());
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

    /// The same server on the same port, with what it held.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.stop();
        self.up();
    }

    /// Throws away what it holds: a new node with the same bucket and key.
    #[track_caller]
    pub fn reset(&mut self) {
        self.process.stop();
        for name in ["meta", "data"] {
            fs::remove_dir_all(self.dir.path().join(name)).expect("the data can be removed");
        }
        self.up();
    }
}

/// The program `tests/run` built, or a panic that says how to get it.
#[track_caller]
pub fn program() -> PathBuf {
    super::installed(super::cache().join(format!("garage-{VERSION}/bin/garage")), "Garage (an S3 server)")
}
