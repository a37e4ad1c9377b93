//! Listings: one directory after the other, by MLSD where the server knows it, else by LIST.
//!
//! A plain listing hides names with a leading dot on some servers, so all are asked for (`-a`), and that is believed where the
//! directory itself is listed. Its times have neither zone nor seconds, so each file's is asked for.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant, SystemTime};

use offsite_plugin_api::{
    Call, Entry, EntryKind, Error, ErrorKind, Level, Page, Result, StagedInfo, TargetPath,
};

use super::client::{Ftp, entry, modified};
use super::error::{Fault, not_found, shown};
use super::facts::{Facts, listed, mlsx};
use super::names::{below, text};
use super::pool::Shared;
use super::session::Session;
use super::write;

/// Entries after which a recursive listing begins another page.
const PAGE: usize = 10_000;
const DEEPEST: usize = 100;
/// A longer line, or more of them, is an attack.
const LONGEST_LINE: u64 = 64 * 1024;
const LARGEST: usize = 5_000_000;
/// How often a long listing tells that it goes on.
const ALIVE: Duration = Duration::from_secs(10);

/// What lies directly in a directory, as far as its listing was understood.
#[derive(Default)]
struct Found {
    names: Vec<(Vec<u8>, Facts)>,
    /// Lines that say something in no known form, and the first of them.
    unknown: u64,
    example: String,
}

impl Found {
    /// A line that may have been a file's.
    fn leave_out(&mut self, line: &[u8]) {
        if self.unknown == 0 {
            self.example = text(&line[..line.len().min(200)]).escape_debug().to_string();
        }
        self.unknown += 1;
    }

    /// Why it is not all.
    fn left_out(&self) -> Option<String> {
        (self.unknown > 0).then(|| {
            let (line, are) = if self.unknown == 1 { ("line", "is") } else { ("lines", "are") };
            format!(
                "{} {line} of the server's listing {are} of no known form, such as '{}'",
                self.unknown, self.example
            )
        })
    }
}

/// A line to what it says and the name in it.
type Parse = fn(&[u8]) -> Option<(Facts, &[u8])>;

/// What is directly in `dir`, without itself and its parent. `None`: there is no such directory.
fn directory(
    shared: &Shared,
    session: &mut Session,
    call: &Call,
    dir: &TargetPath,
) -> Result<Option<Found>, Fault> {
    let at = below(&session.root, dir);
    if session.features.mlst {
        match lines(shared, session, call, &format!("MLSD {at}"), mlsx) {
            Err(fault) if matches!(fault.code(), Some(500..=502)) => {}
            other => return absent(other, dir, session, call),
        }
    }
    if !session.moves {
        return absent(lines(shared, session, call, &format!("LIST {at}"), listed), dir, session, call);
    }
    let gone = session.command(&format!("CWD {at}"))?;
    if !gone.good() {
        return match gone.code {
            450 | 550..=553 => Ok(None),
            _ => Err(Fault::Said(gone)),
        };
    }
    let mut found = match lines(shared, session, call, "LIST -a", listed) {
        Ok(found) if found.names.iter().any(|(name, _)| name == b".") => found,
        Err(fault) if !fault.keeps() => return Err(fault),
        _ => lines(shared, session, call, "LIST", listed)?,
    };
    found.names.retain(|(name, _)| !matches!(&name[..], b"." | b".."));
    for (name, facts) in found.names.iter_mut().filter(|(_, facts)| facts.kind == EntryKind::File) {
        // Cancelled between two: the sockets are shut, and the next command fails.
        facts.modified = modified(session, &format!("{}/{}", at.trim_end_matches('/'), text(name)))?;
    }
    Ok(Some(found))
}

fn absent(
    found: Result<Found, Fault>,
    dir: &TargetPath,
    session: &mut Session,
    call: &Call,
) -> Result<Option<Found>, Fault> {
    match found {
        Err(fault) if matches!(fault.code(), Some(450 | 501 | 550..=553)) => {
            // "Not there" and "not for you" look alike: whoever is there can be looked at.
            match super::client::look(session, dir)? {
                None => Ok(None),
                Some(facts) if facts.kind != EntryKind::Dir => Ok(None),
                Some(_) => {
                    call.log(Level::Debug, "a directory that is there cannot be listed");
                    Err(fault)
                }
            }
        }
        other => other.map(Some),
    }
}

/// One data connection's lines.
fn lines(
    shared: &Shared,
    session: &mut Session,
    call: &Call,
    command: &str,
    parse: Parse,
) -> Result<Found, Fault> {
    let mut transfer = session.transfer(shared, command, 0)?;
    let found = match parsed(&mut transfer, call, parse) {
        Ok(read) => read,
        Err(fault) => {
            session.abandon(transfer);
            return Err(fault);
        }
    };
    session.finish(transfer)?;
    Ok(found)
}

fn parsed(from: impl Read, call: &Call, parse: Parse) -> Result<Found, Fault> {
    let mut found = Found::default();
    let mut reader = BufReader::with_capacity(64 * 1024, from);
    let mut line = Vec::new();
    let mut told = Instant::now();
    loop {
        line.clear();
        reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(found);
        }
        if line.len() as u64 >= LONGEST_LINE || found.names.len() >= LARGEST {
            return Err(Fault::Nonsense("a listing without an end".to_owned()));
        }
        let kept = line.strip_suffix(b"\n").unwrap_or(&line);
        let kept = kept.strip_suffix(b"\r").unwrap_or(kept);
        match parse(kept) {
            Some((facts, name)) => found.names.push((name.to_vec(), facts)),
            None if harmless(kept) => {}
            None => found.leave_out(kept),
        }
        if told.elapsed() > ALIVE {
            call.alive("listing");
            told = Instant::now();
        }
    }
}

