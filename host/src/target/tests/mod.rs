//! Acts on a target against an in-memory backend, killed at every point.
