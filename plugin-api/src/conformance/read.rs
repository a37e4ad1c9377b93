//! Listing, stat, get, digests.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Case;
use super::kit::{Compare, Content, Ctx, MIB, Stop, ensure, list_all, refused, skip};
use crate::{Call, Digest, EntryKind, Error, ErrorKind, Object, Range, Result, Sink, Source};

pub(super) const CASES: &[Case] = &[
    ("list and stat agree", list_and_stat),
    ("a recursive listing shows everything below", list_recursive),
    ("a listing of many files is whole", list_many),
    ("what is missing is NotFound", missing),
    ("a range is read exactly", get_range),
    ("get, a version expected, refuses another one", get_version),
    ("the sink's own error ends a get", sink_error),
    ("digests are right", digests),
];

fn list_and_stat(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let names = ["a.img", "b.img", "sub/c.img"];
    for (n, name) in names.iter().enumerate() {
        ctx.put(&ctx.path(name)?, &Content::new(40 + n as u64, 100 * (n as u64 + 1)))?;
    }
    let listed = list_all(&*ctx.backend, &ctx.dir, false)?;
    let by_name: BTreeMap<_, _> = listed.iter().map(|e| (e.path.name().to_vec(), e)).collect();
    ensure!(by_name.len() == listed.len(), "an entry is listed twice: {listed:?}");
    let found: Vec<_> = by_name.keys().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
    ensure!(found == ["a.img", "b.img", "sub"], "listed are {found:?}");
    for entry in &listed {
        ensure!(entry.path.parent().as_ref() == Some(&ctx.dir), "listed as {:?}", entry.path);
        let stat = ctx.stat(&entry.path)?;
        ensure!(
            stat.kind == entry.kind,
            "{:?}: listed as {:?}, stat says {:?}",
            entry.path,
            entry.kind,
            stat.kind
        );
        if entry.kind == EntryKind::File {
            ensure!(
                stat.size == entry.size,
                "{:?}: listed with {}, stat says {}",
                entry.path,
                entry.size,
                stat.size
            );
            ensure!(stat.version == entry.version, "{:?}: list and stat give different versions", entry.path);
        }
    }
    ensure!(by_name[&b"sub".to_vec()].kind == EntryKind::Dir, "a directory is listed as something else");
    Ok(())
}

fn list_recursive(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let names = ["1.img", "x/2.img", "x/y/3.img", "x/y/z/4.img"];
    for name in names {
        ctx.put(&ctx.path(name)?, &Content::new(50, 10))?;
    }
    let mut files: Vec<_> = list_all(&*ctx.backend, &ctx.dir, true)?;
    files.retain(|e| e.kind == EntryKind::File);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let expected = names.iter().map(|n| ctx.path(n)).collect::<Result<Vec<_>>>()?;
    let found: Vec<_> = files.into_iter().map(|e| e.path).collect();
    ensure!(found == expected, "found {found:?}");
    Ok(())
}

fn list_many(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    const MANY: usize = 120;
    for n in 0..MANY {
        ctx.put(&ctx.path(format!("{n:04}.img"))?, &Content::new(n as u64, 8))?;
    }
    for recursive in [false, true] {
        let mut found: Vec<_> =
            list_all(&*ctx.backend, &ctx.dir, recursive)?.into_iter().map(|e| e.path).collect();
        found.sort();
        found.dedup();
        ensure!(found.len() == MANY, "{} of {MANY} files are listed (recursive: {recursive})", found.len());
    }
    Ok(())
}

fn missing(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let (path, call) = (ctx.path("missing.img")?, Call::unwatched());
    let only = &[ErrorKind::NotFound];
    refused("stat", ctx.stat(&path), only)?;
    refused("list", ctx.backend.list(&call, &ctx.path("missing")?, false, None), only)?;
    refused("recursive list", ctx.backend.list(&call, &ctx.path("missing")?, true, None), only)?;
    let sink = Arc::new(Compare::new(Content::new(0, 0), 0));
    refused("get", ctx.backend.get(&call, &path, None, None, sink), only)?;
    refused("delete", ctx.backend.delete(&call, &path, &crate::Expect::Any), only)
}

fn get_range(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let path = ctx.path("ranges.img")?;
    let content = Content::new(60, MIB + 5);
    ctx.put(&path, &content)?;
    for (offset, length) in [(0, 1), (1, 65_536), (4096, 4096), (content.size - 1, 1), (0, content.size)] {
        let sink = Arc::new(Compare::new(content.clone(), offset));
        ctx.backend.get(&Call::unwatched(), &path, Some(Range { offset, length }), None, sink.clone())?;
        sink.complete(length)?;
    }
    Ok(())
}

