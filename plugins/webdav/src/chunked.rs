//! The chunked upload of Nextcloud and ownCloud ("NG", version 2): chunks are PUT into a folder of their own, in any order and
//! several at once, then put together by a MOVE of its `.file` to the staging name.
//!
//! The folder is named `offsite-<owner>-<hash>-<target>-<chunk size in MiB, hexadecimal>`: all targets of an account share one
//! place for such folders, and owner and chunk size are known from the name alone. A chunk counts as held if it has its full size; the server drops folders that nobody touched for a day.
//! See docs.nextcloud.com, Developer manual, "Chunked file upload".

use std::collections::BTreeMap;
use std::time::Duration;

use offsite_plugin_api::{
    Call, Error, ErrorKind, Range, Ranges, Result, Session, Sink, Source, StageRequest, Staged, StagedInfo,
    TargetPath, Token,
};

use super::body::Upload;
use super::change::remove;
use super::client::WebDav;
use super::error::{shown, stale};
use super::http::{PATIENCE, Request};
use super::names::Place;
use super::parts::{Parts, Size};
use super::propfind;
use super::stage::{headers, staged, taken};
use super::write::{Staging, owner_in};
use super::{list as listing, read as reading};

pub const SMALLEST_PART: u64 = 5 << 20;
pub const LARGEST_PART: u64 = 5 << 30;
pub const MOST_PARTS: u32 = 10_000;
const MIB: u64 = 1 << 20;
/// What the folder shows beside the chunks: the file to be.
const WHOLE: &[u8] = b".file";

/// An upload's folder and the size of its chunks.
struct Folder<'a> {
    place: &'a Place,
    name: String,
    part: u64,
}

/// What the name of an upload's folder tells.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// Of the staging name.
    stem: String,
    pub owner: String,
    /// [`Place::tag`] of the target's root.
    target: String,
    /// Bytes of a chunk.
    part: u64,
}

pub fn parse(name: &str) -> Option<Named> {
    let (rest, size) = name.rsplit_once('-')?;
    let mib = u64::from_str_radix(size, 16).ok().filter(|m| (1..=LARGEST_PART / MIB).contains(m))?;
    let (stem, target) = rest.rsplit_once('-').filter(|(_, target)| target.len() == 8)?;
    let owner = owner_in(stem.as_bytes())?;
    Some(Named { stem: stem.to_owned(), owner, target: target.to_owned(), part: mib * MIB })
}

fn stem(staging: &TargetPath) -> Option<&str> {
    std::str::from_utf8(staging.name()).ok()?.strip_suffix(".part")
}

impl Folder<'_> {
    fn path(&self) -> Result<TargetPath> {
        TargetPath::new(self.name.as_bytes())
    }

    fn token(&self) -> Token {
        Staging::Upload { upload: self.name.clone() }.token()
    }

    fn url(&self) -> Result<url::Url> {
        Ok(self.place.url(&self.path()?, true))
    }

    /// Chunks are numbered from 1.
    fn chunk(&self, number: u64) -> Result<url::Url> {
        Ok(self.place.url(&self.path()?.join(format!("{number:05}"))?, false))
    }

    fn range(&self, number: u64, size: u64) -> Range {
        let offset = (number - 1) * self.part;
        Range { offset, length: self.part.min(size.saturating_sub(offset)) }
    }

    /// Number and size of the chunks that are there; `None`: no such upload.
    fn held(&self, dav: &WebDav, call: &Call) -> Result<Option<BTreeMap<u64, u64>>> {
        let what = "the chunks of an upload";
        let Some(answer) = dav.propfind(call, self.url()?, "1", propfind::ENTRY, what)? else {
            return Ok(None);
        };
        let asked = answer.url().clone();
        let path = self.path()?;
        let mut held = BTreeMap::new();
        dav.each(call, answer, what, &mut |found| {
            let at = self.place.locate(&asked, &found.href)?;
            let number = std::str::from_utf8(at.name()).ok().and_then(|n| n.parse::<u64>().ok());
            if let Some((number, size)) = number.zip(found.size)
                && at.parent().as_ref() == Some(&path)
                && (1..=u64::from(MOST_PARTS)).contains(&number)
            {
                held.insert(number, size);
            }
            Ok(true)
        })?;
        Ok(Some(held))
    }

    fn put(
        &self,
        dav: &WebDav,
        call: &Call,
        request: &StageRequest,
        source: &dyn Source,
        range: Range,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        let what = format!("a chunk of {}", shown(&request.path));
        let headers = vec![
            ("content-type", "application/octet-stream".to_owned()),
            ("destination", dav.destination(&request.staging)),
            ("oc-total-length", request.size.to_string()),
            ("oc-chunk-size", range.length.to_string()),
        ];
        let url = self.chunk(range.offset / self.part + 1)?;
        let answer = dav.http.put(&Upload { call, source, range, url, headers, what: &what, stop })?;
        // 412: the server forgot what the upload was for.
        if matches!(answer.code(), 404 | 409 | 412) {
            let error = dav.http.fail(call, answer, "write", &what);
            let stale = stale(&request.path, "is not staged any more: the server dropped its chunks");
            return Err(stale.with_source(error.to_string()));
        }
        taken(dav, call, answer, &request.path, &what)
    }
}

