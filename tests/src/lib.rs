//! The harness: real chains, a folder that fails on demand, the law checker, and the program under test.

pub mod backends;
pub mod build;
pub mod fuse;
pub mod kill;
pub mod law;
pub mod library;
pub mod mounts;
pub mod program;
pub mod proxy;
pub mod qemu;
pub mod sandbox;
pub mod servers;
