//! Takes secret values out of what a worker says: a plugin's library may print what it was given.

use std::borrow::Cow;

use super::protocol::SecretValues;
use crate::error::Error;
use crate::notice::Notice;
use crate::plugin::Redactor;
use crate::report::Event;

/// Shorter values would take every other word apart, and are no secrets worth the name.
const SHORTEST: usize = 4;

/// Knows these secrets, in every form in which they may show up.
pub fn redactor(secrets: &SecretValues) -> Redactor {
    let redactor = Redactor::default();
    for value in secrets.0.values() {
        learn(&redactor, value);
    }
    redactor
}

pub fn learn(redactor: &Redactor, value: &str) {
    if value.trim().len() >= SHORTEST {
        redactor.learn(value);
    }
}

/// The text without the values.
pub fn text(text: &mut String, redactor: &Redactor) {
    if let Cow::Owned(cleaned) = redactor.clean(text) {
        *text = cleaned;
    }
}

/// Every text of an error without the values.
pub fn error(error: &mut Error, redactor: &Redactor) {
    error.texts().for_each(|t| text(t, redactor));
}

/// Every free text of an event without the values.
pub fn event(event: &mut Event, redactor: &Redactor) {
    let clean = |t: &mut String| text(t, redactor);
    let clean_all = |texts: &mut [&mut Option<String>]| {
        for t in texts.iter_mut().filter_map(|t| t.as_mut()) {
            text(t, redactor);
        }
    };
    let clean_failure = |failure: &mut Option<Box<Error>>| {
        if let Some(failure) = failure {
            self::error(failure, redactor);
        }
    };
    match event {
        Event::JobFailed { error, hint, failure } | Event::ImageFailed { error, hint, failure, .. } => {
            clean(error);
            clean_all(&mut [hint]);
            clean_failure(failure);
        }
        Event::Finished { error, failure, .. } => {
            clean_all(&mut [error]);
            clean_failure(failure);
        }
        Event::Retry { error, failure, .. } => {
            clean(error);
            clean_failure(failure);
        }
        Event::Settled { what: t }
        | Event::Notice(Notice { text: t, .. })
        | Event::Skipped { reason: t, .. }
        | Event::Alive { note: t }
        | Event::Log { message: t, .. } => clean(t),
        Event::Scanned { .. }
        | Event::Started { .. }
        | Event::Planned { .. }
        | Event::Image { .. }
        | Event::Progress { .. }
        | Event::Published { .. }
        | Event::Deleted { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    #[test]
    fn what_a_library_prints_of_a_secret_is_hidden() {
        let mut secrets = SecretValues::default();
        secrets.0.insert("password".into(), Zeroizing::new("hunter2".into()));
        secrets.0.insert("key".into(), Zeroizing::new("-----BEGIN\nabcdefabcdefabcdef\n-----END".into()));
        secrets.0.insert("pin".into(), Zeroizing::new("1".into()));
        secrets.0.insert("longer".into(), Zeroizing::new("hunter22".into()));
        let secrets = redactor(&secrets);
        let message = "login me:hunter2 hunter22 Basic bWU6aHVudGVyMg== 11".to_owned();
        let mut said = Event::Log { level: "info".into(), message };
        event(&mut said, &secrets);
        let Event::Log { message, .. } = said else { panic!("still a log record") };
        assert!(message.starts_with("login me:*** *** Basic ") && message.ends_with(" 11"), "{message}");
        assert!(!message.contains("aHVudGVyMg"), "{message}");
        let failed = |text: &str| {
            let error = Error::new(crate::error::Kind::Io, text).on(text).because(text).hint(text);
            Event::image_failed("a".into(), &error)
        };
        let mut said = failed("hunter2");
        event(&mut said, &secrets);
        assert_eq!(said, failed("***"));
    }
}
