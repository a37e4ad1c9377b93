//! A double, not a real server: AWS's answer to a request that was signed for the wrong region, in front of a real S3 server.
//!
//! No server that can be installed here refuses a wrong region as AWS does. AWS answers HEAD with 400 or 301 and no body,
//! everything else with 400 `AuthorizationHeaderMalformed` (or 301 `PermanentRedirect`), and names the bucket's region in
//! `x-amz-bucket-region` ("Amazon S3 API reference, error responses"; HeadBucket). Requests for the right region pass
//! through unchanged, as bytes, so that the real server checks their signature.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::garage::Service;
use super::http::Head;

/// How the wrong region is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// 301, as an endpoint of another region or the global one answers.
    Permanent,
    /// 400, as an endpoint answers whose signature names another region.
    Malformed,
}

pub struct Redirect {
    service: Service,
    refused: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
}

impl Redirect {
    /// In front of `service`, whose region is the only right one.
    pub fn start(service: &Service, style: Style) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (refused, stopping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (refused.clone(), stopping.clone());
        let (upstream, region) = (service.address, service.region.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (region, count) = (region.clone(), count.clone());
                std::thread::spawn(move || serve(client, upstream, &region, style, &count));
            }
        });
        Self { service: service.at(address), refused, stopping }
    }

    /// The service as a client sees it through the double; its region is the right one.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Requests refused for their region.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.service.address);
    }
}

fn serve(
    client: TcpStream,
    upstream: SocketAddr,
    region: &str,
    style: Style,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let Some(head) = Head::read(&mut from)? else { return Ok(()) };
    if signed_for(&head).as_deref() == Some(region) {
        return pass(client, &head, from.buffer(), upstream);
    }
    count.fetch_add(1, Ordering::SeqCst);
    refuse(client, &head, from, region, style)
}

/// The region in the credential's scope: `Credential=KEY/DAY/REGION/s3/aws4_request`.
fn signed_for(head: &Head) -> Option<String> {
    let scope = head.header("authorization")?.split("Credential=").nth(1)?;
    scope.split('/').nth(2).map(str::to_owned)
}

fn refuse(
    mut client: TcpStream,
    head: &Head,
    from: BufReader<TcpStream>,
    region: &str,
    style: Style,
) -> io::Result<()> {
    if head.header("expect").is_none() {
        io::copy(&mut from.take(head.length().unwrap_or(0)), &mut io::sink())?;
    }
    let (status, code, message) = match style {
        Style::Permanent => (
            "301 Moved Permanently",
            "PermanentRedirect",
            "The bucket you are attempting to access must be addressed using the specified endpoint.",
        ),
        Style::Malformed => (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the region is wrong.",
        ),
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
         <Region>{region}</Region><RequestId>0123456789ABCDEF</RequestId></Error>"
    );
    let body = if head.start.starts_with("HEAD ") { "" } else { &body };
    let answer = format!(
        "HTTP/1.1 {status}\r\nx-amz-bucket-region: {region}\r\nx-amz-request-id: 0123456789ABCDEF\r\n\
         Content-Type: application/xml\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    // Until the client has read it: closing with unread input would reset the connection under the answer.
    io::copy(&mut client.take(1 << 30), &mut io::sink()).map(drop)
}

/// The rest of the connection goes to the real server.
fn pass(client: TcpStream, head: &Head, begun: &[u8], upstream: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&[&head.raw, begun].concat())?;
    let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
    let back = std::thread::spawn(move || {
        let mut client = client;
        let _ = io::copy(&mut down, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut up, &mut server);
    let _ = server.shutdown(Shutdown::Write);
    back.join().map_err(|_| io::Error::other("the copying thread panicked"))
}
