//! A panic in any method is an error, and the object takes no more calls; the other objects of the module do.
#![allow(clippy::unwrap_used)]

mod scripted;

use std::sync::Arc;
use std::time::Duration;

use offsite_plugin_api::*;
use scripted::{TestHost, call_each, module, open, open_with, script};

#[test]
fn a_panic_in_each_method_is_an_error_and_poisons_the_object() {
    let other = open("other");
    for (method, _) in call_each(&*other, &Call::unwatched(), &Arc::default()) {
        let backend = open(method);
        script(method).lock().unwrap().panic_at = method;
        let results = call_each(&*backend, &Call::unwatched(), &Arc::default());
        let at = results.iter().position(|(called, _)| *called == method).unwrap();
        for (n, (called, result)) in results.into_iter().enumerate() {
            if n < at {
                assert!(result.is_ok(), "{called} before the panic in {method}");
                continue;
            }
            let error = result.unwrap_err();
            assert_eq!(
                (error.kind(), error.retry()),
                (&ErrorKind::Panicked, Retry::Never),
                "{called} after {method}"
            );
            assert!(error.message().contains(&format!("told to panic in {method}")), "{error}");
            let (key, place) = &error.context()[0];
            assert!(key == "at" && place.contains("scripted/mod.rs:"), "{place}");
            if n > at {
                let reached = script(method).lock().unwrap().seen.iter().any(|(m, _)| *m == called);
                assert!(!reached, "{called} reached the backend after a panic in {method}");
            }
        }
        backend.close(Duration::ZERO);
        drop(backend);
        let script = script(method);
        let seen = &script.lock().unwrap().seen;
        assert!(seen.iter().all(|(m, _)| *m != "close"), "a poisoned object was called");
        assert_eq!(seen.last().unwrap().0, "drop");
    }
    assert!(other.stat(&Call::unwatched(), &TargetPath::root()).is_ok());
}

#[test]
fn a_panic_while_opening_closing_or_dropping_is_contained() {
    for method in ["open", "identity"] {
        script(method).lock().unwrap().panic_at = method;
        let error = open_with(method, &Arc::default()).err().unwrap();
        assert_eq!(*error.kind(), ErrorKind::Panicked);
    }
    for method in ["close", "drop"] {
        let backend = open(method);
        script(method).lock().unwrap().panic_at = method;
        backend.close(Duration::ZERO);
        drop(backend);
        assert_eq!(script(method).lock().unwrap().seen.last().unwrap().0, "drop");
    }
    assert!(module().metadata().is_ok());
}

#[test]
fn a_panic_is_logged_with_its_place() {
    let host = Arc::new(TestHost::default());
    let backend = open_with("logged", &host).unwrap();
    script("logged").lock().unwrap().panic_at = "stat";
    backend.stat(&Call::unwatched(), &TargetPath::root()).unwrap_err();
    let log = host.log.lock().unwrap();
    let (level, target, message) = log.last().unwrap();
    assert_eq!((*level, target.as_str()), (Level::Error, "panic"));
    assert!(message.contains("scripted/mod.rs:") && message.ends_with("told to panic in stat"), "{message}");
}
