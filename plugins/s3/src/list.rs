//! Listings of objects and of uploads under way.
//!
//! Keys come percent-encoded (XML cannot hold every character) and are not trusted: one that is no relative path ('..', an
//! empty part, a NUL) is nobody's image and is passed over. A key that ends with a slash stands for a directory, as some
//! tools make them. A listing tells no modification time of the file, only when it was uploaded: the host compares versions.

use std::collections::BTreeSet;

use aws_sdk_s3::types::EncodingType;
use offsite_plugin_api::{
    Call, Entry, Error, ErrorKind, Level, Page, Result, Retention, StagedInfo, TargetPath,
};

use super::client::{S3, SHORT};
use super::read;
use super::stage;
use super::uploads::now;

/// Uploads at most: a server that lists for ever is stopped here.
const MOST_UPLOADS: usize = 1_000_000;

pub fn list(s3: &S3, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
    let prefix = s3.prefix_of(dir)?;
    let after = match page {
        Some(token) => Some(
            std::str::from_utf8(token)
                .map(str::to_owned)
                .map_err(|_| Error::new(ErrorKind::Other, "the page token is of another listing"))?,
        ),
        None => None,
    };
    let answer = s3.wait(
        call,
        SHORT,
        s3.request("list", dir, |c| {
            c.client
                .list_objects_v2()
                .bucket(&s3.config.bucket)
                .prefix(&prefix)
                .encoding_type(EncodingType::Url)
                .set_delimiter((!recursive).then(|| "/".to_owned()))
                .set_continuation_token(after.clone())
                .send()
        }),
    )?;
    let encoded = answer.encoding_type().is_some();
    let mut entries = Vec::with_capacity(answer.contents().len());
    let mut found = page.is_some();
    for object in answer.contents() {
        let key = decoded(object.key().unwrap_or_default(), encoded);
        found = true;
        // The directory itself, as a tool made it.
        if key == prefix.as_bytes() {
            continue;
        }
        let Some(mut entry) = entry(s3, call, &key) else { continue };
        if entry.kind == offsite_plugin_api::EntryKind::File {
            let size = object.size().ok_or_else(|| {
                let what = super::error::shown(&entry.path);
                Error::new(ErrorKind::Corrupt, format!("the server's listing leaves out the size of {what}"))
            })?;
            entry.size = size.max(0) as u64;
            entry.version = object.e_tag().map(read::unquoted);
            entry.class = read::shown_class(object.storage_class().map(|c| c.as_str()));
            entry.retention = presumed_lock(s3, &entry.path, object.last_modified().map(|at| at.secs()));
        }
        entries.push(entry);
    }
    for common in answer.common_prefixes() {
        found = true;
        let key = decoded(common.prefix().unwrap_or_default(), encoded);
        entries.extend(entry(s3, call, &key));
    }
    if !found && !dir.is_root() {
        return Err(read::not_found(dir));
    }
    let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true));
    let mut page = Page { entries, next: next.map(|t| t.as_bytes().to_vec()), ..Page::default() };
    if answer.is_truncated() == Some(true) && page.next.is_none() {
        let why = "the server says that its listing goes on, and not where";
        page.incomplete.push((dir.clone(), why.to_owned()));
    }
    Ok(page)
}

/// A listing shows no locks; with the option every image was locked when it was published. A deletion looks at the object
/// itself.
fn presumed_lock(s3: &S3, path: &TargetPath, published: Option<i64>) -> Option<Retention> {
    let (mode, days) = s3.config.retention.filter(|_| !stage::is_record(path))?;
    Some(Retention { mode: mode.to_owned(), until: published? + i64::from(days) * 86_400 })
}

/// A key below the target's root as an entry: a directory where it ends with a slash.
fn entry(s3: &S3, call: &Call, key: &[u8]) -> Option<Entry> {
    let below = key.strip_prefix(s3.config.prefix.as_bytes())?;
    let (below, dir) = below.strip_suffix(b"/").map_or((below, false), |b| (b, true));
    match TargetPath::new(below) {
        Ok(path) if !path.is_root() => Some(if dir { Entry::dir(path) } else { Entry::file(path, 0) }),
        _ => {
            let name = String::from_utf8_lossy(key);
            call.log(
                Level::Warn,
                &format!("the key '{}' is no path and is passed over", name.escape_debug()),
            );
            None
        }
    }
}

/// `%XX`, and `+` for a space, as servers encode keys on request.
fn decoded(text: &str, encoded: bool) -> Vec<u8> {
    if !encoded {
        return text.as_bytes().to_vec();
    }
    percent_encoding::percent_decode_str(&text.replace('+', " ")).collect()
}

