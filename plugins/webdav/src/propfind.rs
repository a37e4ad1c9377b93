//! What a server says about its files (PROPFIND, RFC 4918 §9.1): read piece by piece, whatever its size.
//!
//! Elements are known by namespace, never by prefix. Of a response only properties whose propstat says 2xx count. Untrusted:
//! one element is bounded, the nesting is, and the whole answer is.

use std::io::{BufReader, Read};

use offsite_plugin_api::{Error, ErrorKind, Result};
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// Bytes of one name, text or tag.
const ELEMENT: u64 = 1 << 20;
/// Bytes of the whole answer: some millions of files in one folder.
const WHOLE: u64 = 4 << 30;
const DEEPEST: usize = 32;

/// The properties asked for.
pub const ENTRY: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <propfind xmlns=\"DAV:\"><prop><resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>";
pub const QUOTA: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <propfind xmlns=\"DAV:\"><prop><resourcetype/><quota-available-bytes/><quota-used-bytes/></prop></propfind>";

/// One response of a multistatus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub href: String,
    /// Of the response as a whole, where it has one instead of properties.
    pub status: Option<u16>,
    /// Some of its properties were given: without any it may be a file or a collection.
    pub told: bool,
    pub collection: bool,
    /// Bytes.
    pub size: Option<u64>,
    /// Seconds since the Unix epoch.
    pub modified: Option<i64>,
    /// Without quotes, and without the mark of a weak one.
    pub etag: Option<String>,
    pub free: Option<i64>,
    pub used: Option<i64>,
    /// `SHA1:… MD5:…` (ownCloud's checksums).
    pub checksums: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Multistatus,
    Response,
    Href,
    Propstat,
    Status,
    Prop,
    Type,
    Collection,
    Length,
    Modified,
    Etag,
    Free,
    Used,
    Checksum,
    Other,
}

fn element(namespace: &ResolveResult<'_>, local: &str) -> Element {
    let ResolveResult::Bound(namespace) = namespace else { return Element::Other };
    match (namespace.0, local) {
        ("DAV:", "multistatus") => Element::Multistatus,
        ("DAV:", "response") => Element::Response,
        ("DAV:", "href") => Element::Href,
        ("DAV:", "propstat") => Element::Propstat,
        ("DAV:", "status") => Element::Status,
        ("DAV:", "prop") => Element::Prop,
        ("DAV:", "resourcetype") => Element::Type,
        ("DAV:", "collection") => Element::Collection,
        ("DAV:", "getcontentlength") => Element::Length,
        ("DAV:", "getlastmodified") => Element::Modified,
        ("DAV:", "getetag") => Element::Etag,
        ("DAV:", "quota-available-bytes") => Element::Free,
        ("DAV:", "quota-used-bytes") => Element::Used,
        ("http://owncloud.org/ns", "checksum") => Element::Checksum,
        _ => Element::Other,
    }
}

