//! Connecting, without waiting longer than the call does.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use offsite_plugin_api::Call;
use socket2::{SockRef, TcpKeepalive};

const LOOK: Duration = Duration::from_millis(100);
/// For one address.
const CONNECT: Duration = Duration::from_secs(15);
/// A control connection is silent during a long upload; what stands in between must not forget it.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Does on a thread of its own what cannot be cancelled: when the call ends, the thread is left to end by itself.
fn aside<T: Send + 'static>(
    call: &Call,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (give, take) = sync_channel(1);
    std::thread::Builder::new().name("dial".to_owned()).spawn(move || {
        let _ = give.send(work());
    })?;
    loop {
        match take.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if call.proceed().is_err() => {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the call has ended"));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("connecting broke down")),
        }
    }
}

pub fn addresses(call: &Call, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    aside(call, move || Ok((host.as_str(), port).to_socket_addrs()?.take(8).collect()))
}

/// `timeout`: for each later read and write.
pub fn connect(call: &Call, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = aside(call, move || TcpStream::connect_timeout(&address, CONNECT))?;
    prepare(&stream, timeout)?;
    Ok(stream)
}

pub fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    SockRef::from(stream)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}
