//! What a plugin or the worker itself warns of, as notices: users do not read a log.
//!
//! Each different text once per worker, and not endlessly many (a server's listing may be wrong in each of its lines); the
//! rest goes to the log. Sources: a plugin's records at `warn` and above ([`Warnings::plugin`]), the host operation
//! `notice` with a code of its own ([`Warnings::asked`]), and the worker's own records ([`Layer`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer;

use super::meter::bounded;
use super::outbox::Outbox;
use crate::notice::{Notice, NoticeCode, NoticeLevel};
use crate::plugin::LOG_TARGET;
use crate::report::Event;

/// Different ones told by one worker.
const MOST: usize = 50;

#[derive(Debug, Default)]
pub struct Warnings(Mutex<HashSet<(NoticeCode, String)>>);

/// What a plugin gives with the host operation `notice`.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    code: Option<NoticeCode>,
    text: String,
}

impl Warnings {
    /// A plugin's warning. False: it is not told (again) and belongs in the log.
    pub fn plugin(&self, outbox: &Outbox, text: &str) -> bool {
        self.tell(outbox, NoticeCode::PluginWarning, text)
    }

    /// The host operation `notice`: `{"code": …, "text": …}`. What a plugin says never fails a run: another code than
    /// that of a warning is a plugin's warning. False: it is no such object.
    pub fn asked(&self, outbox: &Outbox, json: &str) -> bool {
        let Ok(Asked { code, text }) = serde_json::from_str(json) else { return false };
        let code = code.filter(|code| code.level() == NoticeLevel::Warning);
        self.tell(outbox, code.unwrap_or(NoticeCode::PluginWarning), &text);
        true
    }

    fn tell(&self, outbox: &Outbox, code: NoticeCode, text: &str) -> bool {
        let text = bounded(text);
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > MOST || told.contains(&(code.clone(), text.clone())) {
            return false;
        }
        told.insert((code.clone(), text.clone()));
        let last = told.len() > MOST;
        drop(told);
        let text = if last { "there are more warnings; `-v` shows all of them".to_owned() } else { text };
        outbox.event(Event::Notice(Notice::new(code, text)));
        !last
    }
}

/// The worker's own records at `warn` and above, told as well.
pub struct Layer(pub Arc<Outbox>);

impl<S: tracing::Subscriber> layer::Layer<S> for Layer {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        let meta = event.metadata();
        let own = meta.target().starts_with("offsite") && meta.target() != LOG_TARGET;
        if !own || *meta.level() > tracing::Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        self.0.warnings().tell(&self.0, NoticeCode::WorkerWarning, &text.line());
    }
}

/// A record's message and fields on one line.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn line(self) -> String {
        if self.fields.is_empty() { self.message } else { format!("{} ({})", self.message, self.fields) }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
            return;
        }
        let gap = if self.fields.is_empty() { "" } else { ", " };
        self.fields.push_str(&format!("{gap}{}: {value:?}", field.name()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::run::protocol::Line;
    use crate::run::stop::Stop;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn outbox() -> (Arc<Outbox>, impl Fn() -> Vec<Notice>) {
        let written = Written::default();
        let outbox = Arc::new(Outbox::to(written.clone(), Arc::new(Stop::default())));
        let notices = move || {
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            let lines = text.lines().map(|l| Line::parse(l).unwrap());
            lines
                .map(|line| match line {
                    Line::Event(Event::Notice(notice)) => notice,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        (outbox, notices)
    }

    #[test]
    fn a_warning_is_told_once_and_many_of_them_are_bounded() {
        let (outbox, notices) = outbox();
        assert!(outbox.warnings().plugin(&outbox, "guest"));
        assert!(!outbox.warnings().plugin(&outbox, "guest"), "for the log");
        assert_eq!(notices(), [Notice::new(NoticeCode::PluginWarning, "guest")]);
        for n in 0..500 {
            outbox.warnings().plugin(&outbox, &format!("line {n} is of no known form"));
        }
        let all = notices();
        assert_eq!(all.len(), MOST + 1);
        assert!(all[MOST].text.contains("more warnings"), "{:?}", all[MOST]);
    }

    #[test]
    fn a_plugin_names_the_code_of_a_warning_and_never_fails_a_run() {
        let (outbox, notices) = outbox();
        let ask = |json: &str| outbox.warnings().asked(&outbox, json);
        assert!(ask(r#"{"code":"plain-password","text":"readable by all"}"#));
        assert!(ask(r#"{"code":"refused","text":"a"}"#) && ask(r#"{"text":"b"}"#));
        assert!(ask(r#"{"code":"of-another-age","text":"c"}"#));
        assert!(!ask("guest") && !ask(r#"{"code":"gap"}"#));
        let codes: Vec<_> = notices().into_iter().map(|n| (n.code, n.level)).collect();
        let warning = |code| (code, NoticeLevel::Warning);
        let plugin = || warning(NoticeCode::PluginWarning);
        assert_eq!(codes, [warning(NoticeCode::PlainPassword), plugin(), plugin(), plugin()]);
    }

    #[test]
    fn the_workers_own_warnings_are_told_and_nobody_elses_records() {
        let (outbox, notices) = outbox();
        let subscriber = tracing_subscriber::registry().with(Layer(outbox));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(path = "/p", "not used");
            tracing::info!("all is well");
            tracing::warn!(target: "hyper", "pooled");
            tracing::warn!(target: LOG_TARGET, "a library within a plugin");
        });
        let told = notices();
        assert_eq!(told, [Notice::new(NoticeCode::WorkerWarning, "not used (path: \"/p\")")]);
    }
}