/// Gives every response of the multistatus in `body` to `each`, until that says false. Errors: `Corrupt` for what is no
/// multistatus; those of `each`. An error of the reader is `Interrupted`, unless the caller knows better.
pub fn parse(body: impl Read, each: &mut dyn FnMut(Found) -> Result<bool>) -> Result<()> {
    let bounded = Bounded { inner: body, whole: WHOLE, element: ELEMENT };
    let mut reader = NsReader::from_reader(BufReader::with_capacity(32 * 1024, bounded));
    let mut buffer = Vec::new();
    let mut stack: Vec<Element> = Vec::new();
    let mut text = String::new();
    let (mut found, mut inside) = (Found::default(), Found::default());
    let mut whole = false;
    loop {
        reader.get_mut().get_mut().element = ELEMENT;
        buffer.clear();
        let (namespace, event) = reader.read_resolved_event_into(&mut buffer).map_err(malformed)?;
        match event {
            Event::Start(start) => {
                stack.push(element(&namespace, start.local_name().into_inner()));
                text.clear();
                if stack.len() > DEEPEST {
                    return Err(corrupt("is nested too deeply"));
                }
                match stack.as_slice() {
                    [Element::Multistatus, Element::Response] => found = Found::default(),
                    [.., Element::Response, Element::Propstat] => inside = Found::default(),
                    [.., Element::Type, Element::Collection] => inside.collection = true,
                    [first] if *first != Element::Multistatus => return Err(corrupt("is no WebDAV listing")),
                    _ => {}
                }
            }
            Event::Empty(start) => {
                let this = element(&namespace, start.local_name().into_inner());
                if this == Element::Collection && stack.last() == Some(&Element::Type) {
                    inside.collection = true;
                }
                if stack.is_empty() && this == Element::Multistatus {
                    whole = true;
                }
            }
            Event::Text(part) => append(&mut text, &part)?,
            Event::CData(part) => append(&mut text, &part)?,
            Event::GeneralRef(reference) => {
                let c = match reference.resolve_char_ref() {
                    Ok(Some(c)) => c,
                    Ok(None) => match &*reference {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return Err(corrupt("refers to an unknown entity")),
                    },
                    Err(_) => return Err(corrupt("refers to no character")),
                };
                append(&mut text, c.encode_utf8(&mut [0; 4]))?;
            }
            Event::End(_) => {
                let content = text.trim();
                match stack.as_slice() {
                    [.., Element::Response, Element::Href] => found.href = content.to_owned(),
                    [.., Element::Response, Element::Status] => found.status = status(content),
                    [.., Element::Propstat, Element::Status] => inside.status = status(content),
                    [.., Element::Prop, last] => property(&mut inside, *last, content),
                    [.., Element::Prop, _, Element::Checksum] if !content.is_empty() => {
                        inside.checksums = Some(content.to_owned());
                    }
                    [.., Element::Response, Element::Propstat] => merge(&mut found, &mut inside),
                    [Element::Multistatus, Element::Response] => {
                        if found.href.is_empty() {
                            return Err(corrupt("holds an entry without an address"));
                        }
                        if !each(std::mem::take(&mut found))? {
                            return Ok(());
                        }
                    }
                    [Element::Multistatus] => whole = true,
                    _ => {}
                }
                stack.pop();
                text.clear();
            }
            Event::DocType(_) => return Err(corrupt("holds a document type, which no WebDAV server sends")),
            Event::Eof if whole && stack.is_empty() => return Ok(()),
            Event::Eof => return Err(corrupt("ends too early").with_retry(offsite_plugin_api::Retry::Now)),
            _ => {}
        }
    }
}

fn append(text: &mut String, part: &str) -> Result<()> {
    if text.len() + part.len() > ELEMENT as usize {
        return Err(corrupt("holds an element that is too long"));
    }
    text.push_str(part);
    Ok(())
}

fn property(into: &mut Found, element: Element, content: &str) {
    match element {
        Element::Length => into.size = content.parse().ok(),
        Element::Modified => into.modified = time(content),
        Element::Etag => into.etag = etag(content),
        Element::Free => into.free = content.parse().ok(),
        Element::Used => into.used = content.parse().ok(),
        _ => {}
    }
}

fn merge(found: &mut Found, inside: &mut Found) {
    let inside = std::mem::take(inside);
    // Servers that leave the status out mean success.
    if !inside.status.is_none_or(|s| (200..300).contains(&s)) {
        return;
    }
    found.told = true;
    found.collection |= inside.collection;
    found.size = inside.size.or(found.size);
    found.modified = inside.modified.or(found.modified);
    found.etag = inside.etag.or(found.etag.take());
    found.free = inside.free.or(found.free);
    found.used = inside.used.or(found.used);
    found.checksums = inside.checksums.or(found.checksums.take());
}

