//! Stage, publish, discard: the two phases, what is visible between them, and what makes each safe to repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::Case;
use super::kit::{
    Compare, Content, Ctx, GONE, MIB, Record, Stop, Trick, Watch, ensure, publish_request, refused, skip,
};
use crate::{Call, ErrorKind, Expect, Replace, Timestamp};

pub(super) const CASES: &[Case] = &[
    ("what is published is read back, at every size", round_trip),
    ("paced and acknowledged bytes are the file's size", progress),
    ("nothing has the name before the publish", invisible),
    ("a publish can be repeated", publish_twice),
    ("publish, absent expected, refuses an existing name", expect_absent),
    ("publish, a version expected, refuses another one", expect_version),
    ("a replaced file is old or new, never neither", replace_atomically),
    ("a discard can be repeated, and the token is gone", discard_twice),
    ("a source that ends early is not staged", short_source),
    ("the source's own error comes back", source_error),
    ("staged bytes can be read back", read_staged),
    ("list_staged shows token, owner and bytes", list_staged),
    ("publish sets the modification time", publish_mtime),
    ("several files can be in flight at once", parallel_files),
];

fn round_trip(ctx: &Ctx<'_>) -> Result<(), Stop> {
    for (seed, size) in [0, 1, 4095, 64 * 1024 + 1, 5 * MIB].into_iter().enumerate() {
        let path = ctx.path(format!("deep/er/{size}.img"))?;
        let content = Content::new(seed as u64, size);
        let staged = ctx.stage(&path, &content)?;
        ensure!(staged.size == size || size == 0, "staged {} of {size} bytes", staged.size);
        ensure!(
            staged.token.0.len() <= crate::Token::MAX,
            "a token of {} bytes is too long",
            staged.token.0.len()
        );
        let entry = ctx.publish(&path, &staged.token, &content, Expect::Absent)?;
        ensure!(entry.path == path, "published {path:?}, but the entry says {:?}", entry.path);
        ensure!(entry.size == size, "published {size} bytes, but the entry says {}", entry.size);
        let found = ctx.stat(&path)?;
        ensure!(found.size == size, "stat says {} bytes of {size}", found.size);
        ensure!(found.version == entry.version, "publish and stat give different versions of one file");
        ctx.holds(&path, &content)?;
    }
    Ok(())
}

fn progress(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("progress.img")?;
    let content = Content::new(1, 5 * MIB + 3);
    let watch = Arc::new(Watch::default());
    let mut request = ctx.request(&path, content.size)?;
    request.streams = ctx.caps.parallel_ranges.clamp(1, 4);
    let session = Arc::new(Record::default());
    let staged = ctx.backend.stage(&watch.call(), &request, Arc::new(content.clone()), session)?;
    ctx.backend.publish(&watch.call(), &publish_request(&path, &staged.token, &content, Expect::Absent))?;
    let (paced, acked) = (watch.paced.load(SeqCst), watch.acked.load(SeqCst));
    ensure!(acked == content.size, "{acked} bytes were acknowledged of {}", content.size);
    // Framing of the protocol may be paced too, but not the file twice.
    let most = content.size + content.size / 10 + 64 * 1024;
    ensure!((content.size..=most).contains(&paced), "{paced} bytes were paced for {}", content.size);
    Ok(())
}

fn invisible(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("unseen.img")?;
    let content = Content::new(2, MIB);
    let staged = ctx.stage(&path, &content)?;
    ctx.absent(&path)?;
    let info = ctx.backend.stat_staged(&Call::unwatched(), &staged.token)?;
    ensure!(info.bytes == content.size, "stat_staged says {} of {} bytes", info.bytes, content.size);
    ctx.publish(&path, &staged.token, &content, Expect::Absent)?;
    ctx.holds(&path, &content)
}

fn publish_twice(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("twice.img")?;
    let content = Content::new(3, 100_000);
    let staged = ctx.stage(&path, &content)?;
    let first = ctx.publish(&path, &staged.token, &content, Expect::Absent)?;
    let second = ctx.publish(&path, &staged.token, &content, Expect::Absent)?;
    ensure!(first == second, "the repeat gave another entry: {first:?}, then {second:?}");
    // Another process repeats it after a crash.
    let again = (ctx.make)()
        .publish(&Call::unwatched(), &publish_request(&path, &staged.token, &content, Expect::Absent))?;
    ensure!(first == again, "the repeat by another process gave another entry: {first:?}, then {again:?}");
    ctx.holds(&path, &content)
}

