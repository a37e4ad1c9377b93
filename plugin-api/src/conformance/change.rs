//! Delete, copy, rename, directories, attributes.

use super::Case;
use super::kit::{Content, Ctx, Stop, ensure, refused, skip};
use crate::{Attributes, Call, EntryKind, Error, ErrorKind, Expect, TargetPath, Timestamp};

pub(super) const CASES: &[Case] = &[
    ("a deleted file is gone", delete),
    ("delete, a version expected, refuses another one", delete_version),
    ("a directory is deleted only when it is empty", delete_dir),
    ("a batch of deletions has a result for each", delete_batch),
    ("a copy has the same bytes and overwrites nothing unasked", copy),
    ("a rename moves the bytes and overwrites nothing unasked", rename),
    ("a directory can be made, twice", make_dir),
    ("the modification time can be set", set_mtime),
];

fn delete(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let (path, stays) = (ctx.path("gone.img")?, ctx.path("stays.img")?);
    let content = Content::new(70, 500);
    ctx.put(&path, &content)?;
    ctx.put(&stays, &content)?;
    ctx.backend.delete(&Call::unwatched(), &path, &Expect::Any)?;
    ctx.absent(&path)?;
    let again = ctx.backend.delete(&Call::unwatched(), &path, &Expect::Any);
    refused("deleting it again", again, &[ErrorKind::NotFound])?;
    ctx.holds(&stays, &content)
}

fn delete_version(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("versioned.img")?;
    let content = Content::new(71, 500);
    let Some(version) = ctx.put(&path, &content)?.version else {
        return skip("entries have no version");
    };
    let other = Expect::Version("no such version".into());
    let result = ctx.backend.delete(&Call::unwatched(), &path, &other);
    refused("deleting another version", result, &[ErrorKind::PreconditionFailed])?;
    ctx.holds(&path, &content)?;
    ctx.backend.delete(&Call::unwatched(), &path, &Expect::Version(version))?;
    ctx.absent(&path)
}

fn delete_dir(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("full/file.img")?;
    let content = Content::new(72, 5);
    ctx.put(&path, &content)?;
    let dir = ctx.path("full")?;
    let result = ctx.backend.delete(&Call::unwatched(), &dir, &Expect::Any);
    ensure!(result.is_err(), "a directory was deleted with a file in it");
    ctx.holds(&path, &content)?;
    ctx.backend.delete(&Call::unwatched(), &path, &Expect::Any)?;
    match ctx.backend.delete(&Call::unwatched(), &dir, &Expect::Any) {
        // Where directories are only prefixes, it went with its last file.
        Err(error) if *error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => ctx.absent(&dir),
    }
}

fn delete_batch(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let call = Call::unwatched();
    let names = ["1.img", "2.img", "missing.img", "3.img"];
    let paths = names.iter().map(|n| ctx.path(n)).collect::<Result<Vec<_>, Error>>()?;
    for path in paths.iter().filter(|p| p.name() != b"missing.img") {
        ctx.put(path, &Content::new(73, 5))?;
    }
    let items: Vec<(TargetPath, Expect)> = paths.iter().cloned().map(|p| (p, Expect::Any)).collect();
    let results = ctx.backend.delete_batch(&call, &items)?;
    ensure!(results.len() == items.len(), "{} results for {} deletions", results.len(), items.len());
    for ((path, _), result) in items.iter().zip(results) {
        match result {
            Err(error) if path.name() == b"missing.img" => {
                ensure!(*error.kind() == ErrorKind::NotFound, "deleting what is missing: {error}");
            }
            other => other?,
        }
        ctx.absent(path)?;
    }
    ensure!(ctx.backend.delete_batch(&call, &[])?.is_empty(), "an empty batch has results");
    Ok(())
}

type Transfer<'a> = &'a dyn Fn(&TargetPath, &TargetPath, &Expect) -> crate::Result<crate::Entry>;

/// What copy and rename share. Leaves the content of `from.img` at `to.img`.
fn transfer(ctx: &Ctx<'_>, act: Transfer<'_>, content: &Content) -> Result<(), Stop> {
    let (from, to, taken) = (ctx.path("from.img")?, ctx.path("to.img")?, ctx.path("taken.img")?);
    let other = Content::new(75, 200);
    ctx.put(&from, content)?;
    ctx.put(&taken, &other)?;
    refused("over an existing name", act(&from, &taken, &Expect::Absent), &[ErrorKind::Exists])?;
    ctx.holds(&taken, &other)?;
    ctx.holds(&from, content)?;
    if ctx.stat(&taken)?.version.is_some() {
        let result = act(&from, &taken, &Expect::Version("no such version".into()));
        // One that never replaces says so.
        refused("over another version", result, &[ErrorKind::PreconditionFailed, ErrorKind::Unsupported])?;
        ctx.holds(&taken, &other)?;
    }
    let nothing = act(&ctx.path("nothing.img")?, &to, &Expect::Absent);
    refused("from nothing", nothing, &[ErrorKind::NotFound])?;
    let entry = act(&from, &to, &Expect::Absent)?;
    ensure!(entry.path == to && entry.size == content.size, "the entry is {entry:?}");
    ctx.holds(&to, content)
}

fn copy(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if !ctx.caps.copy {
        return skip("the server does not copy");
    }
    let content = Content::new(74, 100_001);
    transfer(ctx, &|from, to, expect| ctx.backend.copy(&Call::unwatched(), from, to, expect), &content)?;
    ctx.holds(&ctx.path("from.img")?, &content)
}

fn rename(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if !ctx.caps.rename {
        return skip("the server does not rename");
    }
    let content = Content::new(76, 100_001);
    transfer(ctx, &|from, to, expect| ctx.backend.rename(&Call::unwatched(), from, to, expect), &content)?;
    ctx.absent(&ctx.path("from.img")?)
}

fn make_dir(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let (dir, call) = (ctx.path("one/two/three")?, Call::unwatched());
    match ctx.backend.make_dir(&call, &dir) {
        Err(error) if *error.kind() == ErrorKind::Unsupported => {
            return skip("the server has no directories");
        }
        other => other?,
    }
    ctx.backend.make_dir(&call, &dir)?;
    ensure!(ctx.stat(&dir)?.kind == EntryKind::Dir, "what was made is no directory");
    let entries = super::kit::list_all(&*ctx.backend, &dir, false)?;
    ensure!(entries.is_empty(), "the new directory holds {entries:?}");
    Ok(())
}

fn set_mtime(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let Some(precision) = ctx.caps.mtime_precision_ns else {
        return skip("modification times cannot be set");
    };
    let path = ctx.path("dated.img")?;
    let content = Content::new(77, 40);
    ctx.put(&path, &content)?;
    let mtime = Timestamp { ns: 1_234_567_890_987_654_321, precision_ns: 1 };
    let attributes = Attributes { mtime: Some(mtime), ..Attributes::default() };
    ctx.backend.set_attributes(&Call::unwatched(), &path, &attributes)?;
    let Some(found) = ctx.stat(&path)?.mtime else {
        return Err(Stop::Fail("the entry has no modification time".into()));
    };
    let off = found.ns.abs_diff(mtime.ns);
    ensure!(off < precision.max(1), "the modification time is {off} ns off, {precision} ns were declared");
    ctx.holds(&path, &content)
}
