//! The folder backend keeps every promise of the contract.
#![allow(clippy::unwrap_used)]

use offsite_plugin_api::conformance::assert_conforms;
use offsite_plugin_folder::Folder;

#[test]
fn the_folder_backend_conforms() {
    let dir = tempfile::tempdir().unwrap();
    assert_conforms(&|| {
        Box::new(Folder::open_at(dir.path().to_str().unwrap(), &serde_json::json!({})).unwrap())
    });
}
