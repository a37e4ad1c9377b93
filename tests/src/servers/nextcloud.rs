//! A double, not a real server: as much of Nextcloud's WebDAV as a client of files and chunked uploads meets.
//!
//! Nextcloud is no package that can be installed here. What it answers follows its developer manual ("Chunked file upload",
//! version 2) and its sources (apps/dav/lib/Upload: chunk names 1 to 10000, `.file` in every upload's folder, no reading of
//! chunks, `OC-Total-Length` checked when they are put together, `X-OC-MTime`, `{DAV:}lastmodified`). Files lie in a
//! temporary folder as they are. Tests can have the next request of a method refused, or let it merge behind a gateway's back.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::http::{Head, escape, unescape};

pub const USER: &str = "jürgen";
pub const PASSWORD: &str = "app:pass wörd";
const FILES: &str = "/remote.php/dav/files/j%C3%BCrgen/";
const UPLOADS: &str = "/remote.php/dav/uploads/j%C3%BCrgen/";

pub struct Nextcloud {
    address: SocketAddr,
    shared: Arc<Shared>,
    _dir: tempfile::TempDir,
}

struct Shared {
    files: PathBuf,
    uploads: PathBuf,
    script: Mutex<VecDeque<(String, u16, String)>>,
    seen: Mutex<Vec<String>>,
    received: AtomicU64,
    temporary: AtomicU64,
    slow: Mutex<Option<Duration>>,
    stopping: AtomicBool,
    /// Basic, as the header carries it.
    login: String,
}

impl Default for Nextcloud {
    fn default() -> Self {
        Self::start()
    }
}

impl Nextcloud {
    #[track_caller]
    pub fn start() -> Self {
        let dir = super::folder("nextcloud");
        let [files, uploads] = ["data", "uploads"].map(|name| dir.path().join(name));
        for folder in [&files, &uploads] {
            fs::create_dir(folder).expect("a folder");
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            files,
            uploads,
            script: Mutex::default(),
            seen: Mutex::default(),
            received: AtomicU64::new(0),
            temporary: AtomicU64::new(0),
            slow: Mutex::default(),
            stopping: AtomicBool::new(false),
            login: format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes())),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let shared = serving.clone();
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Self { address, shared, _dir: dir }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://j%C3%BCrgen@127.0.0.1:port/remote.php/dav/files/j%C3%BCrgen/`
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// The same place through another address, a proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("http://j%C3%BCrgen@{address}{FILES}")
    }

    /// The user's files, as they lie there.
    pub fn data(&self) -> PathBuf {
        self.shared.files.clone()
    }

    /// Uploads that are not put together.
    pub fn uploads(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.shared.uploads).expect("the folder is there");
        entries.map(|e| e.expect("it can be read").path()).collect()
    }

    /// The next request with this method is answered so, whatever it is; `headers`: whole lines, `\r\n` at their ends.
    pub fn answer_next(&self, method: &str, status: u16, headers: &str) {
        lock(&self.shared.script).push_back((method.into(), status, headers.into()));
    }

    /// Putting chunks together answers 504 at once and is done that much later: a gateway that lost its patience.
    pub fn merge_behind_a_gateway(&self, takes: Duration) {
        *lock(&self.shared.slow) = Some(takes);
    }

    /// Every request so far: method and decoded path.
    pub fn seen(&self) -> Vec<String> {
        lock(&self.shared.seen).clone()
    }

    /// Bytes of bodies of PUTs.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Drop for Nextcloud {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is answered: status, header lines, body.
struct Reply(u16, String, Body);

enum Body {
    Text(String),
    /// Offset and length.
    File(File, u64, u64),
}

fn reply(status: u16) -> Reply {
    Reply(status, String::new(), Body::Text(String::new()))
}

fn refuse(status: u16, message: &str) -> Reply {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<d:error xmlns:d=\"DAV:\" xmlns:s=\"http://sabredav.org/ns\">\n  \
         <s:exception>Sabre\\DAV\\Exception</s:exception>\n  <s:message>{message}</s:message>\n</d:error>\n"
    );
    Reply(status, String::new(), Body::Text(text))
}

