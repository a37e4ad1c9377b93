//! What is recorded and not listed, asked for by name: a listing can lag, leave lines out, or come without its entries, and
//! what it leaves out must not look like what is gone.
//!
//! Three answers: it is there (and so the listing of its directory is not whole), it is not (believed where the listing claims
//! to be whole), or nothing can be said. Nothing is concluded from the last, whatever the reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use offsite_plugin_api::{Entry, EntryKind, ErrorKind, TargetPath};

use super::site::{Site, of_target};
use super::{Files, Recorded, Unknown};
use crate::error::{Error, Result};

/// Names asked for at once: each waits for a far server.
const AT_ONCE: usize = 16;

/// Directories of which a listing leaves something out, and why.
pub type Incomplete = BTreeMap<TargetPath, String>;

/// The directory that makes it unknown whether something not listed under this path is there.
pub fn incomplete_above<'a>(incomplete: &'a Incomplete, path: &TargetPath) -> Option<&'a TargetPath> {
    if incomplete.is_empty() {
        return None;
    }
    let mut dir = path.parent();
    while let Some(at) = dir {
        if let Some((known, _)) = incomplete.get_key_value(&at) {
            return Some(known);
        }
        dir = at.parent();
    }
    None
}

/// What became of the records that no listing shows.
#[derive(Default)]
pub struct Asked {
    /// There, although they are not listed.
    pub found: Vec<Entry>,
    /// Of which nothing can be said, and why.
    pub unknown: BTreeMap<TargetPath, String>,
}

/// Asks for every recorded file that is not listed, and notes in `incomplete` where the listing turns out not to be whole.
/// `gone`: an earlier run asked for them and nobody missed them since, for the source has them no more; a server is not
/// asked in every run for 90 days. What the listing says is believed of those.
///
/// Errors: those that say something of the whole target.
pub fn unlisted<'a>(
    site: &Site<'_>,
    files: &Files,
    records: impl Iterator<Item = &'a TargetPath>,
    gone: &BTreeMap<TargetPath, i64>,
    incomplete: &mut Incomplete,
) -> Result<Asked> {
    let mut listed = files.keys().peekable();
    // Both are sorted by path.
    let missing: Vec<&TargetPath> = records
        .filter(|path| {
            while listed.next_if(|listed| listed < path).is_some() {}
            listed.next_if(|listed| listed == path).is_none()
        })
        .collect();
    let mut asked = Asked::default();
    if missing.is_empty() {
        return Ok(asked);
    }
    let answers = ask(site, &missing, gone)?;
    let mut left_out: BTreeMap<TargetPath, (u64, TargetPath)> = BTreeMap::new();
    for (path, answer) in missing.into_iter().zip(answers) {
        match answer {
            Answer::There(entry) => {
                let dir = path.parent().unwrap_or_default();
                left_out.entry(dir).or_insert_with(|| (0, path.clone())).0 += 1;
                asked.found.push(entry);
            }
            Answer::Gone => {
                if let Some(dir) = incomplete_above(incomplete, path) {
                    let why = format!("the listing of '{}' is not whole", shown(dir));
                    asked.unknown.insert(path.clone(), why);
                }
            }
            Answer::Unclear(why) => {
                asked.unknown.insert(path.clone(), why);
            }
        }
    }
    for (dir, (count, example)) in left_out {
        incomplete.entry(dir).or_insert_with(|| {
            format!(
                "it leaves out {} that the server has when it is asked for {} by name, '{}' for one",
                crate::words::count(count, "file"),
                crate::words::word(count, "it", "them"),
                example.display()
            )
        });
    }
    Ok(asked)
}

/// A directory in words.
pub fn shown(dir: &TargetPath) -> String {
    if dir.is_root() { "/".to_owned() } else { dir.display().into_owned() }
}

/// Whether a record may be that of a file which is there all the same.
pub fn unknown_of(
    asked: BTreeMap<TargetPath, String>,
    records: &mut BTreeMap<TargetPath, Box<Recorded>>,
) -> BTreeMap<TargetPath, Unknown> {
    let of = |(path, why)| records.remove(&path).map(|recorded| (path, Unknown { recorded, why }));
    asked.into_iter().filter_map(of).collect()
}

enum Answer {
    There(Entry),
    Gone,
    Unclear(String),
}

fn ask(site: &Site<'_>, missing: &[&TargetPath], gone: &BTreeMap<TargetPath, i64>) -> Result<Vec<Answer>> {
    let answers: Vec<Mutex<Option<Answer>>> = missing.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = missing.get(at) else { return Ok(()) };
            let answer = if gone.contains_key(*path) { Ok(Answer::Gone) } else { answer(site, path) };
            match answer {
                Ok(found) => *answers[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(found),
                Err(error) => {
                    next.store(missing.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let start = |n| std::thread::Builder::new().name(format!("ask-{n}")).spawn_scoped(scope, work);
        // Without them the calling thread asks for everything.
        let helpers: Vec<_> = (1..AT_ONCE.min(missing.len())).filter_map(|n| start(n).ok()).collect();
        let first = work();
        let all = helpers.into_iter().map(|h| h.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        all.fold(first, Result::and)
    })?;
    let unasked = || Answer::Unclear("it was not asked for".to_owned());
    Ok(answers
        .into_iter()
        .map(|answer| answer.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(unasked))
        .collect())
}

fn answer(site: &Site<'_>, path: &TargetPath) -> Result<Answer> {
    match site.backend.stat(site.call, path) {
        Ok(entry) if entry.kind == EntryKind::File => Ok(Answer::There(entry)),
        // A directory has the name: the file is not there.
        Ok(_) => Ok(Answer::Gone),
        Err(error) if *error.kind() == ErrorKind::NotFound => Ok(Answer::Gone),
        Err(error) => {
            let error = Error::from(error);
            if of_target(&error) { Err(error) } else { Ok(Answer::Unclear(error.to_string())) }
        }
    }
}