/// Sends what is missing and puts the whole together under the staging name.
pub fn stage(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    source: &dyn Source,
    session: &dyn Session,
    uploads: &Place,
) -> Result<Staged> {
    let Some(stem) = stem(&request.staging) else {
        return Err(Error::new(
            ErrorKind::NameRefused,
            format!("{} is no staging name", shown(&request.staging)),
        ));
    };
    let resumed = match request.resume.as_ref().map(|from| (Staging::parse(&from.token), &from.ranges)) {
        Some((Ok(Staging::Upload { upload }), ranges)) => {
            let named = parse(&upload).filter(|named| named.stem == stem && named.target == dav.files.tag());
            let named = named.ok_or_else(|| stale(&request.path, "was staged under another name"))?;
            Some((Folder { place: uploads, name: upload, part: named.part }, ranges))
        }
        Some(_) => return Err(stale(&request.path, "was staged in another way")),
        None => None,
    };
    let (folder, done) = match resumed {
        Some((folder, ranges)) => match folder.held(dav, call)? {
            Some(held) => {
                let done = still_there(&folder, &held, ranges, request.size);
                (folder, done)
            }
            // Put together already, and the answer was lost.
            None if dav.look(call, &request.staging)?.is_some() => {
                return staged(dav, call, request, Duration::from_secs(1))
                    .map_err(|_| stale(&request.path, "is not staged any more"));
            }
            None => return Err(stale(&request.path, "is not staged any more")),
        },
        None => (begin(dav, call, request, uploads, stem)?, Ranges::default()),
    };
    let parts = Parts {
        call,
        request,
        session,
        token: folder.token(),
        size: Size::Fixed(folder.part),
        put: &|range, stop| folder.put(dav, call, request, source, range, stop),
    };
    parts.send(done)?;
    assemble(dav, call, request, &folder)
}

/// The chunks that the checkpoint named in full and the server still holds in full.
fn still_there(folder: &Folder<'_>, held: &BTreeMap<u64, u64>, ranges: &[Range], size: u64) -> Ranges {
    let named = Ranges::from_list(ranges);
    let covers = |r: &Range| named.as_slice().iter().any(|n| n.offset <= r.offset && r.end() <= n.end());
    let whole = held.iter().map(|(number, bytes)| (folder.range(*number, size), *bytes));
    let whole: Vec<Range> = whole
        .filter(|(range, bytes)| range.length == *bytes && covers(range))
        .map(|(range, _)| range)
        .collect();
    Ranges::from_list(&whole)
}

