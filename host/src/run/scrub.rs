//! Takes secret values out of what a worker says: a plugin's library may print what it was given.

use super::protocol::SecretValues;
use crate::report::Event;

/// What stands for a secret.
const HIDDEN: &str = "***";

/// Shorter values would take every other word apart, and are no secrets worth the name.
const SHORTEST: usize = 4;

/// The text without the values.
pub fn text(text: &mut String, secrets: &SecretValues) {
    for value in secrets.0.values().filter(|v| v.len() >= SHORTEST) {
        // A key of many lines shows up line by line.
        for part in value.lines().map(str::trim).filter(|part| part.len() >= SHORTEST) {
            if text.contains(part) {
                *text = text.replace(part, HIDDEN);
            }
        }
    }
}

/// Every free text of an event without the values.
pub fn event(event: &mut Event, secrets: &SecretValues) {
    if secrets.0.is_empty() {
        return;
    }
    let clean = |t: &mut String| text(t, secrets);
    let clean_all = |texts: &mut [&mut Option<String>]| {
        for t in texts.iter_mut().filter_map(|t| t.as_mut()) {
            text(t, secrets);
        }
    };
    match event {
        Event::JobFailed { error, hint } | Event::ImageFailed { error, hint, .. } => {
            clean(error);
            clean_all(&mut [hint]);
        }
        Event::Finished { error, .. } => clean_all(&mut [error]),
        Event::Retry { error, .. } => clean(error),
        Event::Settled { what: t }
        | Event::Notice { text: t, .. }
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
        secrets.0.insert("key".into(), Zeroizing::new("-----BEGIN\nabcdef\n-----END".into()));
        secrets.0.insert("pin".into(), Zeroizing::new("1".into()));
        let mut said = Event::Log { level: "info".into(), message: "login me:hunter2 abcdef 11".into() };
        event(&mut said, &secrets);
        assert_eq!(said, Event::Log { level: "info".into(), message: "login me:*** *** 11".into() });
        let mut failed =
            Event::ImageFailed { image: "a".into(), error: "hunter2".into(), hint: Some("hunter2".into()) };
        event(&mut failed, &secrets);
        assert_eq!(
            failed,
            Event::ImageFailed { image: "a".into(), error: "***".into(), hint: Some("***".into()) }
        );
    }
}