/// One request, its body still to be read.
struct Request<'a> {
    head: Head,
    method: String,
    path: String,
    body: &'a mut dyn Read,
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let _ = client.set_nodelay(true);
        let mut from = BufReader::with_capacity(1 << 16, client.try_clone().expect("a second handle"));
        while let Ok(Some(head)) = Head::read(&mut from) {
            if !matches!(self.one(head, &mut from, &client), Ok(true)) {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }

    /// False: the connection ends.
    fn one(&self, head: Head, from: &mut impl Read, mut to: &TcpStream) -> io::Result<bool> {
        let mut words = head.start.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        lock(&self.seen)
            .push(format!("{method} {}", String::from_utf8_lossy(&unescape(&path.replace('+', "%2B")))));
        let mut body = from.take(head.length().unwrap_or(0));
        let scripted = {
            let mut script = lock(&self.script);
            script.iter().position(|(m, ..)| *m == method).and_then(|at| script.remove(at))
        };
        let logged_in = head.header("authorization") == Some(&self.login);
        let Reply(status, headers, answer) = match scripted {
            Some((_, status, headers)) => Reply(status, headers, Body::Text(String::new())),
            None if !logged_in => {
                let wants = "WWW-Authenticate: Basic realm=\"Nextcloud\", charset=\"UTF-8\"\r\n";
                Reply(401, wants.into(), Body::Text(String::new()))
            }
            None => {
                let mut request = Request { head, method: method.clone(), path, body: &mut body };
                self.act(&mut request).unwrap_or_else(|e| refuse(500, &e.to_string()))
            }
        };
        // A refusal may come before the body is read: the connection is no good any more then.
        let whole = body.limit() == 0;
        let length = match &answer {
            Body::Text(text) => text.len() as u64,
            Body::File(_, _, length) => *length,
        };
        let close = if whole { "" } else { "Connection: close\r\n" };
        write!(
            to,
            "HTTP/1.1 {status} X\r\nServer: Double of Nextcloud\r\n{headers}{close}Content-Length: {length}\r\n\r\n"
        )?;
        match answer {
            _ if method == "HEAD" => {}
            Body::Text(text) => to.write_all(text.as_bytes())?,
            Body::File(mut file, offset, length) => {
                file.seek(SeekFrom::Start(offset))?;
                io::copy(&mut file.take(length), &mut to)?;
            }
        }
        Ok(whole)
    }

    /// Where a path lies, and whether it is below the uploads. `None`: neither files nor uploads.
    fn place(&self, path: &str) -> Option<(PathBuf, bool)> {
        let (base, rest, uploads) = match (path.strip_prefix(FILES), path.strip_prefix(UPLOADS)) {
            (Some(rest), _) => (&self.files, rest, false),
            (_, Some(rest)) => (&self.uploads, rest, true),
            _ => return None,
        };
        let mut place = base.clone();
        for part in rest.split('/').filter(|p| !p.is_empty()) {
            place.push(std::ffi::OsString::from_vec(unescape(&part.replace('+', "%2B"))));
        }
        Some((place, uploads))
    }

    fn act(&self, request: &mut Request<'_>) -> io::Result<Reply> {
        if request.path == "/ocs/v1.php/cloud/capabilities" {
            let json = "{\"ocs\":{\"meta\":{\"status\":\"ok\",\"statuscode\":100},\"data\":{\"version\":{\"string\":\"30.0.4\"},\
                \"capabilities\":{\"dav\":{\"chunking\":\"1.0\"},\"theming\":{\"name\":\"Nextcloud (a double)\"}}}}}";
            return Ok(Reply(200, "Content-Type: application/json\r\n".into(), Body::Text(json.into())));
        }
        let Some((place, uploads)) = self.place(&request.path) else {
            return Ok(refuse(404, "no such node"));
        };
        if place.file_name().is_some_and(|name| name.len() > 250) {
            return Ok(refuse(400, "Filename too long"));
        }
        match request.method.as_str() {
            "OPTIONS" => Ok(Reply(200, "DAV: 1, 3, extended-mkcol\r\n".into(), Body::Text(String::new()))),
            "PROPFIND" => self.propfind(request, &place, uploads),
            "MKCOL" => Ok(match fs::create_dir(&place) {
                Ok(()) => reply(201),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => refuse(405, "exists already"),
                Err(e) if e.kind() == io::ErrorKind::NotFound => refuse(409, "Parent node does not exist"),
                Err(e) => return Err(e),
            }),
            "PUT" => self.put(request, &place, uploads),
            "GET" | "HEAD" if uploads => Ok(refuse(405, "Reading intermediate uploads is not allowed")),
            "GET" | "HEAD" => get(request, &place),
            "DELETE" => Ok(match fs::symlink_metadata(&place) {
                Err(_) => refuse(404, "no such node"),
                Ok(found) if found.is_dir() => fs::remove_dir_all(&place).map(|()| reply(204))?,
                Ok(_) => fs::remove_file(&place).map(|()| reply(204))?,
            }),
            "MOVE" => self.r#move(request, &place, uploads),
            "PROPPATCH" => proppatch(request, &place),
            _ => Ok(refuse(501, "not implemented")),
        }
    }

    fn propfind(&self, request: &mut Request<'_>, place: &Path, uploads: bool) -> io::Result<Reply> {
        io::copy(&mut request.body, &mut io::sink())?;
        let Ok(found) = fs::metadata(place) else { return Ok(refuse(404, "no such node")) };
        let href = request.path.trim_end_matches('/').to_owned();
        let mut text =
            "<?xml version=\"1.0\"?>\n<d:multistatus xmlns:d=\"DAV:\" xmlns:s=\"http://sabredav.org/ns\" \
            xmlns:oc=\"http://owncloud.org/ns\">"
                .to_owned();
        text += &response(&href, &found, None);
        if found.is_dir() && request.head.header("depth") == Some("1") {
            let mut sum = 0;
            for entry in fs::read_dir(place)? {
                let entry = entry?;
                let found = entry.metadata()?;
                sum += found.len();
                text += &response(
                    &format!("{href}/{}", escape(entry.file_name().as_bytes(), false)),
                    &found,
                    None,
                );
            }
            if uploads && place.parent() == Some(&self.uploads) {
                text += &response(&format!("{href}/.file"), &found, Some(sum));
            }
        }
        text += "</d:multistatus>";
        Ok(Reply(207, "Content-Type: application/xml; charset=utf-8\r\n".into(), Body::Text(text)))
    }

    fn put(&self, request: &mut Request<'_>, place: &Path, chunk: bool) -> io::Result<Reply> {
        let number = place.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
        if chunk && !number.is_some_and(|n| (1..=10_000).contains(&n)) {
            return Ok(refuse(400, "Invalid chunk name, must be numeric between 1 and 10000"));
        }
        if chunk && request.head.header("destination").is_none() {
            return Ok(refuse(400, "no destination"));
        }
        if !place.parent().is_some_and(Path::is_dir) {
            let status = if chunk { 404 } else { 409 };
            return Ok(refuse(status, "Files cannot be created in non-existent collections"));
        }
        let existed = place.exists();
        let temporary = self.temporary();
        let mut file = File::create(&temporary)?;
        let wanted = request.head.length().unwrap_or(0);
        let mut buffer = vec![0; 1 << 16];
        let mut got = 0;
        loop {
            let n = request.body.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            self.received.fetch_add(n as u64, Ordering::SeqCst);
            file.write_all(&buffer[..n])?;
            got += n as u64;
        }
        if got < wanted {
            fs::remove_file(&temporary)?;
            return Ok(refuse(400, &format!("Expected filesize of {wanted} bytes but read {got}")));
        }
        let time = mtime(&request.head);
        if let Some(time) = time {
            file.set_modified(time)?;
        }
        fs::rename(&temporary, place)?;
        let accepted = if time.is_some() { "X-OC-MTime: accepted\r\n" } else { "" };
        Ok(Reply(if existed { 204 } else { 201 }, accepted.into(), Body::Text(String::new())))
    }

    fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::SeqCst);
        self.files.with_file_name(format!("temporary-{number}"))
    }

    fn r#move(&self, request: &mut Request<'_>, place: &Path, uploads: bool) -> io::Result<Reply> {
        let to = request.head.header("destination").unwrap_or_default();
        let to = to.split_once("://").map_or(to, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        let Some((to, false)) = self.place(to) else { return Ok(refuse(400, "no destination")) };
        let whole = uploads && place.file_name().is_some_and(|n| n == ".file");
        let there = if whole { place.parent().is_some_and(Path::is_dir) } else { place.exists() };
        if !there {
            return Ok(refuse(404, "no such node"));
        }
        if to.file_name().is_some_and(|name| name.len() > 250) {
            return Ok(refuse(400, "Filename too long"));
        }
        if !to.parent().is_some_and(Path::is_dir) {
            return Ok(refuse(409, "The destination node is not found"));
        }
        let existed = to.exists();
        if existed && request.head.header("overwrite") == Some("F") {
            return Ok(refuse(
                412,
                "The destination node already exists, and the overwrite header is set to false",
            ));
        }
        let done = reply(if existed { 204 } else { 201 });
        if !whole {
            fs::rename(place, &to)?;
            return Ok(done);
        }
        let folder = place.parent().expect("it has one").to_owned();
        let mut chunks: Vec<PathBuf> =
            fs::read_dir(&folder)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        chunks.sort();
        let sum: u64 = chunks.iter().map(|c| fs::metadata(c).map_or(0, |m| m.len())).sum();
        if request.head.header("oc-total-length").is_some_and(|wanted| wanted != sum.to_string()) {
            return Ok(refuse(
                400,
                &format!("Chunks on server do not sum up to what was said but to {sum} bytes"),
            ));
        }
        let (temporary, time) = (self.temporary(), mtime(&request.head));
        let merge = move || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            for chunk in &chunks {
                io::copy(&mut File::open(chunk)?, &mut file)?;
            }
            if let Some(time) = time {
                file.set_modified(time)?;
            }
            fs::rename(&temporary, &to)?;
            fs::remove_dir_all(&folder)
        };
        match lock(&self.slow).take() {
            Some(takes) => {
                std::thread::spawn(move || {
                    std::thread::sleep(takes);
                    merge()
                });
                Ok(refuse(504, "Gateway time-out"))
            }
            None => merge().map(|()| done),
        }
    }
}

