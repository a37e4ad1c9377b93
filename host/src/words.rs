//! Numbers in sentences, for every layer that writes one.

/// `1 image`, `2 images`; `1 directory`, `2 directories`.
pub fn count(number: u64, what: &str) -> String {
    if number == 1 {
        return format!("1 {what}");
    }
    match what.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u'])) {
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {what}s"),
    }
}

/// What a sentence says of one thing, or of none or several: `1 image is`, `2 images are`.
pub fn word<'a>(number: u64, one: &'a str, several: &'a str) -> &'a str {
    if number == 1 { one } else { several }
}

/// A text of at most so many characters, cut between words. What is left out is left out of its middle: a sentence begins
/// with what happened, and ends with what to do about it.
pub fn shorten(text: &str, most: usize) -> String {
    const GAP: &str = " … ";
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(GAP.chars().count());
    let (head, tail) = (room - room * 2 / 5, chars.len() - room * 2 / 5);
    // A word longer than a quarter of its part is cut all the same.
    let blank = |at: &usize| chars[*at].is_whitespace();
    let head = (head - head / 4..=head).rev().find(blank).unwrap_or(head);
    let tail =
        (tail.saturating_sub(1)..tail + (chars.len() - tail) / 4).find(blank).map_or(tail, |at| at + 1);
    let text = chars[..head].iter().collect::<String>() + GAP + &chars[tail..].iter().collect::<String>();
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_several_are_several() {
        for (number, what, text) in [
            (0, "image", "0 images"),
            (1, "other file", "1 other file"),
            (2, "directory", "2 directories"),
            (1, "retry", "1 retry"),
            (3, "day", "3 days"),
        ] {
            assert_eq!(count(number, what), text);
        }
        assert_eq!((word(1, "is", "are"), word(0, "is", "are")), ("is", "are"));
    }

    #[test]
    fn a_long_sentence_loses_its_middle_and_no_half_words() {
        assert_eq!(shorten("as short as it may be", 21), "as short as it may be");
        let long = format!(
            "3 images failed, '{}' for one: look at the disk",
            "in a folder of many words/".repeat(40)
        );
        let short = shorten(&long, 120);
        assert!(short.chars().count() <= 120, "{short}");
        assert!(
            short.starts_with("3 images failed, 'in a") && short.ends_with("for one: look at the disk"),
            "{short}"
        );
        let (head, tail) = short.split_once(" … ").unwrap();
        assert!(long.contains(&format!("{head} ")) && long.contains(&format!(" {tail}")), "{short}");
        // One endless word is cut where it must be; little room is little text.
        for most in [0, 1, 2, 3, 5, 100] {
            for text in ["é".repeat(5000), "a b ".repeat(500)] {
                assert!(shorten(&text, most).chars().count() <= most, "{most}");
            }
        }
    }

    /// "1 images": every number before a noun is said by [`count`] or beside a [`word`].
    #[test]
    fn no_sentence_counts_one_in_the_plural() {
        const NOUNS: [&str; 20] = [
            "attempts",
            "directories",
            "deletions",
            "entries",
            "errors",
            "events",
            "files",
            "folders",
            "images",
            "jobs",
            "libraries",
            "lines",
            "links",
            "manifests",
            "ranges",
            "retries",
            "runs",
            "sets",
            "targets",
            "uploads",
        ];
        let plural = |text: &str| {
            text.match_indices("} ").any(|(at, _)| {
                // A constant is no amount that comes out as one.
                let name = text[..at].rsplit('{').next().unwrap_or_default();
                let constant = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                // What is said above one only.
                let guarded = text[at..].starts_with("} ranges of a file at once");
                let next = text[at + 2..].split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
                !constant && !guarded && NOUNS.contains(&next)
            }) || ["(s)", "(es)"].iter().any(|s| text.contains(s))
        };
        let mut dirs = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut found = Vec::new();
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with("model") && !path.ends_with("tests") {
                    dirs.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    // What stands in strings, without what a module tests itself with.
                    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                    let strings = code.split('"').skip(1).step_by(2);
                    found.extend(strings.filter(|s| plural(s)).map(|s| format!("{}: {s}", path.display())));
                }
            }
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
