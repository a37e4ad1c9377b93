//! The model test: many runs in a row over a simulated world, with faults, judged by an oracle that knows the contents.

mod content;
mod drive;
mod fixed;
mod oracle;
mod power;
mod products;
mod source;
mod story;
mod target;
mod tests;
mod unclear;
mod world;

pub(crate) use power::Power;
