//! The first message, corrected: a client that encrypts must say so in its capabilities (MS-SMB2 2.2.3).
//!
//! The library offers its ciphers without that bit, whereupon Samba refuses to encrypt and Windows does for 3.1.1 alone. The
//! bit is set on the way out; the keys hang on a hash of what was really sent, which is therefore taken anew.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use smb2::client::Connection;
use smb2::transport::{ReceiveProgress, TcpTransport, TransportReceive, TransportSend};
use smb2::types::Command;
use smb2::types::flags::Capabilities;
use smb2::{Error, Result};

/// The message header's size, and where it holds the command; where a NEGOTIATE holds its capabilities.
const HEADER: usize = 64;
const COMMAND: usize = 12;
const CAPABILITIES: usize = HEADER + 8;

pub struct Hello {
    tcp: TcpTransport,
    /// NEGOTIATE and its answer as they were on the wire, until they are taken.
    sent: Mutex<Vec<u8>>,
    received: Mutex<Vec<u8>>,
}

impl Hello {
    /// A connection over `tcp` that has negotiated. `host`: as it stands in the share's UNC path.
    pub async fn negotiate(
        tcp: TcpTransport,
        host: String,
        prepare: impl FnOnce(&Connection),
    ) -> Result<Connection> {
        let hello = Arc::new(Self { tcp, sent: Mutex::default(), received: Mutex::default() });
        let mut connection =
            Connection::from_transport(Box::new(hello.clone()), Box::new(hello.clone()), host);
        prepare(&connection);
        connection.negotiate().await?;
        let (sent, received) = (taken(&hello.sent), taken(&hello.received));
        if sent.is_empty() || received.is_empty() {
            return Err(Error::invalid_data("the server answered what it was not asked"));
        }
        connection.with_preauth_hasher_mut(|hash| {
            *hash = Default::default();
            hash.update(&sent);
            hash.update(&received);
        });
        Ok(connection)
    }
}

fn taken(bytes: &Mutex<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut *bytes.lock().unwrap_or_else(PoisonError::into_inner))
}

fn is_negotiate(message: &[u8]) -> bool {
    let command = Command::Negotiate as u16;
    message.starts_with(b"\xfeSMB")
        && message.len() >= CAPABILITIES + 4
        && message[COMMAND..COMMAND + 2] == command.to_le_bytes()
}

/// Says that this client can encrypt.
fn correct(message: &mut [u8]) {
    let bits = Capabilities::ENCRYPTION.to_le_bytes();
    for (byte, bit) in message[CAPABILITIES..CAPABILITIES + 4].iter_mut().zip(bits) {
        *byte |= bit;
    }
}

#[async_trait]
impl TransportSend for Hello {
    async fn send(&self, message: &[u8]) -> Result<()> {
        if !is_negotiate(message) {
            return self.tcp.send(message).await;
        }
        let mut message = message.to_vec();
        correct(&mut message);
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&message);
        self.tcp.send(&message).await
    }
}

#[async_trait]
impl TransportReceive for Hello {
    async fn receive(&self) -> Result<Vec<u8>> {
        let message = self.tcp.receive().await?;
        if is_negotiate(&message) {
            self.received.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&message);
        }
        Ok(message)
    }

    fn receive_progress(&self) -> Option<Arc<ReceiveProgress>> {
        self.tcp.receive_progress()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smb2::msg::header::Header;
    use smb2::msg::negotiate::NegotiateRequest;
    use smb2::pack::{Guid, Pack, ReadCursor, Unpack, WriteCursor};
    use smb2::types::Dialect;
    use smb2::types::flags::SecurityMode;

    #[test]
    fn only_the_capability_is_changed_and_only_in_a_negotiate() {
        let request = NegotiateRequest {
            security_mode: SecurityMode::new(SecurityMode::SIGNING_ENABLED),
            capabilities: Capabilities::new(Capabilities::LARGE_MTU),
            client_guid: Guid { data1: 1, data2: 2, data3: 3, data4: [4; 8] },
            dialects: vec![Dialect::Smb3_0],
            negotiate_contexts: Vec::new(),
        };
        let mut cursor = WriteCursor::new();
        Header::new_request(Command::Negotiate).pack(&mut cursor);
        request.pack(&mut cursor);
        let mut message = cursor.into_inner();
        assert!(is_negotiate(&message));
        correct(&mut message);
        let read = NegotiateRequest::unpack(&mut ReadCursor::new(&message[HEADER..])).unwrap();
        let wanted = Capabilities::new(Capabilities::LARGE_MTU | Capabilities::ENCRYPTION);
        assert_eq!(read, NegotiateRequest { capabilities: wanted, ..request });

        message[COMMAND] = Command::Create as u8;
        assert!(!is_negotiate(&message) && !is_negotiate(b"\xfeSMB") && !is_negotiate(b""));
    }
}
