//! The model test: many runs in a row over a simulated world, with faults, judged by an oracle that knows the contents.

mod power;

pub(crate) use power::Power;
