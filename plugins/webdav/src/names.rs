//! Paths to URLs, and the addresses in a server's answers back to paths.
//!
//! Every byte of a name that is not unreserved (RFC 3986 §2.3) is percent-encoded, so `%`, `#`, `?`, `;` and `+` mean
//! themselves. An address from a server counts by its decoded path segments alone: scheme, host, port and the way of encoding
//! differ between servers and the proxies before them. What does not lie below the place that was asked for is refused.

use offsite_plugin_api::{Error, ErrorKind, Result, TargetPath};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use url::Url;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A collection on the server, and the names below it.
#[derive(Clone)]
pub struct Place {
    base: Url,
    segments: Vec<Vec<u8>>,
}

impl Place {
    /// `base`: with a slash at the end of its path.
    pub fn new(base: Url) -> Self {
        let segments = segments(base.path());
        Self { base, segments }
    }

    /// Eight digits that tell this place from others of the server, however its address is written.
    pub fn tag(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for segment in &self.segments {
            hash.update(segment).update(&[0]);
        }
        hash.finalize().to_hex()[..8].to_owned()
    }

    /// The address of a file, or with `dir` that of a collection (with a slash at its end).
    pub fn url(&self, path: &TargetPath, dir: bool) -> Url {
        let mut text = self.base.path().to_owned();
        for (n, component) in path.components().enumerate() {
            if n > 0 {
                text.push('/');
            }
            text.extend(percent_encode(component, ENCODED));
        }
        if dir && !text.ends_with('/') {
            text.push('/');
        }
        let mut url = self.base.clone();
        url.set_path(&text);
        url
    }

    /// The path that `href`, in the answer to a request for `asked`, names. Errors: `Corrupt` for what lies elsewhere.
    pub fn locate(&self, asked: &Url, href: &str) -> Result<TargetPath> {
        let refuse = |why: &str| {
            let shown: String = href.chars().take(200).collect();
            Error::new(ErrorKind::Corrupt, format!("the server's listing names an address that {why}"))
                .with_context("address", shown.escape_debug().to_string())
                .with_context("hint", "give the target the address under which the server knows itself")
        };
        let href = href.trim();
        let path = match href.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                rest.find('/').map_or("/", |at| &rest[at..])
            }
            _ => href,
        };
        let mut found = if path.starts_with('/') { Vec::new() } else { segments(asked.path()) };
        found.extend(segments(path).into_iter().filter(|s| s != b"."));
        if found.iter().any(|s| s == b"..") {
            return Err(refuse("leads upwards"));
        }
        if found.iter().any(|s| s.contains(&b'/')) {
            return Err(refuse("holds an encoded slash"));
        }
        match found.strip_prefix(self.segments.as_slice()) {
            Some(rest) => TargetPath::new(rest.join(&b'/')).map_err(|e| refuse(e.message())),
            None => Err(refuse("does not lie in the target's folder")),
        }
    }
}

/// The decoded segments of a URL's path; empty ones (doubled slashes) count for nothing.
pub fn segments(path: &str) -> Vec<Vec<u8>> {
    path.split('/').filter(|s| !s.is_empty()).map(|s| percent_decode_str(s).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TargetPath {
        TargetPath::new(text).unwrap()
    }

    fn place() -> Place {
        Place::new(Url::parse("https://nas:8443/remote.php/my%20dav/").unwrap())
    }

    #[test]
    fn a_name_survives_the_way_there_and_back() {
        let place = place();
        for name in [
            "a#b?c&d=e+f.img",
            "100%25.img",
            "semi;colon:s.img",
            "Grüße 日本語 🦀",
            "..two.dots..",
            "tab\there ",
            "~a/b\\c/.d",
        ] {
            let url = place.url(&path(name), false);
            assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
            assert_eq!(place.locate(&place.url(&path("x"), true), url.path()).unwrap(), path(name));
            assert_eq!(place.locate(&url, url.as_str()).unwrap(), path(name));
        }
        let raw = TargetPath::new(&b"latin1-\xe9"[..]).unwrap();
        assert_eq!(place.locate(&place.url(&raw, false), place.url(&raw, false).path()).unwrap(), raw);
        assert_eq!(place.url(&TargetPath::root(), true).as_str(), "https://nas:8443/remote.php/my%20dav/");
    }

    #[test]
    fn servers_write_addresses_in_many_ways() {
        let place = place();
        let asked = place.url(&path("sub"), true);
        for href in [
            "https://nas:8443/remote.php/my%20dav/sub/b%C3%BC.img",
            "http://internal/remote.php/my%20dav/sub/b%c3%bc.img",
            "/remote.php/my dav/sub/bü.img",
            "/remote%2Ephp/my%20dav//sub/b%C3%BC.img/",
            " b%C3%BC.img ",
            "./b%C3%BC.img",
        ] {
            assert_eq!(place.locate(&asked, href).unwrap(), path("sub/bü.img"), "{href}");
        }
        assert_eq!(place.locate(&asked, "/remote.php/my%20dav").unwrap(), TargetPath::root());
    }

    #[test]
    fn an_address_elsewhere_is_refused() {
        let asked = place().url(&TargetPath::root(), true);
        for href in [
            "/remote.php/other/a",
            "/",
            "../a",
            "/remote.php/my%20dav/%2e%2e/x",
            "a%2Fb",
            "a%0Ab",
            "http://x",
        ] {
            assert_eq!(place().locate(&asked, href).unwrap_err().kind(), &ErrorKind::Corrupt, "{href}");
        }
    }
}