/// A new folder, whatever an earlier attempt left under its name.
fn begin<'a>(
    dav: &WebDav,
    call: &Call,
    request: &StageRequest,
    uploads: &'a Place,
    stem: &str,
) -> Result<Folder<'a>> {
    let fewest = request.size.div_ceil(u64::from(MOST_PARTS)).next_multiple_of(MIB);
    let part = dav.config.chunk_size.max(fewest);
    if part > LARGEST_PART {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{} does not fit into {MOST_PARTS} chunks", shown(&request.path)),
        ));
    }
    let name = format!("{stem}-{}-{:x}", dav.files.tag(), part / MIB);
    let folder = Folder { place: uploads, name, part };
    let what = "the folder for the chunks";
    remove(dav, call, folder.url()?, what)?;
    let make = Request::new("MKCOL", folder.url()?).header("destination", dav.destination(&request.staging));
    let answer = dav.http.send(call, &make, "make", what)?;
    if !answer.status().is_success() {
        return Err(dav.http.fail(call, answer, "make", what));
    }
    dav.http.drain(call, answer);
    Ok(folder)
}

fn assemble(dav: &WebDav, call: &Call, request: &StageRequest, folder: &Folder<'_>) -> Result<Staged> {
    let what = shown(&request.path);
    let held = folder.held(dav, call)?;
    let bytes: u64 = held.iter().flat_map(|h| h.values()).sum();
    if held.is_some() && bytes != request.size {
        let what = format!("the server holds {bytes} of the {} bytes sent of {what}", request.size);
        return Err(Error::new(ErrorKind::StaleToken, what));
    }
    let facts = dav.facts(call)?;
    let url = folder.place.url(&folder.path()?.join(WHOLE)?, false);
    let mut whole = Request::new("MOVE", url)
        .header("destination", dav.destination(&request.staging))
        // The staging name is this file's own: what has it is an earlier attempt.
        .header("overwrite", "T")
        .header("oc-total-length", request.size.to_string());
    whole.headers.extend(headers(&facts, request).into_iter().filter(|(name, _)| *name == "x-oc-mtime"));
    whole.patient = Some("waiting until the server has put the chunks together");
    call.alive("the server puts the chunks together");
    let outcome = match dav.http.send(call, &whole, "put together", &what) {
        Ok(answer) if answer.status().is_success() => {
            dav.http.drain(call, answer);
            Ok(Duration::from_secs(30))
        }
        // Gateways give up before the server is done; it holds a lock meanwhile, and the folder vanishes at the end.
        Ok(answer) if matches!(answer.code(), 404 | 423 | 502 | 503 | 504) => {
            Err(dav.http.fail(call, answer, "put together", &what))
        }
        Ok(answer) => return Err(dav.http.fail(call, answer, "put together", &what)),
        Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::TimedOut) => {
            call.proceed()?;
            Err(e)
        }
        Err(e) => return Err(e),
    };
    match outcome {
        Ok(patience) => staged(dav, call, request, patience),
        Err(error) => staged(dav, call, request, PATIENCE.min(Duration::from_secs(600))).map_err(|later| {
            match later.kind() {
                ErrorKind::Corrupt => error,
                _ => later,
            }
        }),
    }
}

fn open<'a>(dav: &WebDav, call: &Call, upload: &str, place: &'a mut Option<Place>) -> Result<Folder<'a>> {
    let gone = || Error::new(ErrorKind::StaleToken, "the server takes no chunked uploads any more");
    *place = dav.facts(call)?.uploads;
    let place = place.as_ref().ok_or_else(gone)?;
    // Another target's are its own.
    let named = parse(upload).filter(|named| named.target == dav.files.tag()).ok_or_else(gone)?;
    Ok(Folder { place, name: upload.to_owned(), part: named.part })
}

pub fn stat(dav: &WebDav, call: &Call, upload: &str) -> Result<StagedInfo> {
    let mut place = None;
    let folder = open(dav, call, upload, &mut place)?;
    let held = folder.held(dav, call)?.ok_or_else(|| {
        Error::new(ErrorKind::StaleToken, "the chunks are not on the server any more")
            .with_context("hint", "the file is sent again from the start")
    })?;
    Ok(StagedInfo {
        token: folder.token(),
        path: None,
        owner: parse(upload).map(|named| named.owner).unwrap_or_default(),
        bytes: held.values().sum(),
        age: None,
    })
}

