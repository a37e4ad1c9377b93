//! Inside the plugin: sends panics, `tracing` events and `log` records to the host.
//!
//! A shared library has its own std, its own panic hook and its own logging globals, so nothing of the host's is in
//! force there. A record goes to the target whose call is running on this thread, else (a thread of the backend's
//! own) to the target opened last.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Once, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;

use super::guard;
use super::v1::LogV1;

static LAST_OPENED: RwLock<Option<Arc<LogV1>>> = RwLock::new(None);
static MOST_VERBOSE: AtomicU32 = AtomicU32::new(3);
static INSTALLED: Once = Once::new();

thread_local! {
    static CURRENT: RefCell<Option<Arc<LogV1>>> = const { RefCell::new(None) };
    static FORWARDING: Cell<bool> = const { Cell::new(false) };
}

/// Makes `log` the place for records of no particular target, and installs hook and subscriber the first time.
pub(crate) fn install(log: Arc<LogV1>, most_verbose: u32) {
    MOST_VERBOSE.store(most_verbose, Ordering::Relaxed);
    *LAST_OPENED.write().unwrap_or_else(PoisonError::into_inner) = Some(log);
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let (message, place) = guard::note(info);
            forward(1, "panic", &format!("panicked at {place}: {message}"));
            if !guard::guarded() {
                previous(info);
            }
        }));
        // Both fail only where the library has set up its own; then that is what it wants.
        let _ = tracing::subscriber::set_global_default(Forwarder::default());
        let _ = log::set_logger(&LogFacade);
    });
    tracing::callsite::rebuild_interest_cache();
    log::set_max_level(match most_verbose {
        0 | 1 => log::LevelFilter::Error,
        2 => log::LevelFilter::Warn,
        3 => log::LevelFilter::Info,
        4 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    });
}

/// Runs `f` with `log` as this thread's target.
pub(crate) fn within<T>(log: &Arc<LogV1>, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<LogV1>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            let _ = CURRENT.try_with(|c| c.replace(before));
        }
    }
    let before = CURRENT.try_with(|c| c.replace(Some(log.clone()))).ok().flatten();
    let _restore = Restore(before);
    f()
}

/// Sends one record to the host. What the host itself logs while it takes it (only when both live in one binary, as
/// in tests) is not sent again.
pub(crate) fn forward(level: u32, target: &str, message: &str) {
    if FORWARDING.try_with(|f| f.replace(true)).unwrap_or(true) {
        return;
    }
    let current = CURRENT.try_with(|c| c.try_borrow().ok().and_then(|c| c.clone())).ok().flatten();
    let log = current.or_else(|| LAST_OPENED.read().unwrap_or_else(PoisonError::into_inner).clone());
    if let Some(log) = log {
        // SAFETY: the table is called with its own object's data, which `log` keeps alive.
        unsafe { (log.table.log)(log.data, level, target.into(), message.into()) }
    }
    let _ = FORWARDING.try_with(|f| f.set(false));
}

fn number(level: &tracing::Level) -> u32 {
    match *level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

/// The smallest subscriber that serves: events go to the host, spans only get numbers.
#[derive(Default)]
struct Forwarder(AtomicU64);

impl tracing::Subscriber for Forwarder {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        number(metadata.level()) <= MOST_VERBOSE.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match MOST_VERBOSE.load(Ordering::Relaxed) {
            0 | 1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        forward(number(event.metadata().level()), event.metadata().target(), &text.0);
    }
}

/// `message key=value …`, as the formatter of tracing-subscriber writes it.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.0.insert_str(0, value) } else { self.record_debug(field, &value) }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0.insert_str(0, &format!("{value:?}"));
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

/// Libraries that use the `log` crate.
struct LogFacade;

impl log::Log for LogFacade {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() as u32 <= MOST_VERBOSE.load(Ordering::Relaxed)
    }

    fn log(&self, record: &log::Record<'_>) {
        // It traces every command it sends, the password among them.
        let tells = record.target().starts_with("suppaftp") && record.level() >= log::Level::Debug;
        if self.enabled(record.metadata()) && !tells {
            forward(record.level() as u32, record.target(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}