fn expect_absent(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("taken.img")?;
    let (old, new) = (Content::new(4, 1000), Content::new(5, 2000));
    ctx.put(&path, &old)?;
    let staged = ctx.stage(&path, &new)?;
    let result = ctx.publish(&path, &staged.token, &new, Expect::Absent);
    refused("publish over an existing name", result, &[ErrorKind::Exists])?;
    ctx.holds(&path, &old)?;
    ctx.backend.discard(&Call::unwatched(), &staged.token)?;
    ctx.holds(&path, &old)
}

fn expect_version(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("versioned.img")?;
    let (old, new) = (Content::new(6, 1000), Content::new(7, 2000));
    let Some(version) = ctx.put(&path, &old)?.version else {
        return skip("entries have no version");
    };
    let staged = ctx.stage(&path, &new)?;
    let result = ctx.publish(&path, &staged.token, &new, Expect::Version("no such version".into()));
    // A server that cannot replace a name may say that instead.
    let kinds = match ctx.caps.replace {
        Replace::Atomic => &[ErrorKind::PreconditionFailed][..],
        Replace::None => &[ErrorKind::PreconditionFailed, ErrorKind::Exists],
    };
    refused("publish over another version", result, kinds)?;
    ctx.holds(&path, &old)?;
    let nowhere = ctx.path("nowhere.img")?;
    let other = ctx.stage(&nowhere, &new)?;
    let result = ctx.publish(&nowhere, &other.token, &new, Expect::Version(version.clone()));
    refused(
        "publish over a version of nothing",
        result,
        &[ErrorKind::PreconditionFailed, ErrorKind::NotFound],
    )?;
    ctx.absent(&nowhere)?;
    ctx.backend.discard(&Call::unwatched(), &other.token)?;
    if ctx.caps.replace == Replace::Atomic {
        let entry = ctx.publish(&path, &staged.token, &new, Expect::Version(version.clone()))?;
        ensure!(entry.version.as_ref() != Some(&version), "the replaced file kept its version {version}");
        ctx.holds(&path, &new)?;
    }
    Ok(())
}

fn replace_atomically(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if ctx.caps.replace != Replace::Atomic {
        return skip("names cannot be replaced atomically");
    }
    let path = ctx.path("replaced.img")?;
    let contents = [Content::new(8, 3000), Content::new(9, 5000)];
    ctx.put(&path, &contents[0])?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<(), Stop> {
            while !done.load(SeqCst) {
                let size = ctx.stat(&path)?.size;
                ensure!(contents.iter().any(|c| c.size == size), "a reader saw {size} bytes");
            }
            Ok(())
        });
        let writer = (|| -> Result<(), Stop> {
            for round in 1..=20 {
                let mut tries = 0;
                // A server may refuse to replace what somebody is reading; the host tries again then.
                while let Err(error) = ctx.put(&path, &contents[round % 2]) {
                    tries += 1;
                    let again = matches!(error.kind(), ErrorKind::Busy | ErrorKind::Locked) && tries < 100;
                    if !again {
                        return Err(error.into());
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            Ok(())
        })();
        done.store(true, SeqCst);
        let seen = reader.join().unwrap_or_else(|_| Err(Stop::Fail("the reader panicked".into())));
        writer.and(seen)
    })?;
    ctx.holds(&path, &contents[0])
}

fn discard_twice(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("dropped.img")?;
    let content = Content::new(10, 70_000);
    let token = ctx.stage(&path, &content)?.token;
    let call = Call::unwatched();
    ctx.backend.discard(&call, &token)?;
    ctx.backend.discard(&call, &token)?;
    refused("stat_staged after a discard", ctx.backend.stat_staged(&call, &token), GONE)?;
    let left = ctx.backend.list_staged(&call, &ctx.dir)?;
    ensure!(left.iter().all(|s| s.token != token), "list_staged still shows what was discarded");
    refused("publish after a discard", ctx.publish(&path, &token, &content, Expect::Absent), GONE)?;
    ctx.absent(&path)
}

fn short_source(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("short.img")?;
    let content = Content::new(11, MIB);
    let mut source = Trick::new(&content);
    source.ends_at = Some(MIB / 2);
    let request = ctx.request(&path, content.size)?;
    let result =
        ctx.backend.stage(&Call::unwatched(), &request, Arc::new(source), Arc::new(Record::default()));
    if let Ok(staged) = result {
        // A backend that sends a small object only at the publish has not seen the source yet.
        let mut late = publish_request(&path, &staged.token, &content, Expect::Absent);
        let mut source = Trick::new(&content);
        source.ends_at = Some(MIB / 2);
        late.source = Arc::new(source);
        let result = ctx.backend.publish(&Call::unwatched(), &late);
        ensure!(result.is_err(), "half a file was staged and published as a whole one");
    }
    ctx.absent(&path)
}

