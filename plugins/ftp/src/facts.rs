//! What servers say of files: the facts of MLST and MLSD (RFC 3659), and the listings of those that do not know them.
//!
//! All of it is untrusted text of no fixed form. A line that is understood in no way is none.

use offsite_plugin_api::EntryKind;

use super::names::text;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: EntryKind,
    /// Bytes; of a directory without meaning.
    pub size: Option<u64>,
    /// Seconds since 1970, UTC.
    pub modified: Option<i64>,
    /// Names the file itself, whatever it is called.
    pub unique: Option<String>,
}

impl Facts {
    pub fn of(kind: EntryKind) -> Self {
        Self { kind, size: None, modified: None, unique: None }
    }

    /// Changes with the file. `None` for what is no file.
    pub fn version(&self) -> Option<String> {
        let number = |n: Option<i64>| n.map_or_else(String::new, |n| format!("{n:x}"));
        let size = self.size.map_or_else(String::new, |n| format!("{n:x}"));
        let unique = self.unique.as_deref().unwrap_or_default();
        (self.kind == EntryKind::File).then(|| format!("{size}-{}-{unique}", number(self.modified)))
    }
}

/// `type=file;size=5;modify=20261123140000; name`: the facts, and the name as it came. `None`: no such line, or one of the
/// directory itself or its parent.
pub fn mlsx(line: &[u8]) -> Option<(Facts, &[u8])> {
    let space = line.iter().position(|b| *b == b' ')?;
    let (facts, name) = (text(&line[..space]), &line[space + 1..]);
    let mut found = Facts::of(EntryKind::Other);
    for fact in facts.split(';').filter(|fact| !fact.is_empty()) {
        let (key, value) = fact.split_once('=')?;
        match key.to_ascii_lowercase().as_str() {
            "type" => match value.to_ascii_lowercase().as_str() {
                "file" => found.kind = EntryKind::File,
                "dir" => found.kind = EntryKind::Dir,
                "cdir" if name.is_empty() || name == b"." => return None,
                "pdir" => return None,
                // MLST of a directory says so as well.
                "cdir" => found.kind = EntryKind::Dir,
                _ => {}
            },
            "size" => found.size = value.parse().ok(),
            "modify" => found.modified = time(value),
            "unique" => {
                found.unique = Some(value.chars().filter(|c| c.is_ascii_graphic()).take(64).collect())
            }
            _ => {}
        }
    }
    Some((found, name))
}

/// A line of LIST, in the manner of `ls -l` or of DOS. The time in it is of no use: it has no zone, and no seconds.
pub fn listed(line: &[u8]) -> Option<(Facts, &[u8])> {
    unix(line).or_else(|| dos(line))
}

