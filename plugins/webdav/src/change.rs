//! Deleting, renaming, directories, attributes.
//!
//! A MOVE never overwrites (servers delete the old file first), and a DELETE of a directory would take its content along: what is
//! to be deleted is looked at before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use offsite_plugin_api::{Attributes, Call, Entry, EntryKind, Error, ErrorKind, Expect, Result, TargetPath};
use url::Url;

use super::client::{FORMS, WebDav};
use super::error::{changed, exists, refused, shown};
use super::http::{Answer, Request};
use super::{list, propfind};

pub fn delete(dav: &WebDav, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
    if path.is_root() {
        return Err(Error::new(ErrorKind::Denied, "the target's own folder is never deleted"));
    }
    let entry = dav.stat_entry(call, path)?;
    match expect {
        Expect::Absent => return Err(exists(path)),
        Expect::Version(wanted) if entry.version.as_deref() != Some(wanted) => {
            return Err(changed(path, false));
        }
        _ => {}
    }
    let directory = entry.kind == EntryKind::Dir;
    if directory {
        let listed = list::directory(dav, call, path)?;
        if !listed.found.is_empty() || listed.left_out.is_some() {
            return Err(Error::new(ErrorKind::PreconditionFailed, format!("{} is not empty", shown(path))));
        }
        dav.dirs().retain(|known| !known.starts_with(path));
    }
    match remove(dav, call, dav.files.url(path, directory), &shown(path))? {
        true => Ok(()),
        false => Err(WebDav::not_found(path)),
    }
}

/// DELETEs; false: nothing was there.
pub fn remove(dav: &WebDav, call: &Call, url: Url, what: &str) -> Result<bool> {
    let answer = dav.http.send(call, &Request::new("DELETE", url), "delete", what)?;
    match answer.code() {
        207 => partial(dav, call, answer, "delete", what).map(|()| true),
        200..=299 => {
            dav.http.drain(call, answer);
            Ok(true)
        }
        404 | 410 => {
            dav.http.drain(call, answer);
            Ok(false)
        }
        _ => Err(dav.http.fail(call, answer, "delete", what)),
    }
}

/// A multistatus as the answer to a change: something of it failed (RFC 4918 §9.6.1).
fn partial(dav: &WebDav, call: &Call, answer: Answer, act: &str, what: &str) -> Result<()> {
    let mut failed = None;
    dav.each(call, answer, what, &mut |found| {
        failed = failed.or(found.status.filter(|s| !(200..300).contains(s)));
        Ok(true)
    })?;
    match failed.and_then(|s| reqwest::StatusCode::from_u16(s).ok()) {
        Some(status) => Err(refused(act, what, status, &Default::default(), "")),
        None => Ok(()),
    }
}

/// One MOVE that overwrites nothing; makes the directory it goes to. Errors: `Exists`; `NotFound` when `from` is not there.
pub fn move_file(dav: &WebDav, call: &Call, from: &TargetPath, to: &TargetPath) -> Result<()> {
    let what = shown(to);
    let (mut made, mut refused) = (false, 0);
    loop {
        let form = (dav.known_by.load(Ordering::Relaxed) + refused) % FORMS;
        let request = Request::new("MOVE", dav.files.url(from, false))
            .header("destination", dav.destination_by(form, to))
            .header("overwrite", "F");
        let answer = dav.http.send(call, &request, "move a file to", &what)?;
        match answer.code() {
            207 => return partial(dav, call, answer, "move a file to", &what),
            200..=299 => {
                dav.known_by.store(form, Ordering::Relaxed);
                dav.http.drain(call, answer);
                return Ok(());
            }
            412 => {
                dav.http.drain(call, answer);
                return Err(exists(to));
            }
            // RFC 4918 §9.9.4: no directory to move to.
            409 if !made => {
                made = true;
                dav.http.drain(call, answer);
                let parent = to.parent().unwrap_or_default();
                dav.dirs().clear();
                make_dirs(dav, call, &parent)?;
            }
            // RFC 4918 §9.9.4: that would be another server. A proxy that ends TLS, or names the server otherwise, makes it so.
            400 | 502 if refused + 1 < FORMS => {
                refused += 1;
                dav.http.drain(call, answer);
            }
            400 | 502 => {
                return Err(dav.http.fail(call, answer, "move a file to", &what).with_context(
                    "hint",
                    "where it is always so, a proxy before the server must pass on Host or rewrite Destination",
                ));
            }
            _ => return Err(dav.http.fail(call, answer, "move a file to", &what)),
        }
    }
}

pub fn rename(
    dav: &WebDav,
    call: &Call,
    from: &TargetPath,
    to: &TargetPath,
    expect: &Expect,
) -> Result<Entry> {
    let before = dav.stat_entry(call, from)?;
    if let Expect::Version(wanted) = expect {
        match dav.expect_version(call, to, wanted) {
            Ok(_) => return Err(Error::unsupported("replacing a file by a rename on this server")),
            Err(e) if *e.kind() == ErrorKind::NotFound => return Err(changed(to, true)),
            Err(e) => return Err(e),
        }
    }
    match move_file(dav, call, from, to) {
        Ok(()) => dav.stat_entry(call, to),
        Err(error) if matches!(error.kind(), ErrorKind::Exists) => Err(error),
        // A lost reply may hide a success.
        Err(error) => match (dav.look(call, from), dav.stat_entry(call, to)) {
            (Ok(None), Ok(entry)) if entry.size == before.size && entry.kind == before.kind => Ok(entry),
            _ => Err(error),
        },
    }
}

