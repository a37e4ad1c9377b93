//! A small S3 client of the harness's own: what a test says about a bucket must not come from the plugin under test.
//!
//! Signature version 4 over plain HTTP; whole objects in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::garage::Service;
use super::hex;
use super::http::{Answer, escape, request, unescape};

#[derive(Clone, Debug)]
pub struct Client {
    service: Service,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: Vec<u8>,
    pub size: u64,
    pub etag: String,
}

impl Client {
    pub fn new(service: Service) -> Self {
        Self { service }
    }

    /// Any request below the bucket: `key` unescaped, `query` as pairs, unescaped.
    pub fn send(
        &self,
        method: &str,
        key: &[u8],
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut path = format!("/{}", self.service.bucket);
        if !key.is_empty() {
            path += &format!("/{}", escape(key, true));
        }
        let mut pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| {
                format!("{}={}", escape(name.as_bytes(), false), escape(value.as_bytes(), false))
            })
            .collect();
        pairs.sort();
        let query = pairs.join("&");
        let headers = self.sign(method, &path, &query, headers, body);
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        request(self.service.address, method, &target, &headers, body)
    }

    /// "Authenticating Requests (AWS Signature Version 4)".
    fn sign(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<(String, String)> {
        let (day, time) = now();
        let hash = hex(&Sha256::digest(body));
        let mut all: BTreeMap<String, String> =
            headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), (*v).to_owned())).collect();
        all.insert("x-amz-content-sha256".into(), hash.clone());
        all.insert("x-amz-date".into(), time.clone());
        let mut signed = all.clone();
        signed.insert("host".into(), self.service.address.to_string());
        let names = signed.keys().cloned().collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{hash}");
        let scope = format!("{day}/{}/s3/aws4_request", self.service.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = format!("AWS4{}", self.service.secret_key).into_bytes();
        for part in scope.split('/') {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, text.as_bytes()));
        let credential = format!("{}/{scope}", self.service.access_key);
        let value =
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
        all.insert("authorization".into(), value);
        all.into_iter().collect()
    }

    /// Like [`Self::send`]; panics unless the status is 2xx.
    #[track_caller]
    pub fn must(&self, method: &str, key: &[u8], query: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.send(method, key, query, &[], body).expect("the server answers");
        let text = || String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.head.status() / 100 == 2, "{method} {query:?}: {}\n{}", answer.head.start, text());
        answer
    }

    /// Makes the bucket, with Object Lock if `locked`.
    #[track_caller]
    pub fn make_bucket(&self, locked: bool) {
        let region = &self.service.region;
        let body = if region == "us-east-1" {
            String::new()
        } else {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        let mut headers = vec![("content-type", "application/xml")];
        if locked {
            headers.push(("x-amz-bucket-object-lock-enabled", "true"));
        }
        // A server that has just begun to listen may not answer yet; a name of its own tells moto the region.
        let answer = self.send("PUT", b"", &[], &headers, body.as_bytes()).expect("the server answers");
        assert_eq!(answer.head.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
    }

    /// All objects whose key begins with `prefix`, in the server's order.
    #[track_caller]
    pub fn list(&self, prefix: &str) -> Vec<Object> {
        self.try_list(prefix).expect("the bucket can be listed")
    }

    pub fn try_list(&self, prefix: &str) -> io::Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let mut query = vec![("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)];
            if !token.is_empty() {
                query.push(("continuation-token", &token));
            }
            let answer = self.send("GET", b"", &query, &[], b"")?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if answer.head.status() != 200 {
                return Err(io::Error::other(text));
            }
            for entry in elements(&text, "Contents") {
                found.push(Object {
                    key: unescape(&plain(element(entry, "Key"))),
                    size: element(entry, "Size").parse().map_err(io::Error::other)?,
                    etag: plain(element(entry, "ETag")),
                });
            }
            token = plain(element(&text, "NextContinuationToken"));
            if token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Unfinished multipart uploads: key and upload id.
    #[track_caller]
    pub fn uploads(&self) -> Vec<(Vec<u8>, String)> {
        let answer = self.must("GET", b"", &[("uploads", ""), ("encoding-type", "url")], b"");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        elements(&text, "Upload")
            .into_iter()
            .map(|upload| (unescape(&plain(element(upload, "Key"))), plain(element(upload, "UploadId"))))
            .collect()
    }

    #[track_caller]
    pub fn get(&self, key: &[u8]) -> Vec<u8> {
        self.must("GET", key, &[], b"").body
    }

    #[track_caller]
    pub fn put(&self, key: &[u8], body: &[u8]) {
        self.must("PUT", key, &[], body);
    }

    #[track_caller]
    pub fn delete(&self, key: &[u8]) {
        self.must("DELETE", key, &[], b"");
    }

    /// Writes every object below `prefix` into `folder`, by the rest of its key, several at once.
    #[track_caller]
    pub fn download(&self, prefix: &str, folder: &Path) {
        let objects = self.list(prefix);
        let threads = 4;
        std::thread::scope(|scope| {
            for n in 0..threads {
                let objects = objects.iter().skip(n).step_by(threads);
                scope.spawn(move || {
                    for object in objects {
                        use std::os::unix::ffi::OsStrExt;
                        let rest = object.key.get(prefix.len()..).expect("the server lists below the prefix");
                        let path = folder.join(Path::new(std::ffi::OsStr::from_bytes(rest)));
                        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("writable");
                        std::fs::write(path, self.get(&object.key)).expect("writable");
                    }
                });
            }
        });
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// `20260131` and `20260131T235959Z`, now.
fn now() -> (String, String) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    // Howard Hinnant's civil_from_days.
    let z = seconds.div_euclid(86_400) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + i64::from(m <= 2);
    let s = seconds.rem_euclid(86_400);
    let day = format!("{y:04}{m:02}{d:02}");
    let time = format!("{day}T{:02}{:02}{:02}Z", s / 3600, s / 60 % 60, s % 60);
    (day, time)
}

/// The texts of all elements of that name.
fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    text.split(&open).skip(1).filter_map(|rest| rest.split(&close).next()).collect()
}

/// The text of the first element of that name; empty if there is none.
fn element<'a>(text: &'a str, name: &str) -> &'a str {
    elements(text, name).first().copied().unwrap_or("")
}

/// Undoes XML's own escapes.
fn plain(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}
