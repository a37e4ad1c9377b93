//! Deleting, renaming, directories, times.

use offsite_plugin_api::{Attributes, Call, Entry, Error, ErrorKind, Expect, Result, TargetPath};
use smb2::msg::create::CreateDisposition;

use super::client::{LONG, SHORT, Smb};
use super::error::{OBJECT_NAME_COLLISION, shown, status};
use super::file::File;
use super::names::{entry_of, to_filetime};
use super::share::{Access, Options};
use super::write::{absent, changed, there};

pub fn delete(smb: &Smb, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
    if matches!(expect, Expect::Absent) {
        return Err(Error::unsupported("deleting what is expected to be absent"));
    }
    let name = smb.wire(path)?;
    let (expect, at) = (expect.clone(), path.clone());
    let as_expected = smb.on(call, "delete", path, LONG, |live| async move {
        let (file, found) =
            File::open(&live, &name, CreateDisposition::FileOpen, Access::DELETE, Options::ANY).await?;
        if let Expect::Version(wanted) = &expect
            && entry_of(at, &found).version.as_ref() != Some(wanted)
        {
            file.close().await;
            return Ok(false);
        }
        let marked = live.delete(*file).await;
        file.close().await;
        marked.map(|()| true)
    })?;
    if as_expected { Ok(()) } else { Err(changed(path)) }
}

pub fn rename(smb: &Smb, call: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
    let (old, new) = (smb.wire(from)?, smb.wire(to)?);
    if from.parent() != to.parent() {
        make_dirs(smb, call, &to.parent().unwrap_or_default())?;
    }
    let (expect, at) = (expect.clone(), to.clone());
    let renamed = smb.on(call, "rename", from, LONG, |live| async move {
        let (file, _) =
            File::open(&live, &old, CreateDisposition::FileOpen, Access::DELETE, Options::ANY).await?;
        if let Expect::Version(wanted) = &expect
            && there(&live, &new)
                .await?
                .is_none_or(|about| entry_of(at, &about).version.as_ref() != Some(wanted))
        {
            file.close().await;
            return Ok(Err(false));
        }
        let replace = !matches!(expect, Expect::Absent);
        match live.rename(*file, &new, replace).await {
            Err(error) if !replace && status(&error) == Some(OBJECT_NAME_COLLISION) => {
                file.close().await;
                return Ok(Err(true));
            }
            other => other?,
        }
        let now = live.about(*file).await;
        file.close().await;
        now.map(Ok)
    })?;
    match renamed {
        Ok(about) => Ok(entry_of(to.clone(), &about)),
        Err(true) => Err(Error::new(ErrorKind::Exists, format!("{} exists already", shown(to)))),
        Err(false) => Err(changed(to)),
    }
}

/// The directory and its missing parents, the target's own folder among them.
pub fn make_dirs(smb: &Smb, call: &Call, path: &TargetPath) -> Result<()> {
    let name = smb.wire(path)?;
    if name.is_empty() {
        return Ok(());
    }
    smb.on(call, "make the directory", path, SHORT, |live| async move {
        let options = Options::DIRECTORY;
        // Usually it is there.
        if let Ok(open) = live.open(&name, CreateDisposition::FileOpen, Access::LOOK, options).await {
            live.close(open).await;
            return Ok(());
        }
        let mut made = String::new();
        for part in name.split('\\') {
            if !made.is_empty() {
                made.push('\\');
            }
            made.push_str(part);
            // Looked for first: not every server opens what is there when asked to open or make it.
            let there = live.open(&made, CreateDisposition::FileOpen, Access::LOOK, options).await;
            let open = match there {
                Err(error) if absent(&error) => {
                    live.open(&made, CreateDisposition::FileCreate, Access::LOOK, options).await
                }
                other => other,
            };
            match open {
                Ok(open) => live.close(open).await,
                // Somebody else was faster.
                Err(error) if status(&error) == Some(OBJECT_NAME_COLLISION) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

pub fn set_attributes(smb: &Smb, call: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
    if attributes.retention.is_some() || attributes.class.is_some() {
        return Err(Error::unsupported("retention on a share"));
    }
    let name = smb.wire(path)?;
    let mtime = attributes.mtime.map(|t| t.ns);
    let found = smb.on(call, "set the time of", path, SHORT, |live| async move {
        let (file, _) =
            File::open(&live, &name, CreateDisposition::FileOpen, Access::SET_TIMES, Options::ANY).await?;
        if let Some(ns) = mtime {
            live.set_written(*file, to_filetime(ns)).await?;
        }
        let now = live.about(*file).await;
        file.close().await;
        now
    })?;
    Ok(entry_of(path.clone(), &found))
}
