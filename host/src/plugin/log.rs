//! Where a plugin's records go: into this process's `tracing`, with the target's name, secrets taken out.
//!
//! A plugin is somebody else's code: it may log a URL with a password or a header with a token. Every record passes a
//! [`Redactor`] that knows the target's secrets, as they are and percent-encoded. Control characters are escaped, so
//! that a record stays one line and cannot play with a terminal.

use std::borrow::Cow;

use offsite_plugin_api::abi::host::LogSink;
use offsite_plugin_api::{Level, Secrets};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::level_filters::LevelFilter;
use zeroize::Zeroizing;

/// The `tracing` target of plugins' records.
pub const LOG_TARGET: &str = "offsite::plugin";
/// Longer records are cut, bytes.
const LONGEST: usize = 16 * 1024;

/// Takes a target's secrets out of text.
#[derive(Clone, Default)]
pub struct Redactor(Vec<Zeroizing<String>>);

impl Redactor {
    pub fn new(secrets: &Secrets) -> Self {
        let mut values: Vec<Zeroizing<String>> = Vec::new();
        for (_, value) in &secrets.0 {
            // A private key is several lines; a library that prints it may print them one by one.
            let lines = value.lines().map(str::trim).filter(|l| l.len() >= 16);
            for text in std::iter::once(value.trim()).chain(lines).filter(|t| !t.is_empty()) {
                values.push(Zeroizing::new(text.to_owned()));
                values.push(Zeroizing::new(utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()));
            }
        }
        // The longest first, or the rest of one that contains another would stay.
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.as_str().cmp(b.as_str())));
        values.dedup_by(|a, b| a.as_str() == b.as_str());
        Self(values)
    }

    /// The text with `***` for each secret.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for value in self.0.iter().filter(|v| !v.is_empty()) {
            if text.contains(value.as_str()) {
                text = Cow::Owned(text.replace(value.as_str(), "***"));
            }
        }
        text
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} texts)", self.0.len())
    }
}

/// The sink given to a plugin for one target.
#[derive(Debug)]
pub struct PluginLog {
    target: String,
    redactor: Redactor,
}

impl PluginLog {
    /// `target`: the target's name, as the user gave it.
    pub fn new(target: impl Into<String>, secrets: &Secrets) -> Self {
        Self { target: target.into(), redactor: Redactor::new(secrets) }
    }
}

impl LogSink for PluginLog {
    fn log(&self, level: Level, module: &str, message: &str) {
        let message = clip(&self.redactor.clean(message));
        let module = clip(module);
        let target = self.target.as_str();
        // The macros take a constant level only.
        macro_rules! record {
            ($level:ident) => {
                tracing::$level!(target: LOG_TARGET, target_name = target, module = module.as_str(), "{message}")
            };
        }
        match level {
            Level::Error => record!(error),
            Level::Warn => record!(warn),
            Level::Info => record!(info),
            Level::Debug => record!(debug),
            Level::Trace => record!(trace),
        }
    }

    fn most_verbose(&self) -> Level {
        match LevelFilter::current().into_level() {
            None | Some(tracing::Level::ERROR) => Level::Error,
            Some(tracing::Level::WARN) => Level::Warn,
            Some(tracing::Level::INFO) => Level::Info,
            Some(tracing::Level::DEBUG) => Level::Debug,
            Some(tracing::Level::TRACE) => Level::Trace,
        }
    }
}

/// One line of bounded length.
fn clip(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut line = String::with_capacity(end);
    for c in text[..end].chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    if end < text.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        Secrets(values.iter().map(|v| ("s".to_owned(), Zeroizing::new((*v).to_owned()))).collect())
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_carries_the_targets_name_and_no_secret() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let log = PluginLog::new("nas", &secrets(&["p@ss w"]));
            log.log(Level::Warn, "sftp::client", "login sftp://me:p%40ss%20w@h\nwith p@ss w\x1b[2J");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN") && text.contains("target_name=\"nas\""), "{text}");
        assert!(
            text.contains("sftp::client") && text.contains("login sftp://me:***@h\\nwith ***\\u{1b}[2J"),
            "{text}"
        );
    }

    #[test]
    fn a_secret_within_another_and_each_line_of_a_key_are_taken_out() {
        let key = "-----BEGIN-----\nMIIEvQIBADANBgkqhkiG9w0\n";
        let redactor = Redactor::new(&secrets(&["abc", "abcdef", key, ""]));
        assert_eq!(redactor.clean("x abcdef abc MIIEvQIBADANBgkqhkiG9w0 y"), "x *** *** *** y");
        assert!(!format!("{redactor:?}").contains("abc"));
    }

    #[test]
    fn a_record_is_bounded() {
        let text = clip(&"é".repeat(LONGEST));
        assert!(text.len() <= LONGEST + 3 && text.ends_with('…'));
    }
}
