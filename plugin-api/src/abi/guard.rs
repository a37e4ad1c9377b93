//! Panics end here: whatever runs on behalf of the other side runs inside [`catch`], because a panic that reaches an
//! `extern "C"` boundary ends the process, and the other side's `catch_unwind` cannot help.
//!
//! The payload of a panic knows its message but not its place; the hook (installed by `log.rs`) notes the place for
//! the thread, and [`catch`] picks it up.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use super::convert::to_result;
use super::v1::Res;
use crate::{Error, ErrorKind, Result};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic that was caught.
#[derive(Clone, Debug)]
pub(crate) struct Panic {
    pub message: String,
    /// `file:line:column`, where the hook saw it.
    pub place: Option<String>,
}

impl From<Panic> for Error {
    fn from(panic: Panic) -> Self {
        let error = Error::new(ErrorKind::Panicked, format!("panicked: {}", panic.message));
        match panic.place {
            Some(place) => error.with_context("at", place),
            None => error,
        }
    }
}

/// Whether this thread is inside [`catch`]: its panic will come back as an error.
pub(crate) fn guarded() -> bool {
    DEPTH.try_with(|d| d.get() > 0).unwrap_or(false)
}

/// For the hook: keeps the place of this thread's panic and returns `message, place`.
pub(crate) fn note(info: &PanicHookInfo<'_>) -> (String, String) {
    let place = info.location().map(ToString::to_string).unwrap_or_else(|| "an unknown place".to_owned());
    // A destructor that panics while its thread ends finds the slot gone; the message is enough then.
    let _ = PLACE.try_with(|p| p.try_borrow_mut().map(|mut p| *p = Some(place.clone())));
    (message(info.payload()), place)
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}

/// Runs `f`; a panic becomes a value.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> std::result::Result<T, Panic> {
    let enter = |by: i32| {
        let _ = DEPTH.try_with(|d| d.set(d.get().saturating_add_signed(by)));
    };
    enter(1);
    // Unwind safety: after a panic the backend object is poisoned, and the host's objects are behind locks of their own.
    let outcome = catch_unwind(AssertUnwindSafe(f));
    enter(-1);
    outcome.map_err(|payload| {
        let message = message(&*payload);
        // A payload may panic again when it is dropped; leaking it is the smaller harm.
        std::mem::forget(payload);
        let place = PLACE.try_with(|p| p.try_borrow_mut().ok().and_then(|mut p| p.take())).ok().flatten();
        Panic { message, place }
    })
}

/// The body of an exported function that can fail.
pub(crate) fn result<T, W: From<T>>(f: impl FnOnce() -> Result<T>) -> Res<W> {
    let outcome = catch(|| to_result(f()));
    outcome.unwrap_or_else(|panic| to_result::<T, W>(Err(panic.into())))
}

/// The body of an exported function that cannot say that it failed.
pub(crate) fn or<T>(otherwise: T, f: impl FnOnce() -> T) -> T {
    catch(f).unwrap_or(otherwise)
}
