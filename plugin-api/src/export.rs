//! `export_backend!`: what makes a library a plugin.

/// Exports a [`Plugin`](crate::Plugin) from a `cdylib` crate, once per crate.
///
/// It exports the module the host loads, and puts the metadata into the link section `.offsite.meta`, where the host
/// reads it without loading the library. Everything in `metadata` is a constant; `version` defaults to the crate's.
/// It also adds a test that the metadata is valid.
///
/// ```
/// # use offsite_plugin_api::{Backend, Error, Opened, Plugin, Result};
/// struct Folder;
///
/// impl Plugin for Folder {
///     fn open(&self, target: Opened<'_>) -> Result<Box<dyn Backend>> {
///         // …
/// #       let _ = target;
/// #       Err(Error::unsupported("opening"))
///     }
/// }
///
/// offsite_plugin_api::export_backend! {
///     plugin: Folder,
///     metadata: {
///         id: "folder",
///         vendor: "Example Ltd",
///         licence: "MIT OR Apache-2.0",
///         description: "Local and mounted folders",
///         schemes: [("folder", None), ("file", None)],
///         options: r#"{"type":"object","properties":{}}"#, // or include_str!("options.schema.json")
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_backend {
    (
        plugin: $plugin:expr,
        metadata: {
            id: $id:expr,
            vendor: $vendor:expr,
            licence: $licence:expr,
            description: $description:expr,
            schemes: [$($scheme:expr),+ $(,)?],
            options: $options:expr $(,)?
        } $(,)?
    ) => {
        $crate::export_backend! {
            plugin: $plugin,
            metadata: {
                id: $id,
                version: ::core::env!("CARGO_PKG_VERSION"),
                vendor: $vendor,
                licence: $licence,
                description: $description,
                schemes: [$($scheme),+],
                options: $options,
            }
        }
    };
    (
        plugin: $plugin:expr,
        metadata: {
            id: $id:expr,
            version: $version:expr,
            vendor: $vendor:expr,
            licence: $licence:expr,
            description: $description:expr,
            schemes: [$($scheme:expr),+ $(,)?],
            options: $options:expr $(,)?
        } $(,)?
    ) => {
        #[doc(hidden)]
        // The metadata is written by the compiler; a long schema takes it a while.
        #[allow(unsafe_code, long_running_const_eval)]
        pub mod __offsite_export {
            // What the vendor wrote refers to names of the vendor's module.
            #[allow(unused_imports)]
            use super::*;

            const META: $crate::abi::StaticMeta = $crate::abi::StaticMeta {
                id: $id,
                version: $version,
                vendor: $vendor,
                licence: $licence,
                description: $description,
                schemes: &[$($scheme),+],
                options: $options,
            };
            const LENGTH: usize = $crate::abi::section_len(&META);

            // `Plugin::metadata` below refers to it, so it survives --gc-sections and LTO as well.
            #[used]
            #[unsafe(link_section = ".offsite.meta")]
            static SECTION: [u8; LENGTH] = $crate::abi::section(&META);

            /// This crate's plugin, for `Module::in_process` in tests.
            pub struct Exported;

            impl $crate::abi::Export for Exported {
                fn metadata() -> &'static [u8] {
                    $crate::abi::text(&SECTION)
                }

                fn plugin() -> &'static dyn $crate::Plugin {
                    static PLUGIN: ::std::sync::OnceLock<::std::boxed::Box<dyn $crate::Plugin>> =
                        ::std::sync::OnceLock::new();
                    &**PLUGIN.get_or_init(|| ::std::boxed::Box::new($plugin))
                }
            }

            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static HEADER: $crate::abi::__private::LibHeader = $crate::abi::__private::header::<Exported>();

            #[cfg(test)]
            #[test]
            fn exported_metadata_is_valid() {
                $crate::abi::parse_metadata_section(&SECTION).unwrap();
            }
        }
    };
}
