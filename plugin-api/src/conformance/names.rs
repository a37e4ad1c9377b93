//! Names: whatever the target does not refuse comes back byte for byte and names one file only.

use super::Case;
use super::kit::{Content, Ctx, Stop, ensure, list_all, skip};
use crate::{Call, Expect, NameRules, Normalisation};

pub(super) const CASES: &[Case] = &[
    ("awkward names come back byte for byte", awkward),
    ("names that differ in case are two files", case),
    ("a name that is refused is refused, not changed", refused_name),
];

fn allowed(rules: &NameRules, name: &[u8]) -> bool {
    let text = std::str::from_utf8(name);
    name.len() <= rules.longest_name as usize
        && (text.is_ok() || !rules.utf8_only)
        && !String::from_utf8_lossy(name).chars().any(|c| rules.refused.contains(c))
        && !String::from_utf8_lossy(name).ends_with(|c| rules.refused_endings.contains(c))
}

fn awkward(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let rules = &ctx.caps.names;
    let mut names: Vec<Vec<u8>> = [
        "Grüße aus Köln 日本語 🦀.img",
        "with  two spaces .img",
        "100%.img",
        "100%25.img",
        "a#b?c&d=e+f.img",
        ".hidden.img",
        "..two.dots..",
        "-dash.img",
        "~tilde~.img",
        "quo'te\"d.img",
        "back\\slash.img",
        "semi;colon:s.img",
        "*st[a]r{s}.img",
        "pipe|less<than>.img",
        "dollar$(id)`x`.img",
        "trailing space ",
        "tab\there.img",
    ]
    .iter()
    .map(|n| n.as_bytes().to_vec())
    .collect();
    // As long as the target takes, at most what common file systems take, with characters of two bytes.
    let longest = (rules.longest_name as usize).min(255);
    names.push("ü".repeat(longest / 2).into_bytes());
    if rules.normalisation == Normalisation::Preserved {
        names.push("nfc-é.img".as_bytes().to_vec());
        names.push("nfd-e\u{301}.img".as_bytes().to_vec());
    }
    names.push(b"latin1-\xe9\xff.img".to_vec());
    names.retain(|n| allowed(rules, n));
    for (n, name) in names.iter().enumerate() {
        let path = ctx.path(name)?;
        let content = Content::new(80 + n as u64, 100 + n as u64);
        let entry =
            ctx.put(&path, &content).map_err(|e| Stop::Fail(format!("{path:?}: {} {e}", e.kind())))?;
        ensure!(entry.path == path, "{path:?} came back from publish as {:?}", entry.path);
        ctx.holds(&path, &content)?;
    }
    let mut found: Vec<_> = list_all(&*ctx.backend, &ctx.dir, false)?.into_iter().map(|e| e.path).collect();
    found.sort();
    let mut expected = names.iter().map(|n| ctx.path(n)).collect::<crate::Result<Vec<_>>>()?;
    expected.sort();
    ensure!(found == expected, "listed are {found:?}, published were {expected:?}");
    for path in &expected {
        ctx.backend.delete(&Call::unwatched(), path, &Expect::Any)?;
        ctx.absent(path)?;
    }
    // Directories as well.
    let path = ctx.path("dir %20 ü#/inner ?.img")?;
    if path.components().all(|c| allowed(rules, c)) {
        let content = Content::new(99, 10);
        ctx.put(&path, &content)?;
        ctx.holds(&path, &content)?;
        let found = list_all(&*ctx.backend, &ctx.dir, true)?;
        ensure!(found.iter().any(|e| e.path == path), "{path:?} is not in the recursive listing");
    }
    Ok(())
}

fn case(ctx: &Ctx<'_>) -> Result<(), Stop> {
    if !ctx.caps.names.case_sensitive {
        return skip("the target ignores case");
    }
    let (upper, lower) = (ctx.path("IMAGE.img")?, ctx.path("image.img")?);
    let (one, two) = (Content::new(100, 10), Content::new(101, 20));
    ctx.put(&upper, &one)?;
    ctx.put(&lower, &two)?;
    ctx.holds(&upper, &one)?;
    ctx.holds(&lower, &two)
}

fn refused_name(ctx: &Ctx<'_>) -> Result<(), Stop> {
    let longest = ctx.caps.names.longest_name as usize;
    if longest >= 4096 {
        return skip("names may be longer than any file system takes");
    }
    let path = ctx.path("x".repeat(longest + 1))?;
    let content = Content::new(102, 10);
    // The staging name is short: only the publish can tell. Either may.
    if let Ok(staged) = ctx.stage(&path, &content) {
        let result = ctx.publish(&path, &staged.token, &content, Expect::Absent);
        ensure!(result.is_err(), "a name of {} bytes was taken, {longest} were declared", longest + 1);
        ctx.backend.discard(&Call::unwatched(), &staged.token)?;
    }
    let found = list_all(&*ctx.backend, &ctx.dir, false).unwrap_or_default();
    ensure!(found.is_empty(), "a name that is too long was changed to {found:?}");
    Ok(())
}