fn get(request: &Request<'_>, place: &Path) -> io::Result<Reply> {
    let Ok(file) = File::open(place) else { return Ok(refuse(404, "no such node")) };
    let found = file.metadata()?;
    if found.is_dir() {
        return Ok(refuse(405, "not a file"));
    }
    let size = found.len();
    let range =
        request.head.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let Some((from, to)) = range.and_then(|(f, t)| Some((f.parse::<u64>().ok()?, t.parse::<u64>().ok()?)))
    else {
        return Ok(Reply(200, String::new(), Body::File(file, 0, size)));
    };
    if from >= size {
        return Ok(refuse(416, "The start offset exceeded the size of the entity"));
    }
    let to = to.min(size - 1);
    let header = format!("Content-Range: bytes {from}-{to}/{size}\r\n");
    Ok(Reply(206, header, Body::File(file, from, to + 1 - from)))
}

fn proppatch(request: &mut Request<'_>, place: &Path) -> io::Result<Reply> {
    let mut text = String::new();
    request.body.read_to_string(&mut text)?;
    let time = text.split_once("<lastmodified>").and_then(|(_, rest)| rest.split('<').next()?.parse().ok());
    let (Ok(file), Some(seconds)) = (File::options().append(true).open(place), time) else {
        return Ok(refuse(if place.exists() { 400 } else { 404 }, "no such node or property"));
    };
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))?;
    let text = format!(
        "<?xml version=\"1.0\"?><d:multistatus xmlns:d=\"DAV:\"><d:response><d:href>{}</d:href><d:propstat><d:prop>\
         <d:lastmodified/></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>",
        request.path
    );
    Ok(Reply(207, String::new(), Body::Text(text)))
}

