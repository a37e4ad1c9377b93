//! A backend that misbehaves on demand, for tests: it stores like the folder plugin and fails as told.

mod backend;
mod facts;
mod fault;
mod source;
pub mod store;

pub use backend::ChaosPlugin;

offsite_plugin_api::export_backend! {
    plugin: ChaosPlugin,
    metadata: {
        id: "chaos",
        vendor: "offsite",
        licence: "MIT OR Apache-2.0",
        description: "A folder that misbehaves on demand; for tests",
        schemes: [("chaos", None)],
        options: include_str!("../options.schema.json"),
    }
}