/// Makes a directory and its missing parents, the target's own folder (only its last component, and if that is wanted)
/// among them. What was there a moment ago is not asked for again.
pub fn make_dirs(dav: &WebDav, call: &Call, dir: &TargetPath) -> Result<()> {
    if dav.dirs().contains(dir) {
        return Ok(());
    }
    if dir.is_root() {
        root(dav, call)?;
    } else if make(dav, call, dir)? == Made::NoParent {
        make_dirs(dav, call, &dir.parent().unwrap_or_default())?;
        if make(dav, call, dir)? == Made::NoParent {
            return Err(Error::new(ErrorKind::Busy, format!("the parent of {} vanished", shown(dir))));
        }
    }
    dav.dirs().insert(dir.clone());
    Ok(())
}

fn root(dav: &WebDav, call: &Call) -> Result<()> {
    let here = TargetPath::root();
    let what = shown(&here);
    match dav.look_at(call, dav.files.url(&here, true), propfind::ENTRY, &what)? {
        Some(found) if found.collection => return Ok(()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "the target's address is a file's, not a folder's",
            ));
        }
        None => {}
    }
    let missing = |what: &str| {
        Error::new(ErrorKind::NotFound, what.to_owned())
            .with_context("url", dav.config.root.to_string())
            .with_context("hint", "check the URL; make the folder there, or its parent")
    };
    if !dav.config.create {
        return Err(missing("the target's folder does not exist"));
    }
    match make(dav, call, &here)? {
        Made::Yes => Ok(()),
        Made::NoParent => Err(missing("neither the target's folder nor its parent exists")),
    }
}

#[derive(PartialEq)]
enum Made {
    /// It is there.
    Yes,
    NoParent,
}

fn make(dav: &WebDav, call: &Call, dir: &TargetPath) -> Result<Made> {
    let what = shown(dir);
    let url = dav.files.url(dir, true);
    let answer = dav.http.send(call, &Request::new("MKCOL", url.clone()), "make the directory", &what)?;
    match answer.code() {
        200..=299 => {
            dav.http.drain(call, answer);
            Ok(Made::Yes)
        }
        404 | 409 => {
            dav.http.drain(call, answer);
            Ok(Made::NoParent)
        }
        // 405: something has the name. Servers answer a few other things as well where it is a directory.
        code if !matches!(code, 401 | 429 | 503 | 507) => {
            let error = dav.http.fail(call, answer, "make the directory", &what);
            match dav.look_at(call, url, propfind::ENTRY, &what) {
                Ok(Some(found)) if found.collection => Ok(Made::Yes),
                Ok(Some(_)) => Err(exists(dir)),
                _ => Err(error),
            }
        }
        _ => Err(dav.http.fail(call, answer, "make the directory", &what)),
    }
}

/// The time only, and only where the server is known to keep it (Nextcloud, ownCloud).
pub fn set_attributes(
    dav: &WebDav,
    call: &Call,
    path: &TargetPath,
    attributes: &Attributes,
) -> Result<Entry> {
    if attributes.retention.is_some() {
        return Err(Error::unsupported("retention: WebDAV has none"));
    }
    if let Some(mtime) = attributes.mtime {
        if !dav.facts(call)?.keeps_mtime() {
            return Err(Error::unsupported("setting times: WebDAV has no way that servers agree on"));
        }
        let what = shown(path);
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><propertyupdate xmlns=\"DAV:\"><set><prop>\
             <lastmodified>{}</lastmodified></prop></set></propertyupdate>",
            mtime.ns.div_euclid(1_000_000_000)
        );
        let request = Request::new("PROPPATCH", dav.files.url(path, false))
            .header("content-type", "application/xml; charset=utf-8")
            .body(body);
        let answer = dav.http.send(call, &request, "set the time of", &what)?;
        match answer.code() {
            207 => partial(dav, call, answer, "set the time of", &what)?,
            200..=299 => dav.http.drain(call, answer),
            _ => return Err(dav.http.fail(call, answer, "set the time of", &what)),
        }
    }
    dav.stat_entry(call, path)
}

/// Waits until `path` holds `size` bytes: at once on most servers, later where they still put parts together or store
/// in the background. At most `patience`. Errors: `Corrupt` when it ends up with another size.
pub fn settled(
    dav: &WebDav,
    call: &Call,
    path: &TargetPath,
    size: u64,
    patience: Duration,
) -> Result<(Entry, propfind::Found)> {
    let start = std::time::Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        let held = match dav.look(call, path) {
            Ok(Some(found)) => {
                let entry = dav.entry(call, path.clone(), &found)?;
                if entry.kind == EntryKind::File && entry.size == size {
                    return Ok((entry, found));
                }
                entry.size
            }
            Ok(None) => 0,
            Err(e) if matches!(e.kind(), ErrorKind::Locked | ErrorKind::Busy | ErrorKind::Unreachable) => 0,
            Err(e) => return Err(e),
        };
        if start.elapsed() + pause > patience {
            let what = format!("the server took {} and holds {held} bytes of {size}", shown(path));
            return Err(Error::new(ErrorKind::Corrupt, what).with_retry(offsite_plugin_api::Retry::Now));
        }
        call.alive("waiting until the server has put the file together");
        dav.http.pause(call, pause)?;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
