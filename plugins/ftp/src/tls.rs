//! TLS on control and data connections (RFC 4217): whom to trust, and one session for both.
//!
//! Servers ask that a data connection continues the TLS session of its control connection, which proves that both ends are the
//! same. So each control connection has a configuration (and with it a session cache) of its own. The handshake is made
//! at once, not with the first byte: a file of no bytes needs it as well.
//!
//! TLS 1.2 comes first: its session continues as often as there are data connections. With TLS 1.3 each needs a ticket that was
//! not used yet, and servers send too few of them (ProFTPD stops after some). A server that speaks nothing older gets 1.3;
//! there each handshake may bring a ticket, in what the server sends: it is read before a data connection is closed. A session
//! that has used up its tickets is not used for another.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offsite_plugin_api::Result;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, StreamOwned, version};
use suppaftp::{FtpError, FtpResult, TlsConnector, TlsStream};

use super::config::{Config, invalid};

/// How long the end of a data connection is waited for, where a ticket may come with it.
const DRAIN: Duration = Duration::from_secs(2);
/// As many as the library keeps of one server.
const TICKETS: usize = 8;

/// What a handshake ended with, kept because the library makes a text of it.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Sight>>);

#[derive(Debug, Default)]
struct Sight {
    failure: Option<io::Error>,
    newest: bool,
    wants_newer: bool,
    /// Tickets of TLS 1.3 that were not used yet; `None` before there was one.
    tickets: Option<usize>,
}

/// Whether the other side may speak, but nothing as old as TLS 1.2.
fn too_old(error: &io::Error) -> bool {
    use rustls::{AlertDescription, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    matches!(
        inner,
        Some(
            Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
                | Error::PeerIncompatible(_)
        )
    )
}

impl Seen {
    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a newer TLS may be what the server wants.
    pub fn wants_newer(&self) -> bool {
        self.sight().wants_newer
    }

    pub fn failure(&self) -> Option<io::Error> {
        self.sight().failure.take()
    }

    /// Whether a handshake ended with TLS 1.3.
    pub fn newest(&self) -> bool {
        self.sight().newest
    }

    /// Whether all tickets of a server that gives some are used: it may refuse the next data connection.
    pub fn worn(&self) -> bool {
        self.sight().tickets == Some(0)
    }
}

/// The sessions of one control connection: what the library keeps in memory, with the tickets counted.
#[derive(Debug)]
struct Sessions {
    kept: ClientSessionMemoryCache,
    seen: Seen,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.kept.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.kept.insert_tls13_ticket(server, value);
        let mut sight = self.seen.sight();
        sight.tickets = Some((sight.tickets.unwrap_or(0) + 1).min(TICKETS));
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let taken = self.kept.take_tls13_ticket(server)?;
        let mut sight = self.seen.sight();
        sight.tickets = sight.tickets.map(|count| count.saturating_sub(1));
        Some(taken)
    }
}

/// For one control connection and its data connections.
#[derive(Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    timeout: Duration,
    seen: Seen,
    /// The first connection is the control connection.
    data: AtomicBool,
}

impl Connector {
    /// `newer`: TLS 1.3, for a server that refused 1.2.
    pub fn new(config: &Config, trust: Arc<dyn ServerCertVerifier>, newer: bool, seen: Seen) -> Result<Self> {
        let versions: &[&rustls::SupportedProtocolVersion] =
            if newer { &[&version::TLS13] } else { &[&version::TLS12] };
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("ring has ciphers for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(trust)
            .with_no_client_auth();
        let kept = ClientSessionMemoryCache::new(TICKETS);
        client.resumption = Resumption::store(Arc::new(Sessions { kept, seen: seen.clone() }));
        let name = ServerName::try_from(config.host.clone())
            .map_err(|_| invalid(format!("'{}' is no name that a certificate can hold", config.host)))?;
        Ok(Self {
            config: Arc::new(client),
            name,
            timeout: config.timeout,
            seen,
            data: AtomicBool::new(false),
        })
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
        self.seen.sight().newest |= newest;
        let data = self.data.swap(true, Ordering::Relaxed);
        Ok(Secured { stream: StreamOwned::new(connection, stream), drains: newest && data })
    }
}

impl TlsConnector for Connector {
    type Stream = Secured;

    fn connect(&self, _: &str, stream: TcpStream) -> FtpResult<Secured> {
        self.shake(stream).map_err(|error| {
            let text = error.to_string();
            let mut sight = self.seen.sight();
            sight.wants_newer = too_old(&error);
            sight.failure = Some(error);
            FtpError::SecureError(text)
        })
    }
}

#[derive(Debug)]
pub struct Secured {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// What the server sends is read before the end: there is a ticket in it.
    drains: bool,
}

impl Read for Secured {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buf) {
            // Without the closing alert: FTP servers leave it out, and a file's length is known by other means.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            // The handshake is long over: vsftpd's last words, when it is ended, are in plain text.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the server fell out of TLS: {error}"),
            )),
            other => other,
        }
    }
}

impl Write for Secured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl TlsStream for Secured {
    type InnerStream = Self;

    fn tcp_stream(self) -> FtpResult<TcpStream> {
        self.stream.sock.try_clone().map_err(FtpError::ConnectionError)
    }

    fn get_ref(&self) -> &TcpStream {
        &self.stream.sock
    }

    fn mut_ref(&mut self) -> &mut Self {
        self
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.stream.conn.send_close_notify();
        // A peer that is gone hears no farewell.
        let said = self.stream.flush().and_then(|()| self.stream.sock.shutdown(Shutdown::Write));
        if self.drains && said.is_ok() && self.stream.sock.set_read_timeout(Some(DRAIN)).is_ok() {
            // A few hundred bytes, then the server closes, too; more than that is a download that nobody wants.
            let mut rest = [0; 4096];
            let _ = self.stream.read(&mut rest);
        }
    }
}
