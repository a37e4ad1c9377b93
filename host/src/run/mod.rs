//! Carrying a plan out: supervisor, worker, transfer, blocks, verify, retry, pace, priority.

pub mod blocks;
pub mod killpoint;
pub mod protocol;
pub mod source_reader;
