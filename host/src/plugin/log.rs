//! Where a plugin's records go: into this process's `tracing`, with the target's name.
//!
//! Control characters are escaped and the length is bounded, so that a record stays one line and cannot play with a
//! terminal. Secrets were taken out before (`discreet`).

use offsite_plugin_api::Level;
use offsite_plugin_api::abi::host::LogSink;
use tracing::level_filters::LevelFilter;

/// The `tracing` target of plugins' records.
pub const LOG_TARGET: &str = "offsite::plugin";
/// Longer records are cut, bytes.
const LONGEST: usize = 16 * 1024;

/// The sink given to a plugin for one target.
#[derive(Debug)]
pub struct PluginLog {
    target: String,
}

impl PluginLog {
    /// `target`: the target's name, as the user gave it.
    pub fn new(target: impl Into<String>) -> Self {
        Self { target: target.into() }
    }
}

impl LogSink for PluginLog {
    fn log(&self, level: Level, module: &str, message: &str) {
        let message = clip(message);
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
    fn a_record_carries_the_targets_name_and_stays_one_line() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let log = PluginLog::new("nas");
            log.log(Level::Warn, "sftp::client", "login\nagain\x1b[2J");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN") && text.contains("target_name=\"nas\""), "{text}");
        assert!(text.contains("sftp::client") && text.contains("login\\nagain\\u{1b}[2J"), "{text}");
    }

    #[test]
    fn a_record_is_bounded() {
        let text = clip(&"é".repeat(LONGEST));
        assert!(text.len() <= LONGEST + 3 && text.ends_with('…'));
    }
}