/// `HTTP/1.1 200 OK`
fn status(line: &str) -> Option<u16> {
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Seconds; HTTP's three forms of a date, and ISO 8601 in UTC as some servers write it.
pub fn time(text: &str) -> Option<i64> {
    if let Ok(time) = httpdate::parse_http_date(text) {
        return time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs().try_into().ok();
    }
    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (hour, minute, second) = (part(11..13)?, part(14..16)?, part(17..19)?);
    if !text.ends_with('Z') || !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    // Days from the civil calendar (Howard Hinnant's algorithm), March as the first month.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The opaque part: an etag that is weak now is often strong a second later, for the same content.
pub fn etag(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_prefix("W/").or_else(|| text.strip_prefix("w/")).unwrap_or(text);
    let text = text.trim_matches('"');
    (!text.is_empty() && text.len() <= 1024).then(|| text.to_owned())
}

fn malformed(error: quick_xml::Error) -> Error {
    match error {
        quick_xml::Error::Io(io) => {
            Error::new(ErrorKind::Interrupted, "the server's listing broke off").with_source(io.to_string())
        }
        other => corrupt("is no XML").with_source(other.to_string().chars().take(200).collect::<String>()),
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server's answer {why}"))
        .with_context("hint", "is the URL that of a WebDAV folder?")
}

struct Bounded<R> {
    inner: R,
    whole: u64,
    element: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)? as u64;
        if n > self.whole || n > self.element {
            return Err(std::io::Error::other("the answer, or an element of it, is too long"));
        }
        self.whole -= n;
        self.element -= n;
        Ok(n as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(xml: &str) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        parse(xml.as_bytes(), &mut |one| {
            found.push(one);
            Ok(true)
        })?;
        Ok(found)
    }

    #[test]
    fn apaches_answer_is_read() {
        let found = all(r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/">
<D:href>/dav/</D:href>
<D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</lp1:getlastmodified><lp1:getetag>"1000-5f"</lp1:getetag></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><D:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/a%20b&amp;c&#x64;.img</D:href><D:propstat><D:prop>
<lp1:resourcetype/><lp1:getcontentlength>42</lp1:getcontentlength><lp1:getetag>W/"2a-5f"</lp1:getetag></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
</D:multistatus>"#).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].collection && found[0].size.is_none());
        assert_eq!((found[0].modified, found[0].etag.as_deref()), (Some(784_111_777), Some("1000-5f")));
        assert_eq!((found[1].href.as_str(), found[1].size), ("/dav/a%20b&cd.img", Some(42)));
        assert_eq!((found[1].etag.as_deref(), found[1].collection), (Some("2a-5f"), false));
    }

    #[test]
    fn a_failed_propstat_counts_for_nothing_and_prefixes_mean_nothing() {
        let found = all(r#"<multistatus xmlns="DAV:" xmlns:d="urn:other"><response><href>/a</href>
<propstat><status>HTTP/1.1 403 Forbidden</status><prop><getcontentlength>7</getcontentlength><resourcetype><collection/></resourcetype></prop></propstat>
<propstat><prop><d:getcontentlength>8</d:getcontentlength><getetag><![CDATA["x"]]></getetag></prop></propstat>
<d:href>/elsewhere</d:href></response><response><href>/b</href><status>HTTP/1.1 507 Full</status></response></multistatus>"#).unwrap();
        assert_eq!((found[0].size, found[0].collection, found[0].etag.as_deref()), (None, false, Some("x")));
        assert_eq!((found[0].href.as_str(), found[1].status), ("/a", Some(507)));
        assert_eq!(all(r#"<multistatus xmlns="DAV:"/>"#).unwrap(), []);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        for xml in [
            "",
            "<html><body>Welcome</body></html>",
            r#"<multistatus xmlns="urn:x"><response/></multistatus>"#,
            r#"<multistatus xmlns="DAV:"><response><href>/a</href></response>"#,
            r#"<multistatus xmlns="DAV:"><response><propstat/></response></multistatus>"#,
            r#"<!DOCTYPE x [<!ENTITY a "b">]><multistatus xmlns="DAV:"/>"#,
            r#"<multistatus xmlns="DAV:"><response><href>&a;</href></response></multistatus>"#,
        ] {
            assert_eq!(all(xml).unwrap_err().kind(), &ErrorKind::Corrupt, "{xml}");
        }
        assert!(all(&"<a>".repeat(100)).is_err());
        let long = format!(
            r#"<multistatus xmlns="DAV:"><response><href>{}</href></response></multistatus>"#,
            "x".repeat(3 << 20)
        );
        assert!(all(&long).is_err());
    }

    #[test]
    fn dates_come_in_several_forms() {
        assert_eq!(time("2001-09-09T01:46:40Z"), Some(1_000_000_000));
        assert_eq!(time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(time("2024-02-29T12:00:00Z"), Some(1_709_208_000));
        assert_eq!(time("Sunday, 06-Nov-94 08:49:37 GMT"), Some(784_111_777));
        assert_eq!((time("yesterday"), time("2024-13-01T00:00:00Z")), (None, None));
    }
}