pub fn discard(dav: &WebDav, call: &Call, upload: &str) -> Result<()> {
    let mut place = None;
    let folder = open(dav, call, upload, &mut place)?;
    remove(dav, call, folder.url()?, "the chunks of an upload").map(drop)
}

/// Reads staged bytes from the chunks that hold them.
pub fn read(dav: &WebDav, call: &Call, upload: &str, range: Range, sink: &dyn Sink) -> Result<()> {
    let mut place = None;
    let folder = open(dav, call, upload, &mut place)?;
    let mut at = range.offset;
    while at < range.end() {
        let number = at / folder.part + 1;
        let start = (number - 1) * folder.part;
        let end = range.end().min(start + folder.part);
        let part = Range { offset: at - start, length: end - at };
        reading::fetch(dav, call, folder.chunk(number)?, Some(part), "a chunk", sink).map_err(|e| match e
            .kind()
        {
            ErrorKind::NotFound => Error::new(ErrorKind::StaleToken, "a chunk is not on the server any more"),
            // Nextcloud lets nobody read them.
            ErrorKind::Denied | ErrorKind::Unsupported => Error::unsupported("reading chunks on this server"),
            _ => e,
        })?;
        at = end;
    }
    Ok(())
}

/// Every upload for this target in the account's upload folder, whatever file it is for: the server does not tell that.
pub fn list(dav: &WebDav, call: &Call) -> Result<Vec<StagedInfo>> {
    let Some(place) = dav.facts(call)?.uploads else { return Ok(Vec::new()) };
    let what = "the uploads";
    let url = place.url(&TargetPath::root(), true);
    let Some(answer) = dav.propfind(call, url, "1", propfind::ENTRY, what)? else { return Ok(Vec::new()) };
    let asked = answer.url().clone();
    let target = dav.files.tag();
    let mut names = Vec::new();
    dav.each(call, answer, what, &mut |found| {
        let path = place.locate(&asked, &found.href)?;
        if path.components().count() == 1
            && let Ok(name) = std::str::from_utf8(path.name())
            && parse(name).is_some_and(|named| named.target == target)
        {
            names.push((name.to_owned(), found.modified));
        }
        Ok(true)
    })?;
    let mut staged = Vec::new();
    for (name, modified) in names {
        match stat(dav, call, &name) {
            Ok(info) => staged.push(StagedInfo { age: listing::age(modified), ..info }),
            Err(e) if *e.kind() == ErrorKind::StaleToken => {}
            Err(e) => return Err(e),
        }
    }
    Ok(staged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_tells_owner_target_and_chunk_size() {
        let named = parse("offsite-abc-def-0011-0123abcd-10").unwrap();
        assert_eq!((named.stem.as_str(), named.owner.as_str()), ("offsite-abc-def-0011", "abc-def"));
        assert_eq!((named.target.as_str(), named.part), ("0123abcd", 16 * MIB));
        for name in [
            "offsite-abc-0011-10",
            "offsite-abc-0011-0123abcd",
            "offsite-abc-0011-0123abcd-0",
            "offsite-abc-0011-0123abcd-zz",
            "web-file-upload-77-0123abcd-10",
            "offsite-abc-0011-0123abcd-ffffff",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn only_chunks_that_are_whole_and_were_named_count() {
        let place = Place::new(url::Url::parse("http://c/u/").unwrap());
        let folder = Folder { place: &place, name: "offsite-a-b-5".into(), part: 5 * MIB };
        let size = 17 * MIB;
        let held = BTreeMap::from([(1, 5 * MIB), (2, 5 * MIB - 1), (3, 5 * MIB), (4, 2 * MIB), (5, 0)]);
        let ranges = [Range { offset: 0, length: 12 * MIB }, Range { offset: 15 * MIB, length: 2 * MIB }];
        let done = still_there(&folder, &held, &ranges, size);
        let whole = [Range { offset: 0, length: 5 * MIB }, Range { offset: 15 * MIB, length: 2 * MIB }];
        assert_eq!(done.as_slice(), whole);
    }
}
