//! Deleting, renaming, directories, times.

use offsite_plugin_api::{Attributes, Call, Entry, EntryKind, Error, ErrorKind, Expect, Result, TargetPath};

use super::client::{Ftp, look};
use super::error::{Fault, changed, exists, not_found, shown};
use super::facts::stamp;
use super::list;
use super::names::{below, carried};
use super::session::Session;

pub fn delete(ftp: &Ftp, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
    if path.is_root() {
        return Err(Error::new(ErrorKind::Denied, "the target's own folder is never deleted"));
    }
    let entry = ftp.stat_entry(call, path)?;
    match expect {
        Expect::Absent => return Err(exists(path)),
        Expect::Version(wanted) if entry.version.as_deref() != Some(wanted) => {
            return Err(changed(path, false));
        }
        _ => {}
    }
    if entry.kind != EntryKind::Dir {
        return if remove(ftp, call, path)? { Ok(()) } else { Err(not_found(path)) };
    }
    // Some servers delete what is in it as well.
    if !list::is_empty(ftp, call, path)? {
        return Err(Error::new(ErrorKind::PreconditionFailed, format!("{} is not empty", shown(path))));
    }
    ftp.dirs().retain(|known| !known.starts_with(path));
    ftp.shared.on(call, "delete", &shown(path), |session| {
        // The working directory of a session may be the one that goes.
        if session.moves {
            session.command(&format!("CWD {}", below(&session.root, &TargetPath::root())))?;
        }
        session.done(&format!("RMD {}", below(&session.root, path))).map(drop)
    })
}

/// Deletes a file; false: nothing was there.
pub fn remove(ftp: &Ftp, call: &Call, path: &TargetPath) -> Result<bool> {
    ftp.shared.on(call, "delete", &shown(path), |session| {
        let reply = session.command(&format!("DELE {}", below(&session.root, path)))?;
        match reply.good() {
            true => Ok(true),
            // Codes tell nothing of why.
            false if look(session, path)?.is_none() => Ok(false),
            false => Err(Fault::Said(reply)),
        }
    })
}

/// Renames, whatever has the new name.
fn move_at(session: &mut Session, from: &TargetPath, to: &TargetPath) -> Result<(), Fault> {
    let from = session.command(&format!("RNFR {}", below(&session.root, from)))?;
    if from.code != 350 {
        return Err(Fault::Said(from));
    }
    session.done(&format!("RNTO {}", below(&session.root, to))).map(drop)
}

/// A rename to a name that nothing has, as far as a look tells. Errors: `NotFound` for no such file.
pub fn move_file(ftp: &Ftp, call: &Call, from: &TargetPath, to: &TargetPath) -> Result<()> {
    carried(to)?;
    make_dirs(ftp, call, &to.parent().unwrap_or_default())?;
    let moved =
        ftp.shared.on(call, "rename a file to", &shown(to), |session| match move_at(session, from, to) {
            Err(Fault::Said(reply)) if look(session, from)?.is_none() => Ok(Err(reply)),
            other => other.map(Ok),
        })?;
    moved.map_err(|_| not_found(from))
}

pub fn rename(ftp: &Ftp, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
    let before = ftp.stat_entry(call, from)?;
    match (ftp.look(call, to)?, expect) {
        (None, Expect::Version(_)) => return Err(changed(to, true)),
        (None, _) => {}
        (Some(_), Expect::Absent) => return Err(exists(to)),
        (Some(facts), Expect::Version(wanted)) if facts.version().as_ref() != Some(wanted) => {
            return Err(changed(to, false));
        }
        (Some(_), _) => return Err(Error::unsupported("replacing a file by a rename on this server")),
    }
    if before.kind == EntryKind::Dir {
        ftp.dirs().retain(|known| !known.starts_with(from));
    }
    match move_file(ftp, call, from, to) {
        Ok(()) => ftp.stat_entry(call, to),
        // A lost reply may hide a success.
        Err(error) => match (ftp.look(call, from), ftp.stat_entry(call, to)) {
            (Ok(None), Ok(entry)) if entry.size == before.size && entry.kind == before.kind => Ok(entry),
            _ => Err(error),
        },
    }
}

/// Makes a directory and its missing parents, the target's own folder among them. What was there a moment ago is not
/// asked for again.
pub fn make_dirs(ftp: &Ftp, call: &Call, dir: &TargetPath) -> Result<()> {
    if ftp.dirs().contains(dir) {
        return Ok(());
    }
    carried(dir)?;
    ftp.shared.on(call, "make the directory", &shown(dir), |session| {
        let at = below(&session.root, dir);
        if is_dir(session, &at)? {
            return Ok(());
        }
        // From the first that may be missing: its parents are made one by one.
        let mut refused = None;
        let ends = at.match_indices('/').map(|(end, _)| end).chain([at.len()]);
        for made in ends.map(|end| &at[..end]).filter(|made| !matches!(*made, "" | ".")) {
            if is_dir(session, made)? {
                continue;
            }
            let reply = session.command(&format!("MKD {made}"))?;
            if !reply.good() {
                // What is below it fails for no other reason.
                refused.get_or_insert(reply);
            }
        }
        match refused {
            // Somebody else may have made it meanwhile.
            Some(reply) if !is_dir(session, &at)? => Err(Fault::Said(reply)),
            _ => Ok(()),
        }
    })?;
    ftp.dirs().insert(dir.clone());
    Ok(())
}

fn is_dir(session: &mut Session, at: &str) -> Result<bool, Fault> {
    if session.moves {
        return Ok(session.command(&format!("CWD {at}"))?.good());
    }
    Ok(super::client::look_at(session, at)?.is_some_and(|facts| facts.kind == EntryKind::Dir))
}

/// Sets the time of a file where the server can.
pub fn set_time(session: &mut Session, at: &str, ns: i64) -> Result<(), Fault> {
    if !session.features.mfmt {
        return Ok(());
    }
    let Some(stamp) = stamp(ns.div_euclid(1_000_000_000)) else { return Ok(()) };
    session.done(&format!("MFMT {stamp} {at}")).map(drop)
}

/// The time only, and only where the server knows MFMT.
pub fn set_attributes(ftp: &Ftp, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
    if attributes.retention.is_some() {
        return Err(Error::unsupported("retention: FTP has none"));
    }
    if let Some(mtime) = attributes.mtime {
        let can = ftp.shared.on(call, "set the time of", &shown(path), |session| {
            if look(session, path)?.is_none() {
                return Ok(None);
            }
            let at = below(&session.root, path);
            set_time(session, &at, mtime.ns)?;
            Ok(Some(session.features.mfmt))
        })?;
        match can {
            None => return Err(not_found(path)),
            Some(false) => return Err(Error::unsupported("setting times: this server does not know MFMT")),
            Some(true) => {}
        }
    }
    ftp.stat_entry(call, path)
}