fn mtime(head: &Head) -> Option<SystemTime> {
    let seconds = head.header("x-oc-mtime")?.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// One response of a multistatus; `size` instead of the file's own.
fn response(href: &str, found: &fs::Metadata, size: Option<u64>) -> String {
    let seconds = found.mtime();
    let etag =
        format!("{:x}{:x}{:x}", found.ino(), found.mtime_nsec() + seconds * 1_000_000_000, found.len());
    let (kind, length) = match (found.is_dir(), size) {
        (true, None) => ("<d:resourcetype><d:collection/></d:resourcetype>".to_owned(), String::new()),
        (_, size) => {
            let size = size.unwrap_or(found.len());
            ("<d:resourcetype/>".to_owned(), format!("<d:getcontentlength>{size}</d:getcontentlength>"))
        }
    };
    let slash = if found.is_dir() && size.is_none() { "/" } else { "" };
    format!(
        "<d:response><d:href>{href}{slash}</d:href><d:propstat><d:prop>{kind}{length}<d:getlastmodified>{}</d:getlastmodified>\
         <d:getetag>&quot;{etag}&quot;</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>",
        date(seconds)
    )
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn date(seconds: i64) -> String {
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][days.rem_euclid(7) as usize];
    let (mut year, mut left) = (1970, days);
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{weekday}, {:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", left + 1, names[month])
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for n in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * n) & 63) as usize] as char;
            out.push(if n <= three.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_base64_are_right() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(1_709_208_000), "Thu, 29 Feb 2024 12:00:00 GMT");
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|t| base64(t.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }
}