fn fields(line: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at + line[at..].iter().position(|b| *b != b' ')?;
        let end = line[begin..].iter().position(|b| *b == b' ').map_or(line.len(), |n| begin + n);
        at = end;
        Some((end, &line[begin..end]))
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn is_month(field: &[u8]) -> bool {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    std::str::from_utf8(field).is_ok_and(|f| MONTHS.contains(&f.to_ascii_lowercase().as_str()))
}

/// `-rw-r--r--    1 ftp      ftp           256 Nov 23 14:00 name`; owner and group may be missing, or hold spaces.
fn unix(line: &[u8]) -> Option<(Facts, &[u8])> {
    let kind = match line.first()? {
        b'-' => EntryKind::File,
        b'd' => EntryKind::Dir,
        b'l' | b'b' | b'c' | b'p' | b's' => EntryKind::Other,
        _ => return None,
    };
    let all: Vec<(usize, &[u8])> = fields(line).take(16).collect();
    if all.first()?.1.len() < 10 {
        return None;
    }
    // Size, month, day, time or year: the first such row is it.
    let at = (2..all.len().saturating_sub(3)).find(|at| {
        number(all[*at].1).is_some()
            && is_month(all[at + 1].1)
            && number(all[at + 2].1).is_some_and(|day| (1..=31).contains(&day))
    })?;
    let end = all[at + 3].0;
    // One space, then the name, which may begin with more of them.
    let name = line.get(end + 1..)?;
    let name = match kind {
        EntryKind::Other => name.windows(4).position(|w| w == b" -> ").map_or(name, |to| &name[..to]),
        _ => name,
    };
    let size = number(all[at].1).filter(|_| kind == EntryKind::File);
    (!name.is_empty()).then_some((Facts { size, ..Facts::of(kind) }, name))
}

/// `11-23-26  02:00PM       <DIR>          name`
fn dos(line: &[u8]) -> Option<(Facts, &[u8])> {
    let all: Vec<(usize, &[u8])> = fields(line).take(4).collect();
    let [(_, date), (_, hour), (end, what), _] = all[..] else { return None };
    if date.iter().filter(|b| **b == b'-').count() != 2 || !hour.contains(&b':') || !date[0].is_ascii_digit()
    {
        return None;
    }
    let (kind, size) = match (what, number(what)) {
        (b"<DIR>", _) => (EntryKind::Dir, None),
        (_, Some(size)) => (EntryKind::File, Some(size)),
        (what, None) if what.starts_with(b"<") => (EntryKind::Other, None),
        _ => return None,
    };
    // A directory's name is set off by more spaces than one, a file's by one.
    let name = match kind {
        EntryKind::File => line.get(end + 1..)?,
        _ => line.get(end..)?.trim_ascii_start(),
    };
    (!name.is_empty()).then_some((Facts { size, ..Facts::of(kind) }, name))
}

/// `YYYYMMDDHHMMSS[.fff]`, UTC, to seconds since 1970.
pub fn time(text: &str) -> Option<i64> {
    let digits = text.split('.').next()?.trim();
    if digits.len() != 14 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits[from..to].parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Seconds since 1970 as `YYYYMMDDHHMMSS`, UTC. `None` beyond the years 0 to 9999.
pub fn stamp(seconds: i64) -> Option<String> {
    let (day, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant, "chrono-compatible low-level date algorithms": civil_from_days.
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + i64::from(m <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    (0..=9999).contains(&y).then(|| format!("{y:04}{m:02}{d:02}{hour:02}{minute:02}{second:02}"))
}

/// The same source: days_from_civil.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_whatever_their_order() {
        let (facts, name) =
            mlsx(b"Type=file;Size=12;Modify=20261123140000.123;Unique=fd01g2; a b;c").unwrap();
        assert_eq!((facts.kind, facts.size, name), (EntryKind::File, Some(12), &b"a b;c"[..]));
        assert_eq!(facts.modified, Some(1_795_442_400));
        assert_eq!(facts.unique.as_deref(), Some("fd01g2"));
        assert_eq!(mlsx(b"type=dir; x").unwrap().0.kind, EntryKind::Dir);
        assert_eq!(mlsx(b"type=OS.unix=slink:/etc; x").unwrap().0.kind, EntryKind::Other);
        for none in [&b"type=cdir; ."[..], b"type=pdir; ..", b"", b"no facts here at all", b"garbage"] {
            assert!(mlsx(none).is_none(), "{}", text(none));
        }
    }

    #[test]
    fn listings_of_the_common_kinds_are_read() {
        let file = |line: &str| {
            let (facts, name) = listed(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            (facts.kind, facts.size, text(name))
        };
        let f = EntryKind::File;
        assert_eq!(
            file("-rw-------    1 1000     1000          512 Nov 23 14:00 a  b "),
            (f, Some(512), "a  b ".into())
        );
        assert_eq!(file("-rw-r--r-- 1 ftp ftp 9 Jan  1  2025  lead"), (f, Some(9), " lead".into()));
        assert_eq!(file("-rw-r--r-- 1 domain users group 9 Jan 31 2025 x"), (f, Some(9), "x".into()));
        assert_eq!(file("-rw-r--r-- 1 9 Feb 3 10:00 x"), (f, Some(9), "x".into()));
        assert_eq!(file("drwxr-xr-x    2 0 0 4096 Mar 03 10:00 dir"), (EntryKind::Dir, None, "dir".into()));
        assert_eq!(file("lrwxrwxrwx 1 0 0 7 Mar 03 10:00 a -> b"), (EntryKind::Other, None, "a".into()));
        assert_eq!(
            file("11-23-26  02:00PM       <DIR>          some dir"),
            (EntryKind::Dir, None, "some dir".into())
        );
        assert_eq!(
            file("11-23-2026  14:00               12345 file.img"),
            (f, Some(12345), "file.img".into())
        );
        for none in ["total 12", "", "-rw", "-rw-r--r-- 1 0 0 x Mar 3 10:00 y", "hello world", "226 done"] {
            assert!(listed(none.as_bytes()).is_none(), "{none}");
        }
    }

    #[test]
    fn times_survive_the_way_there_and_back() {
        for seconds in [0, 951_782_400, 1_795_442_400, 4_102_444_799, -1] {
            assert_eq!(time(&stamp(seconds).unwrap()), Some(seconds));
        }
        assert_eq!(stamp(1_795_442_400).unwrap(), "20261123140000");
        assert!(
            time("20261323140000").is_none() && time("2026").is_none() && time("2026112314000é").is_none()
        );
    }
}
