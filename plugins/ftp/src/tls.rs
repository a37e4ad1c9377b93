//! TLS on control and data connections (RFC 4217): whom to trust, and one session for both.
//!
//! Servers ask that a data connection continues the TLS session of its control connection, which proves that both ends are the
//! same. So each control connection has a configuration (and with it a session cache) of its own. The handshake is made
//! at once, not with the first byte: a file of no bytes needs it as well. Tickets of TLS 1.3 are for one use, and a server
//! that sends too few of them is met with TLS 1.2.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use offsite_plugin_api::Result;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, version};
use suppaftp::{FtpError, FtpResult, TlsConnector, TlsStream};

use super::config::{Config, invalid};

/// Errors: `InvalidConfig` for a CA file that cannot be read or holds no certificate.
pub fn roots(config: &Config) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    // A certificate the system keeps and rustls cannot read is none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(file) = &config.ca_file else { return Ok(Arc::new(roots)) };
    let wrong = |why: String| invalid(format!("the ca_file '{file}' {why}"));
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(format!("cannot be read: {e}")))?;
    if certificates.is_empty() {
        return Err(wrong("holds no certificate; it must be PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|e| wrong(format!("holds a certificate that cannot be used: {e}")))?;
    }
    Ok(Arc::new(roots))
}

/// What a handshake ended with, kept because the library makes a text of it.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<(Option<io::Error>, bool)>>);

impl Seen {
    pub fn failure(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Whether a handshake ended with TLS 1.3.
    pub fn newest(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// For one control connection and its data connections.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    timeout: Duration,
    seen: Seen,
}

impl Connector {
    /// `old`: TLS 1.2 only.
    pub fn new(config: &Config, roots: Arc<RootCertStore>, old: bool, seen: Seen) -> Result<Self> {
        let versions: &[&rustls::SupportedProtocolVersion] =
            if old { &[&version::TLS12] } else { &[&version::TLS13, &version::TLS12] };
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("ring has ciphers for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(config.host.clone())
            .map_err(|_| invalid(format!("'{}' is no name that a certificate can hold", config.host)))?;
        Ok(Self { config: Arc::new(client), name, timeout: config.timeout, seen })
    }

    fn shake(&self, mut stream: TcpStream) -> io::Result<Secured> {
        super::dial::prepare(&stream, self.timeout)?;
        let mut connection =
            ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            let (read, wrote) = connection.complete_io(&mut stream)?;
            if read + wrote == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let newest = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).1 |= newest;
        Ok(Secured(StreamOwned::new(connection, stream)))
    }
}

impl TlsConnector for Connector {
    type Stream = Secured;

    fn connect(&self, _: &str, stream: TcpStream) -> FtpResult<Secured> {
        self.shake(stream).map_err(|error| {
            let text = error.to_string();
            self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(error);
            FtpError::SecureError(text)
        })
    }
}

#[derive(Debug)]
pub struct Secured(StreamOwned<ClientConnection, TcpStream>);

impl Read for Secured {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf) {
            // Without the closing alert: FTP servers leave it out, and a file's length is known by other means.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

impl Write for Secured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl TlsStream for Secured {
    type InnerStream = Self;

    fn tcp_stream(self) -> FtpResult<TcpStream> {
        self.0.sock.try_clone().map_err(FtpError::ConnectionError)
    }

    fn get_ref(&self) -> &TcpStream {
        &self.0.sock
    }

    fn mut_ref(&mut self) -> &mut Self {
        self
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        // A peer that is gone hears no farewell.
        let _ = self.0.flush();
        let _ = self.0.sock.shutdown(Shutdown::Write);
    }
}
