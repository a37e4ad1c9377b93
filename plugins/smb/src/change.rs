//! Deleting, renaming, directories, times.

use offsite_plugin_api::{Attributes, Call, Entry, Error, ErrorKind, Expect, Result, TargetPath};
use smb::{CreateDisposition, CreateOptions, Resource};

use super::client::{LONG, SHORT, Smb, looking, open};
use super::error::{OBJECT_NAME_COLLISION, shown, status};
use super::names::entry_of;
use super::read::{all, close};
use super::write::{changed, delete_open, deleting, move_open, set_mtime, there};

pub fn delete(smb: &Smb, call: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
    if matches!(expect, Expect::Absent) {
        return Err(Error::unsupported("deleting what is expected to be absent"));
    }
    let name = smb.wire(path)?;
    let (expect, at) = (expect.clone(), path.clone());
    let as_expected = smb.on(call, "delete", path, LONG, |live| async move {
        let resource = open(&live, &name, CreateDisposition::Open, deleting(), CreateOptions::new()).await?;
        if let Expect::Version(wanted) = &expect {
            let found = all(&resource).await?;
            if entry_of(at, &found).version.as_ref() != Some(wanted) {
                close(resource).await;
                return Ok(false);
            }
        }
        let marked = delete_open(&resource).await;
        close(resource).await;
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
        let resource = open(&live, &old, CreateDisposition::Open, deleting(), CreateOptions::new()).await?;
        if let Expect::Version(wanted) = &expect
            && there(&live, &new).await?.is_none_or(|all| entry_of(at, &all).version.as_ref() != Some(wanted))
        {
            close(resource).await;
            return Ok(Err(false));
        }
        let replace = !matches!(expect, Expect::Absent);
        match move_open(&resource, &new, replace).await {
            Err(error) if !replace && status(&error) == Some(OBJECT_NAME_COLLISION) => {
                close(resource).await;
                return Ok(Err(true));
            }
            other => other?,
        }
        let now = all(&resource).await;
        close(resource).await;
        now.map(|all| Ok(Box::new(all)))
    })?;
    match renamed {
        Ok(all) => Ok(entry_of(to.clone(), &all)),
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
        let options = CreateOptions::new().with_directory_file(true);
        // Usually it is there.
        if let Ok(resource) = open(&live, &name, CreateDisposition::Open, looking(), options).await {
            close(resource).await;
            return Ok(());
        }
        let mut made = String::new();
        for part in name.split('\\') {
            if !made.is_empty() {
                made.push('\\');
            }
            made.push_str(part);
            let resource = open(&live, &made, CreateDisposition::OpenIf, looking(), options).await?;
            close(resource).await;
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
        let access = looking().with_file_write_attributes(true);
        let resource: Resource =
            open(&live, &name, CreateDisposition::Open, access, CreateOptions::new()).await?;
        if let Some(ns) = mtime {
            set_mtime(&resource, ns).await?;
        }
        let now = all(&resource).await;
        close(resource).await;
        now
    })?;
    Ok(entry_of(path.clone(), &found))
}
