//! Loading: real plugin libraries in this very process, side by side, what was checked being what is loaded.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use offsite::error::{Error, Kind, Result};
use offsite::plugin::{PluginLog, Registry};
use offsite_plugin_api::abi::host::LogSink;
use offsite_plugin_api::{
    Backend, Call, CallHost, Error as BackendError, ErrorKind, Host, Level, Result as BackendResult, Secrets,
    TargetPath,
};
use offsite_tests::build;
use offsite_tests::library::{library, metadata, section};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// A directory with these plugins only.
struct Plugins(tempfile::TempDir);

impl Plugins {
    fn with(libraries: &[(&str, &Path)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, from) in libraries {
            std::fs::copy(from, dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn registry(&self) -> Registry {
        Registry::discover(&[self.0.path().to_owned()])
    }
}

/// Hands out a newer password than the one a target was opened with.
struct Refreshing;

impl Host for Refreshing {
    fn secret(&self, _: &str) -> BackendResult<Zeroizing<String>> {
        Ok(Zeroizing::new("newer-secret".to_owned()))
    }
    fn state_get(&self, _: &str) -> BackendResult<Option<Vec<u8>>> {
        Ok(None)
    }
    fn state_put(&self, _: &str, _: &[u8]) -> BackendResult<()> {
        Ok(())
    }
    fn invoke(&self, operation: &str, _: &str) -> BackendResult<String> {
        Err(BackendError::unsupported(operation))
    }
}

fn open(registry: &Registry, url: &str, options: Value) -> Result<Box<dyn Backend>> {
    let log: Arc<dyn LogSink> = Arc::new(PluginLog::new("test"));
    registry.open_target(url, &options, Secrets::default(), Arc::new(Refreshing), log)
}

#[track_caller]
fn refused(result: Result<Box<dyn Backend>>) -> Error {
    match result {
        Ok(target) => panic!("{} was opened", target.identity()),
        Err(error) => error,
    }
}

/// What is mapped into this process under the name of a plugin's sealed copy.
fn mapped(name: &str) -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(&format!("/memfd:{name}"))
}

#[test]
fn looking_at_plugins_loads_none_of_them() {
    let folder = build::plugin("folder");
    let plugins = Plugins::with(&[("seen.so", &folder)]);
    let registry = plugins.registry();
    assert!(registry.by_id("folder").is_some());
    assert!(!mapped("seen.so"));
    open(&registry, "/tmp/somewhere", json!({})).unwrap();
    assert!(mapped("seen.so"), "the check above can see a loaded plugin");
}

#[test]
fn plugins_of_different_crates_work_side_by_side_even_under_one_file_name() {
    let (folder, echo) = (build::plugin("folder"), build::fixture("echo"));
    let (a, b) = (Plugins::with(&[("same.so", &folder)]), Plugins::with(&[("same.so", &echo)]));
    let registry = Registry::discover(&[a.0.path().to_owned(), b.0.path().to_owned()]);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_str().unwrap();
    // In turns, so that one taken for the other would show.
    for _ in 0..2 {
        let first = open(&registry, path, json!({})).unwrap();
        let second = open(&registry, "echo://host/x", json!({})).unwrap();
        assert_eq!(second.identity(), "echo:echo://host/x");
        assert!(first.identity().contains(path), "{}", first.identity());
        assert!(first.space(&Call::unwatched()).unwrap().free.is_some());
        assert_eq!(second.capabilities(&Call::unwatched()).unwrap_err().kind(), &ErrorKind::Unsupported);
    }
}

#[test]
fn folder_and_chaos_are_found_beside_the_program_and_load_side_by_side() {
    build::artefacts();
    let registry = Registry::discover(&[]);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_str().unwrap();
    let folder = open(&registry, &format!("folder:{path}"), json!({})).unwrap();
    let chaos = open(&registry, &format!("chaos:{path}"), json!({})).unwrap();
    assert_ne!(folder.identity(), chaos.identity());
    for target in [&folder, &chaos] {
        target.capabilities(&Call::unwatched()).unwrap();
    }
}

#[test]
fn a_stripped_library_is_still_a_plugin() {
    let plugins = Plugins::with(&[("echo.so", &build::fixture("echo"))]);
    let strip = std::process::Command::new("strip").arg("--strip-all").arg(plugins.file("echo.so")).status();
    assert!(strip.unwrap().success());
    assert_eq!(open(&plugins.registry(), "echo:x", json!({})).unwrap().identity(), "echo:echo:x");
}

#[test]
fn a_file_that_is_replaced_between_check_and_load_is_not_the_one_loaded() {
    let (folder, echo) = (build::plugin("folder"), build::fixture("echo"));
    let plugins = Plugins::with(&[("p.so", &echo), ("other", &folder)]);
    let registry = plugins.registry();
    std::fs::rename(plugins.file("other"), plugins.file("p.so")).unwrap();
    let target = open(&registry, "echo:x", json!({})).unwrap();
    assert_eq!(target.identity(), "echo:echo:x", "the file that was checked is the one that was loaded");
}

#[test]
fn a_file_that_is_overwritten_between_check_and_load_is_refused() {
    let (folder, echo) = (build::plugin("folder"), build::fixture("echo"));
    let plugins = Plugins::with(&[("p.so", &echo)]);
    let registry = plugins.registry();
    // Into the same file: the descriptor that was checked now leads to these bytes.
    std::fs::write(plugins.file("p.so"), std::fs::read(folder).unwrap()).unwrap();
    let error = refused(open(&registry, "echo:x", json!({})));
    assert_eq!(error.kind, Kind::Plugin);
    assert!(error.to_string().contains("changed after it was inspected"), "{error}");
    assert!(!mapped("p.so"), "it was not loaded");
}

#[test]
fn what_only_loading_can_tell_is_refused_in_one_sentence_and_the_others_work() {
    let plugins = Plugins::with(&[
        ("no_layout.so", &build::fixture("no_layout")),
        ("other_abi.so", &build::fixture("other_abi")),
        ("other_layout.so", &build::fixture("other_layout")),
        ("echo.so", &build::fixture("echo")),
    ]);
    let make = |id: &str, code: &str| {
        library(
            plugins.0.path(),
            &format!("{id}.so"),
            Some(&section(metadata(id).to_string().as_bytes())),
            code,
        );
    };
    make("no-module", "");
    make("undefined", "int nowhere(void); int answer(void) { return nowhere(); }");
    make("garbage", "char _1as_0lib_1header_0root_bmodule_bloader[4096] = \"garbage\";");
    let registry = plugins.registry();
    for (id, expected) in [
        ("no-layout", "carries no layout"),
        ("other-abi", "offsite plugin, ABI 9"),
        ("other-layout", "laid out otherwise"),
        ("no-module", "exports no module"),
        ("undefined", "undefined symbol: nowhere"),
        ("garbage", "header is not one this host can read"),
    ] {
        for _ in 0..2 {
            let error = refused(open(&registry, &format!("{id}:x"), Value::Null));
            assert_eq!(error.kind, Kind::Plugin, "{id}");
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains(".so"), "{id}: {text}");
            assert_eq!(text.lines().count(), 1, "{id}: {text}");
        }
    }
    assert!(open(&registry, "echo:x", Value::Null).is_ok());
}

#[test]
fn wrong_options_are_refused_before_the_plugin_runs() {
    let plugins = Plugins::with(&[("unused.so", &build::fixture("echo"))]);
    let registry = plugins.registry();
    let error = refused(open(&registry, "echo:x", json!({"refuze": true, "password": "hunter2"})));
    let text = error.to_string();
    assert_eq!(error.kind, Kind::Config);
    for part in ["'refuze' is not an option", "the options are: refuse", "'password' is a secret"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!text.contains("hunter2") && !mapped("unused.so"), "{text}");
    assert_eq!(registry.check_target("echo:x", &json!({"refuse": true}), &["password"]).unwrap(), []);
}

/// Keeps what a plugin says through a call.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl CallHost for Notes {
    fn cancelled(&self) -> bool {
        false
    }
    fn remaining(&self) -> Option<std::time::Duration> {
        None
    }
    fn pace(&self, _: u64) -> bool {
        true
    }
    fn acked(&self, _: u64) {}
    fn alive(&self, note: &str) {
        self.0.lock().unwrap().push(note.to_owned());
    }
    fn log(&self, _: Level, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_plugins_records_reach_the_hosts_tracing_with_the_targets_name_and_no_secret_gets_out() {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let plugins = Plugins::with(&[("echo.so", &build::fixture("echo"))]);
    let registry = plugins.registry();
    let open = |options: Value| {
        let secrets = Secrets(vec![("password".to_owned(), Zeroizing::new("first-secret".to_owned()))]);
        let log: Arc<dyn LogSink> = Arc::new(PluginLog::new("nas"));
        registry.open_target("echo:x", &options, secrets, Arc::new(Refreshing), log)
    };
    let target = open(json!({})).unwrap();
    let notes = Arc::new(Notes::default());
    let error = target.stat(&Call::new(notes.clone()), &TargetPath::new("a").unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "no entry for ***, user: me:***, path: a: 401 for Basic ***");
    assert_eq!(error.kind(), &ErrorKind::Unauthenticated);
    assert_eq!(*notes.0.lock().unwrap(), ["call log *** ***", "alive ***"]);
    let error = refused(open(json!({"refuse": true})));
    assert_eq!(error.to_string(), "refused, password=***");

    let log = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("target_name=\"nas\"") && log.contains("opened echo:x with ***"), "{log}");
    assert!(log.contains("WARN") && log.contains("tracing *** ***"), "{log}");
    assert!(!log.contains("-secret"), "{log}");
}

/// The boundary must not depend on how the compiler lays out Rust types: with that randomised in the plugin and not in
/// the host, everything works the same.
#[test]
fn a_plugin_built_with_randomised_layouts_works_with_the_normal_host() {
    let target_dir = build::artefacts().parent().unwrap().join("randomised");
    let output = build::cargo()
        .args(["build", "--quiet", "--locked", "--package", "offsite-plugin-folder", "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zrandomize-layout")
        // Built once, used once: quick to build matters, quick to run does not.
        .args(["--config", "profile.dev.package.\"*\".opt-level=0", "--config", "profile.dev.debug=0"])
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built = target_dir.join("debug/liboffsite_plugin_folder.so");
    let plugins = Plugins::with(&[("folder.so", &built)]);
    let registry = plugins.registry();
    assert!(registry.by_id("folder").unwrap().path.starts_with(plugins.0.path()));

    let place = tempfile::tempdir().unwrap();
    let target = open(&registry, place.path().to_str().unwrap(), json!({})).unwrap();
    let call = Call::unwatched();
    let report = target.check(&call).unwrap();
    assert!(report.passed(), "{report:?}");
    let path = TargetPath::new("sub/image.qcow2").unwrap();
    stage_and_publish(&*target, &path, b"0123456789");
    assert_eq!(std::fs::read(place.path().join("sub/image.qcow2")).unwrap(), b"0123456789");
    let page = target.list(&call, &TargetPath::root(), true, None).unwrap();
    let found: Vec<_> = page.entries.iter().filter(|e| e.path == path).map(|e| e.size).collect();
    assert_eq!(found, [10]);
    assert_eq!(target.stat(&call, &TargetPath::new("no").unwrap()).unwrap_err().kind(), &ErrorKind::NotFound);
}

fn stage_and_publish(target: &dyn Backend, path: &TargetPath, bytes: &'static [u8]) {
    use offsite_plugin_api::{
        Attributes, Expect, PublishRequest, Range, Session, Source, StageRequest, Token,
    };
    struct Bytes(&'static [u8]);
    impl Source for Bytes {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> BackendResult<usize> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }
    }
    struct Anything;
    impl Session for Anything {
        fn checkpoint(&self, _: &Token, _: &[Range], _: bool) -> BackendResult<()> {
            Ok(())
        }
    }
    let call = Call::unwatched();
    let source = Arc::new(Bytes(bytes));
    let request = StageRequest {
        path: path.clone(),
        staging: TargetPath::new("sub/offsite-test-0.part").unwrap(),
        attributes: Attributes::default(),
        size: bytes.len() as u64,
        streams: 2,
        owner: "test".to_owned(),
        resume: None,
    };
    let staged = target.stage(&call, &request, source.clone(), Arc::new(Anything)).unwrap();
    let publish = PublishRequest {
        token: staged.token,
        path: path.clone(),
        expect: Expect::Absent,
        attributes: Attributes::default(),
        digests: Vec::new(),
        size: bytes.len() as u64,
        source,
    };
    target.publish(&call, &publish).unwrap();
}

#[test]
fn a_plugin_is_inspected_in_little_memory_whatever_its_size() {
    let folder = build::plugin("folder");
    let plugins = Plugins::with(&[("folder.so", &folder)]);
    let padded = std::fs::File::options().write(true).open(plugins.file("folder.so")).unwrap();
    padded.set_len(400 * 1024 * 1024).unwrap();
    let before = resident();
    let registry = plugins.registry();
    assert!(registry.by_id("folder").unwrap().path.starts_with(plugins.0.path()));
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "inspecting took {grown} bytes of memory");
}

/// Most memory this process ever had, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
