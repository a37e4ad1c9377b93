//! The behaviour suite every backend passes.
