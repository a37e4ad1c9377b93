//! What the plugin host turns down before it loads anything: one sentence each, and the others are used.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use offsite::plugin::{self, DirectoryState, PluginStatus, RefusalCode, Registry, Status};
use offsite_tests::library::{library, metadata, section};
use serde_json::{Value, json};

struct Plugins(tempfile::TempDir);

impl Plugins {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn plugin(&self, file: &str, metadata: &Value) -> PathBuf {
        library(self.path(), file, Some(&section(metadata.to_string().as_bytes())), "")
    }

    /// A plugin's library with some of its bytes changed.
    fn patched(&self, file: &str, at: usize, bytes: &[u8]) {
        let made = self.plugin(file, &metadata("patched"));
        let mut all = std::fs::read(&made).unwrap();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&made, all).unwrap();
    }

    /// What became of one file.
    #[track_caller]
    fn found(&self, file: &str) -> (Option<RefusalCode>, String) {
        let registry = Registry::discover(&[self.path().to_owned()]);
        let path = self.file(file);
        let entry = registry.entries().iter().find(|e| e.path == path).expect("the file was looked at");
        match &entry.status {
            Status::Refused(refusal) => (Some(refusal.code), refusal.to_string()),
            other => (None, format!("{other:?}")),
        }
    }

    #[track_caller]
    fn refuses(&self, file: &str, code: RefusalCode, found: &str, action: &str) {
        let (got, sentence) = self.found(file);
        assert_eq!(got, Some(code), "{file}: {sentence}");
        assert!(sentence.contains(found) && sentence.contains(action), "{file}: {sentence}");
        assert!(sentence.contains(", but "), "found, but needed: {sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

#[test]
fn each_unfit_file_is_refused_in_one_sentence_and_the_good_one_is_used() {
    let plugins = Plugins::new();
    plugins.plugin("good.so", &metadata("good"));

    std::fs::write(plugins.file("text.so"), "#!/bin/sh\n").unwrap();
    std::fs::write(plugins.file("empty.so"), "").unwrap();
    std::fs::create_dir(plugins.file("directory.so")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        plugins.file("pipe.so"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    plugins.patched("object.so", 16, &[1, 0]);
    plugins.patched("bits.so", 4, &[1]);
    plugins.patched("endian.so", 5, &[2]);
    plugins.patched("machine.so", 18, &[243, 0]);
    plugins.patched("headers.so", 40, &[0xff; 8]);
    library(plugins.path(), "plain.so", None, "int answer(void) { return 42; }");
    let whole = std::fs::read(plugins.plugin("cut.so", &metadata("cut"))).unwrap();
    std::fs::write(plugins.file("cut.so"), &whole[..whole.len() / 2]).unwrap();
    plugins.plugin("huge.so", &metadata("huge"));
    let huge = std::fs::File::options().write(true).open(plugins.file("huge.so")).unwrap();
    huge.set_len(513 * 1024 * 1024).unwrap();

    use RefusalCode::*;
    plugins.refuses("text.so", NotALibrary, "starts with '#!/b'", "remove it");
    plugins.refuses("empty.so", NotALibrary, "is empty", "remove it");
    plugins.refuses("directory.so", NotAFile, "not a regular file", "remove it");
    plugins.refuses("pipe.so", NotAFile, "not a regular file", "remove it");
    plugins.refuses("object.so", NotALibrary, "ELF file of type 1", "remove it");
    plugins.refuses("bits.so", WrongTriple, "32-bit", "built for this machine");
    plugins.refuses("endian.so", WrongTriple, "big-endian", "built for this machine");
    plugins.refuses("machine.so", WrongTriple, "built for riscv", "built for this machine");
    plugins.refuses("headers.so", NotALibrary, "ELF headers are broken", "remove it");
    plugins.refuses("plain.so", NoMetadata, "without plugin metadata", "export_backend!");
    plugins.refuses("cut.so", NotALibrary, "ELF headers are broken", "remove it");
    plugins.refuses("huge.so", TooLarge, "537919488 bytes", "strip");
    assert_eq!(plugins.found("good.so"), (None, "Active".to_owned()));
}

#[test]
fn metadata_that_cannot_be_used_is_refused_and_nothing_of_it_is_taken() {
    let plugins = Plugins::new();
    let with = |key: &str, value: Value| {
        let mut changed = metadata("odd");
        changed[key] = value;
        changed
    };
    plugins.plugin("abi.so", &with("abi", json!([9, 8])));
    plugins.plugin("triple.so", &with("triple", json!("riscv64gc-unknown-linux-gnu")));
    plugins.plugin("id.so", &with("id", json!("../odd")));
    plugins.plugin("vendor.so", &with("vendor", json!("\u{1b}[2Jme")));
    plugins.plugin("scheme.so", &with("schemes", json!([{"name": "Sftp"}])));
    plugins.plugin("schemes.so", &with("schemes", json!([])));
    plugins.plugin("options.so", &with("options", json!("none")));
    let make = |file: &str, bytes: &[u8]| library(plugins.path(), file, Some(bytes), "");
    make("json.so", &section(b"{\"id\":"));
    make("magic.so", b"offsite-plugin\0\x02 and whatever follows");
    make("short.so", b"offsite");
    make("length.so", &[&section(b"")[..16], &u64::MAX.to_le_bytes()].concat());
    make("long.so", &section(&vec![b' '; 2 * 1024 * 1024]));

    use RefusalCode::*;
    plugins.refuses("abi.so", UnknownAbi, "speaks ABI 9 and 8", "update offsite");
    plugins.refuses("triple.so", WrongTriple, "built for riscv64gc", "built for this machine");
    for (file, field) in [
        ("id", "id"),
        ("vendor", "vendor"),
        ("scheme", "schemes"),
        ("schemes", "schemes"),
        ("options", "options"),
    ] {
        plugins.refuses(&format!("{file}.so"), BadMetadata, &format!("'{field}'"), "ask its vendor");
    }
    plugins.refuses("json.so", BadMetadata, "cannot be read", "ask its vendor");
    plugins.refuses("magic.so", BadMetadata, "another version of offsite-plugin-api", "ask its vendor");
    plugins.refuses("short.so", BadMetadata, "has only 7 bytes", "ask its vendor");
    plugins.refuses("length.so", BadMetadata, "more than the", "ask its vendor");
    plugins.refuses("long.so", BadMetadata, "2097176 bytes", "ask its vendor");

    let registry = Registry::discover(&[plugins.path().to_owned()]);
    let rows = plugin::list(&registry);
    let ours: Vec<_> = rows.iter().filter(|r| r.directory == plugins.path().to_string_lossy()).collect();
    assert_eq!(ours.len(), 12);
    assert!(ours.iter().all(|r| r.status == PluginStatus::Refused && r.id.is_none() && r.options.is_empty()));
}

#[test]
fn what_others_could_have_written_is_not_used() {
    let plugins = Plugins::new();
    let file = plugins.plugin("mine.so", &metadata("mine"));
    for (mode, verdict) in [(0o644, None), (0o646, Some(RefusalCode::Writable)), (0o444, None)] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(plugins.found("mine.so").0, verdict, "mode {mode:o}");
    }
    // Only root can give files away; who may own one is a table test beside the code as well.
    if rustix::process::geteuid().is_root() {
        chown(&file, Some(12345), None).unwrap();
        plugins.refuses("mine.so", RefusalCode::ForeignOwner, "belongs to user 12345", "copy of your own");
        chown(&file, Some(0), Some(12345)).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o664)).unwrap();
        plugins.refuses("mine.so", RefusalCode::Writable, "group 12345 may write", "chmod g-w");
        chown(plugins.path(), Some(12345), None).unwrap();
        let registry = Registry::discover(&[plugins.path().to_owned()]);
        let DirectoryState::Refused(refusal) = &registry.directories()[0].state else {
            panic!("a foreign directory is searched");
        };
        assert_eq!(refusal.code, RefusalCode::ForeignOwner);
        chown(plugins.path(), Some(0), None).unwrap();
    }
    std::fs::set_permissions(plugins.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let registry = Registry::discover(&[plugins.path().to_owned()]);
    let DirectoryState::Refused(refusal) = &registry.directories()[0].state else {
        panic!("a directory that everybody may write to is searched");
    };
    assert!(refusal.to_string().contains("everybody may write to the directory"), "{refusal}");
    assert!(registry.entries().iter().all(|e| !e.path.starts_with(plugins.path())));
}

#[test]
fn a_symbolic_link_is_judged_by_the_file_it_leads_to() {
    let (plugins, elsewhere) = (Plugins::new(), Plugins::new());
    let file = elsewhere.plugin("real.so.1", &metadata("linked"));
    std::os::unix::fs::symlink(&file, plugins.file("linked.so")).unwrap();
    assert_eq!(plugins.found("linked.so").0, None);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(plugins.found("linked.so").0, Some(RefusalCode::Writable));
}

#[test]
fn the_first_plugin_with_an_id_wins_and_later_ones_are_shown_as_shadowed() {
    let (first, second) = (Plugins::new(), Plugins::new());
    first.plugin("a.so", &metadata("twin"));
    second.plugin("a.so", &metadata("twin"));
    second.plugin("b.so", &metadata("other"));
    let mut third = metadata("third");
    third["schemes"] = json!([{"name": "twin"}, {"name": "third", "default_port": 22}]);
    second.plugin("c.so", &third);

    // Named twice, a directory is searched once.
    let dirs = [first.path(), second.path(), first.path()].map(Path::to_owned);
    let registry = Registry::discover(&dirs);
    assert_eq!(registry.directories()[2].state, DirectoryState::Repeated);
    let row = |path: PathBuf| {
        let rows = plugin::list(&registry);
        let mut ours = rows.into_iter().filter(|r| r.path == path.to_string_lossy());
        let row = ours.next().expect("the file is listed");
        assert!(ours.next().is_none(), "the file is listed once");
        row
    };
    assert_eq!(row(first.file("a.so")).status, PluginStatus::Active);
    let shadowed = row(second.file("a.so"));
    assert_eq!(shadowed.status, PluginStatus::Shadowed);
    assert!(shadowed.reason.unwrap().contains(&*first.file("a.so").to_string_lossy()));
    assert_eq!(row(second.file("b.so")).status, PluginStatus::Active);
    assert_eq!(registry.by_scheme("twin").unwrap().path, first.file("a.so"));
    let schemes = row(second.file("c.so")).schemes;
    assert_eq!(
        schemes[0].served_by.as_deref(),
        Some("twin"),
        "a scheme that another plugin serves is shown so"
    );
    assert_eq!((schemes[1].served_by.as_deref(), schemes[1].default_port), (None, Some(22)));
}

#[test]
fn info_finds_a_plugin_by_id_and_a_file_by_path() {
    let (plugins, elsewhere) = (Plugins::new(), Plugins::new());
    let mut known = metadata("known");
    known["options"] = json!({"properties": {
        "region": {"type": "string", "x-order": 2, "default": "eu", "description": "Where"},
        "key": {"type": "string", "x-secret": true, "x-order": 1},
    }});
    let path = plugins.plugin("known.so", &known);
    let loose = elsewhere.plugin("loose.so", &metadata("loose"));
    std::fs::write(elsewhere.file("bad.so"), "x").unwrap();
    let registry = Registry::discover(&[plugins.path().to_owned()]);

    let row = plugin::info(&registry, "known").unwrap();
    assert_eq!(row.path, path.to_string_lossy());
    let options: Vec<_> = row.options.iter().map(|o| (o.name.as_str(), o.secret)).collect();
    assert_eq!(options, [("key", true), ("region", false)]);
    assert_eq!(plugin::info(&registry, &path.to_string_lossy()).unwrap().status, PluginStatus::Active);
    let row = plugin::info(&registry, &loose.to_string_lossy()).unwrap();
    assert_eq!((row.status, row.id.as_deref()), (PluginStatus::NotSearched, Some("loose")));
    let row = plugin::info(&registry, &elsewhere.file("bad.so").to_string_lossy()).unwrap();
    assert_eq!((row.status, row.code), (PluginStatus::Refused, Some(RefusalCode::NotALibrary)));
    let error = plugin::info(&registry, "unheard-of").unwrap_err().to_string();
    assert!(error.contains("no such plugin") && error.contains("known"), "{error}");
}

#[test]
fn an_unknown_scheme_is_an_error_that_lists_schemes_directories_and_the_likely_refusal() {
    let plugins = Plugins::new();
    plugins.plugin("good.so", &metadata("good"));
    std::fs::write(plugins.file("liboffsite_plugin_gopher.so"), "x").unwrap();
    let registry = Registry::discover(&[plugins.path().to_owned()]);
    let error = registry.for_url("gopher://host/path").err().expect("there is no such plugin").to_string();
    for part in
        ["gopher", "good", &plugins.path().to_string_lossy(), "/usr/lib/offsite/plugins", "starts with 'x'"]
    {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    let error = registry.for_url("good://me:hunter2@host/").err().expect("a password is refused").to_string();
    assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
    assert!(registry.for_url("GOOD://host").is_ok(), "schemes are compared without case");
}
