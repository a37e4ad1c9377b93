//! What a plugin logs reaches its target's sink. One test: hook and subscriber are the process's own.
#![allow(clippy::unwrap_used)]

mod scripted;

use std::sync::Arc;

use offsite_plugin_api::*;
use scripted::{TestHost, open_with};

#[test]
fn records_reach_the_sink_of_the_target_they_belong_to() {
    let (one, two) = (Arc::new(TestHost::default()), Arc::new(TestHost::default()));
    let first = open_with("one", &one).unwrap();
    let second = open_with("two", &two).unwrap();
    let run = |backend: &dyn Backend, what: &str| {
        backend.invoke(&Call::unwatched(), what, "{}", None, None).unwrap()
    };
    let take = |host: &TestHost| std::mem::take(&mut *host.log.lock().unwrap());

    run(&*first, "tracing");
    let target = "logging::scripted";
    assert_eq!(take(&one), [(Level::Info, target.into(), "said it number=3 text=\"a\\\"b\"".into())]);
    run(&*second, "log");
    assert_eq!(take(&two), [(Level::Warn, "elsewhere".into(), "said so".into())]);
    assert_eq!(take(&one), []);

    // A thread of the plugin's own belongs to no call: the target opened last has it.
    run(&*first, "thread");
    assert_eq!(take(&two), [(Level::Error, target.into(), "from a thread".into())]);
    run(&*first, "thread panic");
    let log = take(&two);
    assert_eq!(log.len(), 1);
    assert!(log[0].2.ends_with("on its own"), "{log:?}");
    assert_eq!(take(&one), []);
}
