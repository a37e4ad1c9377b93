//! One [`Event`] type; human output and JSON come from it. The only module that prints, with `main`.

mod event;

pub use event::{Event, Outcome};
