//! Takes a target's secrets out of text.
//!
//! A plugin is somebody else's code, and the libraries beneath it are again: either may put a password into an error,
//! a URL into a log record, a header into a report. What is known to be secret is replaced, as it is,
//! percent-encoded (URLs), escaped (JSON, `Debug`) and in Base64 (HTTP Basic, which encodes it behind a user name: all
//! three alignments are known).

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use offsite_plugin_api::{CheckReport, Error, Secrets};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// Shared by everything that passes on a plugin's words; learns secrets that are handed out later.
#[derive(Default)]
pub struct Redactor(RwLock<Vec<Zeroizing<String>>>);

impl Redactor {
    pub fn new(secrets: &Secrets) -> Self {
        let redactor = Self::default();
        for (_, value) in &secrets.0 {
            redactor.learn(value);
        }
        redactor
    }

    /// Takes this secret out from now on.
    pub fn learn(&self, secret: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // A private key has several lines; a library that prints it may print them one by one.
        let lines = secret.lines().map(str::trim).filter(|l| l.len() >= 16);
        for text in std::iter::once(secret.trim()).chain(lines).filter(|t| !t.is_empty()) {
            known.push(Zeroizing::new(text.to_owned()));
            known.push(Zeroizing::new(utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()));
            known.push(Zeroizing::new(text.escape_debug().to_string()));
            known.extend(base64_forms(text.as_bytes()));
        }
        // The longest first, or the rest of one that contains another would stay.
        known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.as_str().cmp(b.as_str())));
        known.dedup_by(|a, b| a.as_str() == b.as_str());
    }

    /// The text with `***` for each secret.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for value in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if text.contains(value.as_str()) {
                text = Cow::Owned(text.replace(value.as_str(), "***"));
            }
        }
        text
    }

    pub fn error(&self, error: Error) -> Error {
        let mut clean =
            Error::new(error.kind().clone(), self.clean(error.message())).with_retry(error.retry());
        for (key, value) in error.context() {
            clean = clean.with_context(key, self.clean(value));
        }
        match error.source_text() {
            Some(source) => clean.with_source(self.clean(source)),
            None => clean,
        }
    }

    pub fn report(&self, mut report: CheckReport) -> CheckReport {
        report.server = report.server.map(|s| self.clean(&s).into_owned());
        for step in &mut report.steps {
            step.detail = self.clean(&step.detail).into_owned();
        }
        report
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor(***)")
    }
}

/// What stands in a Base64 text for sure when these bytes are within what was encoded, for the three places at which
/// they can begin. Too few bytes give nothing worth looking for.
fn base64_forms(bytes: &[u8]) -> Vec<Zeroizing<String>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let form = |before: usize| {
        // Six bits a letter; letters that bits of a neighbour share are left out.
        let skip = (before * 8).div_ceil(6) * 6 - before * 8;
        let letters = (bytes.len() * 8).saturating_sub(skip) / 6;
        let mut text = Zeroizing::new(String::with_capacity(letters));
        for letter in 0..letters {
            let value = (0..6).fold(0, |value, i| {
                let bit = skip + letter * 6 + i;
                value << 1 | usize::from(bytes[bit / 8] >> (7 - bit % 8) & 1)
            });
            text.push(char::from(ALPHABET[value]));
        }
        text
    };
    (0..3).map(form).filter(|text| text.len() >= 6).collect()
}

#[cfg(test)]
mod tests {
    use offsite_plugin_api::ErrorKind;

    use super::*;

    fn knowing(values: &[&str]) -> Redactor {
        Redactor::new(&Secrets(
            values.iter().map(|v| ("s".to_owned(), Zeroizing::new((*v).to_owned()))).collect(),
        ))
    }

    #[test]
    fn a_secret_is_taken_out_in_every_form_a_library_prints() {
        let redactor = knowing(&["p@ss \"w"]);
        for (text, clean) in [
            ("with p@ss \"w.", "with ***."),
            ("sftp://me:p%40ss%20%22w@h/", "sftp://me:***@h/"),
            ("Some(\"p@ss \\\"w\")", "Some(\"***\")"),
            ("harmless", "harmless"),
        ] {
            assert_eq!(redactor.clean(text), clean);
        }
    }

    #[test]
    fn a_secret_behind_a_user_name_in_base64_is_taken_out() {
        let redactor = knowing(&["hunter2!"]);
        // base64 of "hunter2!", "a:hunter2!", "me:hunter2!", "abc:hunter2!".
        for text in ["aHVudGVyMiE=", "YTpodW50ZXIyIQ==", "bWU6aHVudGVyMiE=", "YWJjOmh1bnRlcjIh"] {
            let clean = redactor.clean(text).into_owned();
            assert!(clean.contains("***") && clean.len() < text.len(), "{text} became {clean}");
        }
    }

    #[test]
    fn a_secret_within_another_each_line_of_a_key_and_later_secrets_are_taken_out() {
        let key = "-----BEGIN-----\nMIIEvQIBADANBgkqhkiG9w0\n";
        let redactor = knowing(&["abc", "abcdef", key, ""]);
        assert_eq!(redactor.clean("x abcdef abc MIIEvQIBADANBgkqhkiG9w0 y later"), "x *** *** *** y later");
        redactor.learn("later");
        assert_eq!(redactor.clean("later"), "***");
        assert!(!format!("{redactor:?}").contains("abc"));
    }

    #[test]
    fn an_error_keeps_everything_else() {
        let error = Error::new(ErrorKind::Throttled, "login s3cret failed")
            .with_retry(offsite_plugin_api::Retry::After(std::time::Duration::from_secs(7)))
            .with_context("host", "nas")
            .with_context("url", "sftp://s3cret@nas")
            .with_source("s3cret?");
        let clean = knowing(&["s3cret"]).error(error.clone());
        assert_eq!((clean.kind(), clean.retry()), (error.kind(), error.retry()));
        assert_eq!(clean.to_string(), "login *** failed, host: nas, url: sftp://***@nas: ***?");
    }
}
