//! The binary interface; the only place where abi_stable types appear.
//!
//! `v1` holds the records and tables, `convert` turns them into the plain types, `callbacks` and `plugin` make objects
//! of plain traits and the other way round, `guard` ends panics, `log` forwards a plugin's records, `meta` is the link
//! section. `host` (feature `host`) is the only part a host calls. Everything else is for `export_backend!`.

// Unsafe code lives here: tables of functions over untyped pointers cannot be had without it. Each use says what makes
// it sound, or stands under a comment that says so for the whole group.
#![allow(unsafe_code)]
// A plugin is built without what only a host calls.
#![cfg_attr(not(feature = "host"), allow(dead_code))]

mod callbacks;
mod convert;
mod guard;
#[cfg(feature = "host")]
pub mod host;
mod log;
mod meta;
mod plugin;
#[cfg(all(test, feature = "host"))]
mod tests;
mod v1;

pub use meta::{MAGIC, META_MAX, META_SECTION, TRIPLE, parse_metadata_section};
#[doc(hidden)]
pub use meta::{StaticMeta, section, section_len, text};
pub use plugin::Export;

/// ABI versions a plugin built with this crate exports, newest first; the versions a host built with it can load.
pub const ABI_VERSIONS: &[u32] = &[1];

/// What a library's module symbol holds, for [`host::Module::from_header`].
#[cfg(feature = "host")]
pub use abi_stable::library::AbiHeaderRef;
/// The symbol, NUL-terminated, of a library's module header; its value is an [`AbiHeaderRef`].
pub use abi_stable::library::ROOT_MODULE_LOADER_NAME_WITH_NUL as MODULE_SYMBOL;

/// What `export_backend!` expands to; not for direct use.
#[doc(hidden)]
pub mod __private {
    pub use abi_stable::library::LibHeader;
    use abi_stable::library::{__call_root_module_loader, CheckTypeLayout, RootModuleResult};

    use super::plugin::{Export, root};
    use super::v1::PluginV1Ref;

    extern "C" fn construct<E: Export>() -> RootModuleResult {
        __call_root_module_loader(root::<E>)
    }

    /// The header for `E`, layout included.
    pub const fn header<E: Export>() -> LibHeader {
        // SAFETY: the module that `construct` returns is a `PluginV1Ref`.
        unsafe { LibHeader::from_constructor::<PluginV1Ref>(construct::<E>, CheckTypeLayout::Yes) }
    }
}
