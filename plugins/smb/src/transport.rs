//! The library's TCP transport, with each message in one write and without Nagle's delay.
//!
//! Its own writes header and body apart and leaves the delay on: with the receiver's delayed acknowledgements every short
//! operation took 44 ms on loopback.

use std::net::SocketAddr;
use std::pin::Pin;

use smb::transport::{IoVec, SmbTransport, SmbTransportRead, SmbTransportWrite, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, TransportError>> + Send + 'a>>;

/// Up to this size a message is gathered; larger parts go out as they are.
const GATHERED: usize = 64 * 1024;

pub struct Tcp {
    peer: SocketAddr,
    reader: Option<OwnedReadHalf>,
    writer: Option<OwnedWriteHalf>,
}

impl Tcp {
    pub async fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { peer: address, reader: Some(reader), writer: Some(writer) })
    }

    fn writer(&mut self) -> Result<&mut OwnedWriteHalf, TransportError> {
        self.writer.as_mut().ok_or(TransportError::NotConnected)
    }
}

/// A connection that ended is told as the library's workers expect it.
fn ended(error: std::io::Error) -> TransportError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionAborted => {
            TransportError::NotConnected
        }
        _ => TransportError::IoError(error),
    }
}

impl SmbTransport for Tcp {
    fn connect<'a>(&'a mut self, _: &'a str, _: SocketAddr) -> Boxed<'a, ()> {
        // It comes connected.
        Box::pin(std::future::ready(Ok(())))
    }

    fn default_port(&self) -> u16 {
        super::config::PORT
    }

    fn split(
        self: Box<Self>,
    ) -> Result<(Box<dyn SmbTransportRead>, Box<dyn SmbTransportWrite>), TransportError> {
        let Self { peer, reader, writer } = *self;
        Ok((Box::new(Self { peer, reader, writer: None }), Box::new(Self { peer, reader: None, writer })))
    }

    fn remote_address(&self) -> Result<SocketAddr, TransportError> {
        Ok(self.peer)
    }
}

impl SmbTransportWrite for Tcp {
    fn send_raw<'a>(&'a mut self, bytes: &'a [u8]) -> Boxed<'a, ()> {
        Box::pin(async move { self.writer()?.write_all(bytes).await.map_err(ended) })
    }

    fn send<'a>(&'a mut self, message: &'a IoVec) -> Boxed<'a, ()> {
        Box::pin(async move {
            let length = u32::try_from(message.total_size()).ok().filter(|l| *l < 1 << 24);
            let length = length.ok_or(TransportError::NotConnected)?;
            // MS-SMB2 2.1: a zero byte, then the length in three.
            let mut gathered = length.to_be_bytes().to_vec();
            let writer = self.writer()?;
            for part in message.iter() {
                if gathered.len() + part.len() > GATHERED {
                    writer.write_all(&gathered).await.map_err(ended)?;
                    gathered.clear();
                    if part.len() > GATHERED {
                        writer.write_all(part).await.map_err(ended)?;
                        continue;
                    }
                }
                gathered.extend_from_slice(part);
            }
            writer.write_all(&gathered).await.map_err(ended)
        })
    }
}

impl SmbTransportRead for Tcp {
    fn receive_exact<'a>(&'a mut self, out: &'a mut [u8]) -> Boxed<'a, ()> {
        Box::pin(async move {
            let reader = self.reader.as_mut().ok_or(TransportError::NotConnected)?;
            reader.read_exact(out).await.map(drop).map_err(ended)
        })
    }
}