/// Whether there is anything below a directory.
pub fn any_below(s3: &S3, call: &Call, dir: &TargetPath) -> Result<bool> {
    Ok(!first_below(s3, call, dir, 1)?.is_empty())
}

/// The first keys below a directory, its own marker included.
pub fn first_below(s3: &S3, call: &Call, dir: &TargetPath, most: i32) -> Result<Vec<Vec<u8>>> {
    let prefix = s3.prefix_of(dir)?;
    let answer = s3.wait(
        call,
        SHORT,
        s3.request("look at", dir, |c| {
            c.client
                .list_objects_v2()
                .bucket(&s3.config.bucket)
                .prefix(&prefix)
                .encoding_type(EncodingType::Url)
                .max_keys(most)
                .send()
        }),
    )?;
    let encoded = answer.encoding_type().is_some();
    Ok(answer.contents().iter().map(|o| decoded(o.key().unwrap_or_default(), encoded)).collect())
}

/// Multipart uploads that are neither completed nor dropped. Small stagings are not there: nothing of them is on the server.
pub fn staged(s3: &S3, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
    let prefix = s3.prefix_of(dir)?;
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let (mut key_marker, mut id_marker): (Option<String>, Option<String>) = (None, None);
    loop {
        let page = s3.wait(
            call,
            SHORT,
            s3.request("list what is staged below", dir, |c| {
                c.client
                    .list_multipart_uploads()
                    .bucket(&s3.config.bucket)
                    .prefix(&prefix)
                    .encoding_type(EncodingType::Url)
                    .set_key_marker(key_marker.clone())
                    .set_upload_id_marker(id_marker.clone())
                    .send()
            }),
        )?;
        let encoded = page.encoding_type().is_some();
        for upload in page.uploads() {
            let key = decoded(upload.key().unwrap_or_default(), encoded);
            let id = upload.upload_id().unwrap_or_default();
            let path = key.strip_prefix(s3.config.prefix.as_bytes()).and_then(|p| TargetPath::new(p).ok());
            let Some(path) = path.filter(|p| !p.is_root() && !id.is_empty()) else { continue };
            if seen.insert((path.clone(), id.to_owned())) {
                found.push((path, id.to_owned(), upload.initiated().map(|at| at.secs())));
            }
        }
        let next = page.next_key_marker().map(|m| String::from_utf8_lossy(&decoded(m, encoded)).into_owned());
        let next_id = page.next_upload_id_marker().map(str::to_owned);
        let more = page.is_truncated() == Some(true) && (&next, &next_id) != (&key_marker, &id_marker);
        if !more || next.is_none() || found.len() > MOST_UPLOADS {
            break;
        }
        (key_marker, id_marker) = (next, next_id);
    }
    let mut infos = Vec::with_capacity(found.len());
    for (path, upload, initiated) in found {
        call.proceed()?;
        let bytes = match stage::list_parts(s3, call, &path, &upload) {
            Ok(parts) => parts.iter().filter_map(|p| p.size()).map(|s| s.max(0) as u64).sum(),
            // Ended since.
            Err(e) if matches!(e.kind(), ErrorKind::StaleToken | ErrorKind::NotFound) => continue,
            Err(e) if *e.kind() == ErrorKind::Denied => 0,
            Err(e) => return Err(e),
        };
        let known = s3.uploads.known(&path, &upload, initiated);
        infos.push(StagedInfo {
            owner: known.as_ref().map(|k| k.owner.clone()).unwrap_or_default(),
            token: stage::token_of(&path, &upload, known.and_then(|k| k.token)),
            path: Some(path),
            bytes,
            age: initiated.map(|at| now().saturating_sub(at).max(0) as u64),
        });
    }
    if dir.is_root() {
        s3.uploads.keep(&seen.into_iter().collect::<Vec<_>>())?;
    }
    Ok(infos)
}

/// One page of the root, to see that listing is allowed. Gives the number of entries.
pub fn try_list(s3: &S3, call: &Call) -> Result<usize> {
    list(s3, call, &TargetPath::root(), false, None)
        .map(|page| page.entries.len())
        .map_err(|e| e.with_context("bucket", s3.config.bucket.clone()))
}

/// Whether two keys are those of a directory's marker alone.
pub fn is_marker(s3: &S3, dir: &TargetPath, keys: &[Vec<u8>]) -> Result<bool> {
    let prefix = s3.prefix_of(dir)?;
    Ok(keys.len() == 1 && keys[0] == prefix.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_servers_encode_them() {
        assert_eq!(decoded("a%20b+c%2B%25", true), b"a b c+%");
        assert_eq!(decoded("a%20b+c", false), b"a%20b+c");
        assert_eq!(decoded("%ff%00", true), [0xff, 0]);
    }
}
