//! The worker's way out: one JSON line each to the supervisor's descriptor.
//!
//! The descriptor is opened anew through `/proc/self/fd`, which needs no unsafe code; whatever a plugin prints goes to
//! standard output and error and can never be taken for one of these lines.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use offsite_plugin_api::Secrets;

use super::protocol::{Answer, Ask, Line, SecretValues};
use super::stop::Stop;
use crate::error::{Error, Kind, Result};
use crate::plugin::log::Redactor;
use crate::report::Event;

/// Writes lines; safe to share.
pub struct Outbox {
    to: Mutex<Box<dyn Write + Send>>,
    /// Set when the supervisor does not read any more.
    stop: Arc<Stop>,
    /// Takes secrets out of whatever a plugin put into an error or a note.
    hidden: OnceLock<Redactor>,
}

impl Outbox {
    /// `descriptor`: the write end of a pipe. Errors: `Usage` when there is none.
    pub fn open(descriptor: u32, stop: Arc<Stop>) -> Result<Self> {
        let path = format!("/proc/self/fd/{descriptor}");
        let file = File::options().write(true).open(&path).map_err(|e| {
            Error::new(Kind::Usage, "cannot write events").on(path).because(e).hint(
                "`offsite worker` is started by `offsite` itself, with the write end of a pipe as --events-fd",
            )
        })?;
        Ok(Self::to(file, stop))
    }

    pub fn to(writer: impl Write + Send + 'static, stop: Arc<Stop>) -> Self {
        Self { to: Mutex::new(Box::new(writer)), stop, hidden: OnceLock::new() }
    }

    /// From now on these values appear as `***`.
    pub fn hide(&self, secrets: &SecretValues) {
        if !secrets.0.is_empty() {
            let all = secrets.0.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
            let _ = self.hidden.set(Redactor::new(&Secrets(all)));
        }
    }

    pub fn event(&self, event: Event) {
        self.line(&Line::Event(event));
    }

    pub fn ask(&self, ask: Ask) {
        self.line(&Line::Ask(ask));
    }

    pub fn answer(&self, answer: Answer) {
        self.line(&Line::Answer(Box::new(answer)));
    }

    pub fn log(&self, level: &str, message: impl Into<String>) {
        self.event(Event::Log { level: level.to_owned(), message: message.into() });
    }

    fn line(&self, line: &Line) {
        let mut text = match self.hidden.get() {
            None => serde_json::to_vec(line),
            Some(hidden) => serde_json::to_value(line).and_then(|mut value| {
                clean(&mut value, hidden);
                serde_json::to_vec(&value)
            }),
        }
        .expect("a line of the protocol always serialises");
        text.push(b'\n');
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if to.write_all(&text).is_err() {
            self.stop.set();
        }
    }
}

/// Cleans texts, not the names of fields or of the line's own kind.
fn clean(value: &mut serde_json::Value, hidden: &Redactor) {
    use serde_json::Value;
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(cleaned) = hidden.clean(text) {
                *text = cleaned;
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|v| clean(v, hidden)),
        Value::Object(fields) => {
            let texts = fields.iter_mut().filter(|(n, _)| !matches!(n.as_str(), "event" | "ask" | "answer"));
            texts.for_each(|(_, v)| clean(v, hidden));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_secret_in_a_plugins_words_is_not_passed_on() {
        let kept = Kept::default();
        let outbox = Outbox::to(kept.clone(), Arc::default());
        let secrets = [("password".to_owned(), Zeroizing::new("hunter\"2".to_owned()))].into_iter().collect();
        outbox.hide(&SecretValues(secrets));
        outbox.event(Event::Alive { note: "login as me:hunter\"2 failed".to_owned() });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "{\"event\":\"alive\",\"note\":\"login as me:*** failed\"}\n");
    }

    #[test]
    fn a_reader_that_is_gone_stops_the_worker() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let stop = Arc::new(Stop::default());
        Outbox::to(Gone, stop.clone()).log("info", "x");
        assert!(stop.is_set());
    }
}