fn get_version(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let path = ctx.path("version.img")?;
    let content = Content::new(61, 5000);
    let Some(version) = ctx.put(&path, &content)?.version else {
        return skip("entries have no version");
    };
    let sink = Arc::new(Compare::new(content.clone(), 0));
    ctx.backend.get(&Call::unwatched(), &path, None, Some(&version), sink.clone())?;
    sink.complete(content.size)?;
    let sink = Arc::new(Compare::new(content, 0));
    let result = ctx.backend.get(&Call::unwatched(), &path, None, Some("no such version"), sink.clone());
    refused("get of another version", result, &[ErrorKind::PreconditionFailed])?;
    sink.complete(0)
}

fn sink_error(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    struct Full;
    impl Sink for Full {
        fn write(&self, _: &[u8]) -> Result<()> {
            Err(Error::new(ErrorKind::Corrupt, "the sink has seen enough"))
        }
    }
    let path = ctx.path("sink.img")?;
    ctx.put(&path, &Content::new(62, MIB))?;
    let result = ctx.backend.get(&Call::unwatched(), &path, None, None, Arc::new(Full));
    refused("get into a sink that refuses", result, &[ErrorKind::Corrupt])
}

/// Digests of `123456789`, the input of the CRC catalogues.
const KNOWN: &[(&str, &str)] = &[
    ("crc32", "cbf43926"),
    ("crc32c", "e3069283"),
    ("crc64nvme", "ae8b14860a799888"),
    ("md5", "25f9e794323b453885f5181f1b624d0b"),
    ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
    ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ("blake3", "b7d65b48420d1033cb2595293263b6f72eabee20d55e699d0df1973b3c9deed1"),
];

struct Text;

impl Source for Text {
    fn size(&self) -> u64 {
        9
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = b"123456789".get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

fn digests(ctx: &Ctx<'_>) -> std::result::Result<(), Stop> {
    let call = Call::unwatched();
    let path = ctx.path("digits.txt")?;
    let request = ctx.request(&path, 9)?;
    let staged =
        ctx.backend.stage(&call, &request, Arc::new(Text), Arc::new(super::kit::Record::default()))?;
    let mut publish =
        super::kit::publish_request(&path, &staged.token, &Content::new(0, 9), crate::Expect::Absent);
    publish.source = Arc::new(Text);
    let whole = |object: &Object, algorithm: &str| ctx.backend.digest(&call, object, algorithm, None);
    if !ctx.caps.digests.is_empty() && ctx.caps.staged_readable {
        for algorithm in &ctx.caps.digests {
            is_right(&whole(&Object::Staged(staged.token.clone()), algorithm)?, algorithm)?;
        }
    }
    let entry = ctx.backend.publish(&call, &publish)?;
    let object = Object::Path(path.clone());
    refused("an unknown digest", whole(&object, "no-such-digest"), &[ErrorKind::Unsupported])?;
    for given in staged.digests.iter().chain(&entry.digests) {
        is_right(given, &given.algorithm)?;
    }
    for algorithm in &ctx.caps.digests {
        let of_whole = whole(&object, algorithm)?;
        is_right(&of_whole, algorithm)?;
        match ctx.backend.digest(&call, &object, algorithm, Some(Range { offset: 1, length: 3 })) {
            Ok(part) => {
                ensure!(part.value != of_whole.value, "the {algorithm} of a range is that of the file")
            }
            Err(error) => {
                ensure!(*error.kind() == ErrorKind::Unsupported, "the {algorithm} of a range: {error}")
            }
        }
    }
    if ctx.caps.digests.is_empty() { skip("the server computes no digests") } else { Ok(()) }
}

fn is_right(digest: &Digest, algorithm: &str) -> std::result::Result<(), Stop> {
    ensure!(digest.algorithm == algorithm, "asked for {algorithm}, got {}", digest.algorithm);
    ensure!(!digest.value.is_empty(), "the {algorithm} is empty");
    let text: String = digest.value.iter().map(|b| format!("{b:02x}")).collect();
    if let Some((_, known)) = KNOWN.iter().find(|(name, _)| *name == algorithm) {
        ensure!(text == *known, "the {algorithm} of 123456789 is {known}, got {text}");
    }
    Ok(())
}