fn source_error(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("changed.img")?;
    let content = Content::new(12, 12 * MIB);
    let mut source = Trick::new(&content);
    source.fail = Some((MIB, ErrorKind::SourceChanged));
    let request = ctx.request(&path, content.size)?;
    let result =
        ctx.backend.stage(&Call::unwatched(), &request, Arc::new(source), Arc::new(Record::default()));
    refused("staging a source that changed", result, &[ErrorKind::SourceChanged])?;
    ctx.absent(&path)
}

fn read_staged(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if !ctx.caps.staged_readable {
        return skip("staged bytes cannot be read");
    }
    let content = Content::new(13, MIB + 17);
    let token = ctx.stage(&ctx.path("back.img")?, &content)?.token;
    let ranges = [(0, content.size), (0, 1), (4095, 8193), (content.size - 1, 1), (MIB - 3, 20)];
    for (offset, length) in ranges {
        let sink = Arc::new(Compare::new(content.clone(), offset));
        ctx.backend.read_staged(&Call::unwatched(), &token, crate::Range { offset, length }, sink.clone())?;
        sink.complete(length)?;
    }
    let call = Call::unwatched();
    ctx.backend.discard(&call, &token)?;
    let sink = Arc::new(Compare::new(content, 0));
    let gone = ctx.backend.read_staged(&call, &token, crate::Range { offset: 0, length: 1 }, sink);
    refused("reading what was discarded", gone, GONE)
}

fn list_staged(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let path = ctx.path("sub/found.img")?;
    // What is sent only at the publish leaves nothing that could be listed.
    let content = Content::new(14, 300_000.max(ctx.caps.small_at_publish + 1));
    let token = ctx.stage(&path, &content)?.token;
    let call = Call::unwatched();
    let other = (ctx.make)();
    for dir in [crate::TargetPath::root(), ctx.dir.clone()] {
        let found = other.list_staged(&call, &dir)?;
        let Some(info) = found.into_iter().find(|s| s.token == token) else {
            return Err(Stop::Fail(format!("list_staged of {dir:?} does not show what was staged below it")));
        };
        ensure!(info.owner == super::kit::OWNER, "the owner came back as '{}'", info.owner);
        ensure!(info.bytes == content.size, "{} bytes are listed as staged of {}", info.bytes, content.size);
        ensure!(info.age.is_none_or(|s| s < 3600), "the age came back as {:?} s", info.age);
    }
    let elsewhere = ctx.path("elsewhere")?;
    let found = other.list_staged(&call, &elsewhere);
    ensure!(
        found.map_or_else(|e| *e.kind() == ErrorKind::NotFound, |f| f.is_empty()),
        "something is staged in a directory that does not exist"
    );
    other.discard(&call, &token)?;
    let left = ctx.backend.list_staged(&call, &ctx.dir)?;
    ensure!(left.iter().all(|s| s.token != token), "list_staged still shows what another process discarded");
    Ok(())
}

fn publish_mtime(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let Some(precision) = ctx.caps.mtime_precision_ns else {
        return skip("modification times cannot be set");
    };
    let path = ctx.path("dated.img")?;
    let content = Content::new(15, 10);
    let mut request = ctx.request(&path, content.size)?;
    let mtime = Timestamp { ns: 1_500_000_000_123_456_789, precision_ns: 1 };
    request.attributes.mtime = Some(mtime);
    let session = Arc::new(Record::default());
    let staged = ctx.backend.stage(&Call::unwatched(), &request, Arc::new(content.clone()), session)?;
    let mut publish = publish_request(&path, &staged.token, &content, Expect::Absent);
    publish.attributes.mtime = Some(mtime);
    ctx.backend.publish(&Call::unwatched(), &publish)?;
    let Some(found) = ctx.stat(&path)?.mtime else {
        return Err(Stop::Fail("the entry has no modification time".into()));
    };
    let off = found.ns.abs_diff(mtime.ns);
    ensure!(off < precision.max(1), "the modification time is {off} ns off, {precision} ns were declared");
    Ok(())
}

fn parallel_files(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let one = |n: u64| -> Result<(), Stop> {
        let path = ctx.path(format!("{n}.img"))?;
        let content = Content::new(20 + n, MIB + n);
        ctx.put(&path, &content)?;
        ctx.holds(&path, &content)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || one(n))).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|_| Err(Stop::Fail("a thread panicked".into())))?;
        }
        Ok(())
    })
}
