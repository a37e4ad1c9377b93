//! `offsite plugin list` and `offsite plugin info` as a user runs them.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use offsite_tests::build;
use offsite_tests::library::{library, metadata, section};
use offsite_tests::program::Offsite;
use serde_json::Value;

/// A plugin with this id, of this version, in `home/sub`.
fn plugin(home: &Path, sub: &str, id: &str, version: &str) {
    let dir = home.join(sub);
    std::fs::create_dir_all(&dir).unwrap();
    let mut meta = metadata(id);
    meta["version"] = version.into();
    library(&dir, &format!("{id}.so"), Some(&section(meta.to_string().as_bytes())), "");
}

fn offsite(home: &Path) -> Offsite {
    build::artefacts();
    Offsite::new(home).env("OFFSITE_PLUGIN_PATH", format!("{0}/env1:{0}/env2", home.display()))
}

#[test]
fn directories_are_searched_in_order_and_what_is_shadowed_or_refused_is_listed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for (sub, version) in
        [("cli", "1.0.0"), ("env1", "2.0.0"), ("env2", "3.0.0"), (".local/share/offsite/plugins", "4.0.0")]
    {
        plugin(home, sub, "twin", version);
    }
    std::fs::write(home.join("env2/broken.so"), "nothing").unwrap();
    std::fs::create_dir(home.join("open")).unwrap();
    std::fs::set_permissions(home.join("open"), PermissionsExt::from_mode(0o777)).unwrap();
    let (cli, open) = (home.join("cli"), home.join("open"));
    let dirs = ["--plugin-dir", cli.to_str().unwrap(), "--plugin-dir", open.to_str().unwrap()];

    let list = offsite(home).args(["plugin", "list", "--json"]).args(dirs).run().expect(0).json();
    let rows: Vec<(String, String, String)> = list["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["path"].as_str().unwrap().starts_with(home.to_str().unwrap()))
        .map(|r| {
            let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
            (text(&r["version"]), text(&r["status"]), text(&r["origin"]))
        })
        .collect();
    let expect = [
        ("1.0.0", "active", "command-line"),
        ("2.0.0", "shadowed", "environment"),
        ("-", "refused", "environment"),
        ("3.0.0", "shadowed", "environment"),
        ("4.0.0", "shadowed", "user"),
    ];
    let expect: Vec<_> = expect.map(|(v, s, o)| (v.to_owned(), s.to_owned(), o.to_owned())).into();
    assert_eq!(rows, expect);
    assert_eq!(list["version"], 1);
    assert_eq!(list["directories"][1]["status"], "refused");
    // Those that came with the program are found as well.
    assert!(
        list["plugins"].as_array().unwrap().iter().any(|r| r["id"] == "folder" && r["status"] == "active")
    );

    let text = offsite(home).args(["plugin", "list"]).args(dirs).run().expect(0).stdout;
    for part in [
        "twin",
        "shadowed: ",
        "refused: ",
        "starts with 'noth'",
        "searched, in this order",
        "everybody may write",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[test]
fn info_shows_one_plugin_by_name_or_file_and_fails_for_what_cannot_be_used() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    plugin(home, "loose", "loose", "1.2.3");
    std::fs::write(home.join("bad.so"), "").unwrap();

    let info = offsite(home).args(["plugin", "info", "folder", "--json"]).run().expect(0).json();
    let plugin = &info["plugin"];
    assert_eq!(
        (&plugin["id"], &plugin["status"], &plugin["abi"]),
        (&"folder".into(), &"active".into(), &vec![1].into())
    );
    assert!(plugin["path"].as_str().unwrap().ends_with("liboffsite_plugin_folder.so"));
    let schemes: Vec<_> =
        plugin["schemes"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(schemes, ["folder", "file"]);
    let options = plugin["options"].as_array().unwrap();
    assert!(options.iter().any(|o| o["name"] == "create" && o["type"] == "boolean"));

    let file = home.join("loose/loose.so");
    let text = offsite(home).args(["plugin", "info", file.to_str().unwrap()]).run().expect(0).stdout;
    assert!(text.contains("1.2.3") && text.contains("not searched"), "{text}");
    let bad = home.join("bad.so");
    let text = offsite(home).args(["plugin", "info", bad.to_str().unwrap()]).run().expect(1).stdout;
    assert!(text.contains("it is empty"), "{text}");
    let text = offsite(home).args(["plugin", "info", "nothing"]).run().expect(2).stderr;
    assert!(text.contains("no such plugin") && text.contains("folder"), "{text}");
}
