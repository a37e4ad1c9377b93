//! A server's reply: its code, and its words made harmless.

use suppaftp::types::Response;

/// How much of a server's own words is shown.
const SHOWN: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// All lines, as they came.
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn new(response: &Response) -> Self {
        let digits = response.body.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        // Of a multi-line reply the last line decides, which is what the library's status is made of.
        let last = response.body.trim_ascii_end().rsplit(|b| *b == b'\n').next().unwrap_or_default();
        let of_last = last.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
        let code = of_last.or_else(|| digits.and_then(|d| d.parse().ok()));
        Self { code: code.unwrap_or(0), bytes: response.body.clone() }
    }

    pub fn good(&self) -> bool {
        self.code / 100 == 2
    }

    /// What follows the code in a line of one reply, or the lines between the first and the last.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(4..).unwrap_or_default().trim_ascii()
    }

    /// For people: one line, no control characters.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
        last.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
    }

    /// Whether the words hold one of these, in lower case.
    pub fn says(&self, any: &[&str]) -> bool {
        let text = String::from_utf8_lossy(&self.bytes).to_lowercase();
        any.iter().any(|word| text.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use suppaftp::Status;

    fn reply(text: &str) -> Reply {
        Reply::new(&Response { status: Status::Unknown, body: text.as_bytes().to_vec() })
    }

    #[test]
    fn the_last_line_decides() {
        let one = reply("213 1234\r\n");
        assert_eq!((one.code, one.rest(), one.good()), (213, &b"1234"[..], true));
        assert_eq!(reply("250-Start\r\n type=file; x\r\n250 End\r\n").code, 250);
        assert_eq!(reply("226-first\r\n550 last\r\n").code, 550);
        assert_eq!(reply("").code, 0);
        assert_eq!(reply("550 no\x1b[31m\r\n").words(), "550 no[31m");
        assert!(reply("552 Disk FULL").says(&["disk full"]));
    }
}