/// Lines that list nothing: none at all, the blocks of `ls -l`, and the directory itself and its parent in MLSD.
fn harmless(line: &[u8]) -> bool {
    let facts = text(line.split(|b| *b == b' ').next().unwrap_or_default()).to_lowercase();
    line.trim_ascii().is_empty()
        || line.strip_prefix(b"total ").is_some_and(|rest| rest.trim_ascii().iter().all(u8::is_ascii_digit))
        || facts.split(';').any(|fact| matches!(fact, "type=cdir" | "type=pdir"))
}

/// What is in it, and why that is not all where it is not.
fn entries(ftp: &Ftp, call: &Call, dir: &TargetPath) -> Result<(Vec<Entry>, Option<String>)> {
    let shared = &ftp.shared;
    let found = shared.on(call, "list", &shown(dir), |session| directory(shared, session, call, dir))?;
    let mut found = found.ok_or_else(|| not_found(dir))?;
    let mut entries = Vec::with_capacity(found.names.len());
    for (name, facts) in std::mem::take(&mut found.names) {
        let path = match name.is_empty() || name.contains(&b'/') {
            false => dir.join(&name).ok(),
            true => None,
        };
        match path {
            Some(path) => entries.push(entry(path, &facts)?),
            None => found.leave_out(&name),
        }
    }
    Ok((entries, found.left_out()))
}

/// Whether there is nothing in it, as far as can be seen. Errors: `NotFound`.
pub fn is_empty(ftp: &Ftp, call: &Call, dir: &TargetPath) -> Result<bool> {
    entries(ftp, call, dir).map(|(entries, left_out)| entries.is_empty() && left_out.is_none())
}

pub fn list(ftp: &Ftp, call: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
    let mut pending: VecDeque<TargetPath> = match page {
        None => [dir.clone()].into(),
        Some(token) => {
            let pending: VecDeque<TargetPath> = serde_json::from_slice(token).unwrap_or_default();
            if pending.is_empty() || !pending.iter().all(|p| p.starts_with(dir)) {
                return Err(Error::new(ErrorKind::Other, "the page token is of another listing"));
            }
            pending
        }
    };
    let mut result = Page::default();
    while let Some(of) = pending.pop_front() {
        call.proceed()?;
        let (found, left_out) = match entries(ftp, call, &of) {
            // Removed since its parent was listed.
            Err(e) if *e.kind() == ErrorKind::NotFound && of != *dir => continue,
            // There, and not for this user.
            Err(e) if *e.kind() == ErrorKind::Denied && of != *dir => (Vec::new(), Some(e.to_string())),
            other => other?,
        };
        result.incomplete.extend(left_out.map(|why| (of, why)));
        for entry in found {
            if recursive && entry.kind == EntryKind::Dir {
                if entry.path.components().count() > DEEPEST {
                    return Err(Error::new(
                        ErrorKind::Denied,
                        format!("{} is nested too deeply", shown(&entry.path)),
                    ));
                }
                pending.push_back(entry.path.clone());
            }
            result.entries.push(entry);
        }
        if result.entries.len() >= PAGE && !pending.is_empty() {
            result.next = Some(serde_json::to_vec(&pending).expect("paths serialise"));
            break;
        }
    }
    Ok(result)
}

pub fn staged(ftp: &Ftp, call: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let page = match list(ftp, call, dir, true, next.as_deref()) {
            // Nothing is staged where there is nothing.
            Err(e) if *e.kind() == ErrorKind::NotFound => return Ok(found),
            other => other?,
        };
        let staged = |e: &&Entry| e.kind == EntryKind::File && write::owner_of(e.path.name()).is_some();
        found.extend(page.entries.iter().filter(staged).map(write::info));
        next = page.next;
        if next.is_none() {
            return Ok(found);
        }
    }
}

/// Seconds since then, by this machine's clock.
pub fn age(modified: Option<i64>) -> Option<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(u64::try_from(modified?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, parse: Parse) -> (Vec<String>, Option<String>) {
        let found = parsed(text.as_bytes(), &Call::unwatched(), parse).unwrap();
        (found.names.iter().map(|(name, _)| super::text(name).to_string()).collect(), found.left_out())
    }

    #[test]
    fn lines_of_no_known_form_are_told_and_the_others_are_read() {
        let (names, left_out) = read(
            "total 8\r\n-rw-r--r-- 1 ftp ftp 256 Nov 23 14:00 known\r\n-rw-r--r-- 1 ftp ftp 256 23 Nov 14:00 type=other\r\n\r\n",
            listed,
        );
        assert_eq!(names, ["known"]);
        let left_out = left_out.unwrap();
        assert!(
            left_out.starts_with("1 line of the server's listing is")
                && left_out.contains("23 Nov 14:00 type=other"),
            "{left_out}"
        );
    }

    #[test]
    fn what_lists_nothing_leaves_nothing_out() {
        let facts = "Type=cdir;Modify=20261123140000; .\r\ntype=pdir; ..\r\ntype=file;size=1; a\r\n";
        assert_eq!(read(facts, mlsx), (vec!["a".to_owned()], None));
        assert_eq!(read("total 0\r\n", listed), (Vec::new(), None));
        assert!(read("type=file;size=1;modify=2\r\n", mlsx).1.is_some(), "a file without a name");
    }
}
