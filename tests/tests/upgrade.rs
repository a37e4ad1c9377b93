//! The first run on what an older version left (`fixtures/state-v1`): it sends, deletes and warns of nothing, and goes on with
//! what was interrupted.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use offsite_tests::program::{Offsite, Ran};
use offsite_tests::sandbox::{Sandbox, debris, files, own_files, tree};
use rusqlite::{Connection, params};

/// The installation that wrote the fixtures.
const WRITER: &str = "ef4c233c";

const CONFIG: &str = r#"
[[job]]
name = "daily"
source = "SOURCE"
settle = "0s"
include_other = true
[[job.target]]
name = "mirror"
url = "MIRROR"
sync = true
[[job.target]]
name = "plain"
url = "PLAIN"
[[job.target]]
name = "fresh"
url = "FRESH"
policy = "new-images"
subfolder = "{host}/{set}"

[[job]]
name = "cut"
source = "CUTSOURCE"
settle = "0s"
[[job.target]]
name = "vault"
url = "CUTTARGET"
"#;

/// The fixtures as if they had been written here.
struct Upgrade {
    box_: Sandbox,
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

fn set_mtime(file: &Path, ns: i64) {
    let time = UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap());
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

fn mtime(meta: &fs::Metadata) -> i64 {
    meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
}

fn below(root: &Path, path: &[u8]) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path))
}

impl Upgrade {
    fn new() -> Self {
        let box_ = Sandbox::new();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/state-v1");
        let places =
            [("source", "source"), ("mirror", "a"), ("plain", "b"), ("fresh", "c"), ("state", "state")];
        for (name, to) in places.into_iter().chain([("cut", "cut")]) {
            copy(&from.join(name), &box_.path(to));
        }
        let mut config = CONFIG.to_owned();
        for (name, at) in [
            ("CUTSOURCE", "cut/source"),
            ("CUTTARGET", "cut/target"),
            ("SOURCE", "source"),
            ("MIRROR", "a"),
            ("PLAIN", "b"),
            ("FRESH", "c"),
        ] {
            config = config.replace(&format!("\"{name}\""), &format!("\"{}\"", box_.text(at)));
        }
        fs::write(box_.path("offsite.toml"), config).unwrap();
        let this = Self { box_ };
        this.claim();
        for (db, source, target) in [
            ("daily/mirror", "source", "a"),
            ("daily/plain", "source", "b"),
            ("daily/fresh", "source", "c"),
            ("cut/vault", "cut/source", "cut/target"),
        ] {
            this.place(db, source, target);
        }
        this.place_job("daily", "source");
        this.place_job("cut", "cut/source");
        this
    }

    /// Puts this installation in the markers, the staging names and what the catalogs say of these.
    fn claim(&self) {
        let box_ = &self.box_;
        fs::create_dir_all(box_.path("home/s")).unwrap();
        fs::write(box_.path("home/s/vzdump-qemu-100-2026_01_01-03_00_00.vma"), "x").unwrap();
        let dummy = ["run", "--source", &box_.text("home/s"), "--to", &box_.text("home/t"), "--settle", "0"];
        box_.offsite().args(dummy).run().expect(0);
        let marker: serde_json::Value =
            serde_json::from_slice(&fs::read(box_.path("home/t/offsite-target")).unwrap()).unwrap();
        for target in ["a", "b", "c", "cut/target"] {
            let at = box_.path(target).join("offsite-target");
            let mut own: serde_json::Value = serde_json::from_slice(&fs::read(&at).unwrap()).unwrap();
            for key in ["installation", "state", "host"] {
                own[key] = marker[key].clone();
            }
            fs::write(&at, own.to_string()).unwrap();
        }
        let here = marker["installation"].as_str().unwrap();
        for file in own_files(&box_.path("cut/target")) {
            let name = file.to_string_lossy().replace(WRITER, here);
            fs::rename(box_.path("cut/target").join(&file), box_.path("cut/target").join(name)).unwrap();
        }
        let numbers = |text: &str| text.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(",");
        let db = Connection::open(box_.path("state/cut/vault.db")).unwrap();
        // A staged file is known by its inode, too.
        let inode =
            |name: &str| fs::metadata(box_.path("cut/target/nas").join(name)).unwrap().ino().to_string();
        let third = inode("files@d_20260101_d01_00001_i00003.aii");
        let fourth = inode(&format!("offsite-{here}-076fb0b2f47a12dd.part"));
        let replaced = [(WRITER, here), ("10061390", &*third), ("10061389", &*fourth)];
        for (was, is) in replaced
            .into_iter()
            .flat_map(|(was, is)| [(was.to_owned(), is.to_owned()), (numbers(was), numbers(is))])
        {
            db.execute("UPDATE intent_step SET body = replace(body, ?1, ?2)", [&was, &is]).unwrap();
            db.execute(
                "UPDATE staged SET staging = CAST(replace(CAST(staging AS TEXT), ?1, ?2) AS BLOB), \
                 token = CAST(replace(CAST(token AS TEXT), ?1, ?2) AS BLOB)",
                [&was, &is],
            )
            .unwrap();
        }
    }

    /// Gives the files their times, and the catalog what a stat shows here of them.
    fn place(&self, db: &str, source: &str, target: &str) {
        let db = Connection::open(self.box_.path(&format!("state/{db}.db"))).unwrap();
        let mut rows = db.prepare("SELECT path, source, source_mtime, mtime FROM published").unwrap();
        type Row = (Vec<u8>, Option<Vec<u8>>, i64, i64);
        let rows: Vec<Row> = rows
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (path, from, source_mtime, target_mtime) in rows {
            let from = from.filter(|f| !f.is_empty()).unwrap_or_else(|| path.clone());
            let (from, to) = (below(&self.box_.path(source), &from), below(&self.box_.path(target), &path));
            set_mtime(&to, target_mtime);
            let there = fs::metadata(&to).unwrap();
            let version = format!("{:x}-{:x}-{:x}", there.ino(), there.len(), mtime(&there));
            db.execute("UPDATE published SET version = ?2 WHERE path = ?1", params![path, version]).unwrap();
            if from.exists() {
                set_mtime(&from, source_mtime);
            }
        }
    }

    fn place_job(&self, job: &str, source: &str) {
        let root = self.box_.path(source);
        let db = Connection::open(self.box_.path(&format!("state/{job}/job.db"))).unwrap();
        let mut rows = db.prepare("SELECT path, mtime FROM seen").unwrap();
        let seen: BTreeMap<Vec<u8>, i64> =
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        let meta = fs::metadata(&root).unwrap();
        db.execute("UPDATE place SET device = ?1, inode = ?2", params![meta.dev() as i64, meta.ino() as i64])
            .unwrap();
        for (path, ns) in &seen {
            let file = below(&root, path);
            if file.exists() {
                set_mtime(&file, *ns);
            }
        }
        // The change times last: everything before moved them.
        for path in files(&root) {
            let meta = fs::metadata(root.join(&path)).unwrap();
            let (ctime, inode, device) =
                (meta.ctime() * 1_000_000_000 + meta.ctime_nsec(), meta.ino() as i64, meta.dev() as i64);
            let path = path.as_os_str().as_bytes();
            db.execute(
                "UPDATE seen SET ctime = ?2, inode = ?3, device = ?4 WHERE path = ?1",
                params![path, ctime, inode, device],
            )
            .unwrap();
            for catalog in fs::read_dir(self.box_.path(&format!("state/{job}"))).unwrap() {
                let catalog = catalog.unwrap().path();
                if catalog.extension().is_some_and(|e| e == "db") && !catalog.ends_with("job.db") {
                    let sql = "UPDATE published SET source_ctime = ?2, source_inode = ?3 \
                               WHERE path = ?1 AND source = x'' OR source = ?1";
                    Connection::open(catalog).unwrap().execute(sql, params![path, ctime, inode]).unwrap();
                }
            }
        }
    }

    fn offsite(&self, args: &[&str]) -> Offsite {
        let config = self.box_.text("offsite.toml");
        self.box_.offsite().args(["--config", &config, "--json"]).args(args.iter().copied())
    }

    fn images(&self, job: &str, target: &str) -> Vec<serde_json::Value> {
        let ran = self.offsite(&["chains", job, "--target", target]).run().expect(0);
        let all = ran.json();
        let sets = all["chains"][0]["sets"].as_array().unwrap().clone();
        sets.iter().flat_map(|set| set["images"].as_array().unwrap().clone()).collect()
    }
}

fn events(ran: &Ran, wanted: &str) -> Vec<serde_json::Value> {
    ran.events().into_iter().filter(|e| e["event"] == wanted).collect()
}

/// What a run may say on a target whose chains are as these are: the old version said the same.
const SAID_BEFORE: [&str; 2] = ["gap", "not-restorable"];

#[test]
fn the_first_run_after_the_upgrade_sends_deletes_and_warns_of_nothing() {
    let up = Upgrade::new();
    let before: Vec<_> = ["a", "b", "c"].map(|t| tree(&up.box_.path(t))).into();
    // A look changes nothing and says the same as after the run.
    let looked = [up.images("daily", "mirror"), up.images("daily", "plain"), up.images("daily", "fresh")];
    let ran = up.offsite(&["run", "daily"]).run().expect(0);
    for end in events(&ran, "finished") {
        assert_eq!(
            (&end["sent_bytes"], &end["images"], &end["deleted"]),
            (&0.into(), &0.into(), &0.into()),
            "{}",
            ran.all()
        );
    }
    assert_eq!(events(&ran, "finished").len(), 3);
    for event in ["published", "deleted", "image_failed", "skipped"] {
        assert!(events(&ran, event).is_empty(), "{event}: {}", ran.all());
    }
    for notice in events(&ran, "notice") {
        assert!(SAID_BEFORE.contains(&notice["code"].as_str().unwrap()), "{notice}");
    }
    assert_eq!(before, ["a", "b", "c"].map(|t| tree(&up.box_.path(t))));
    let now = [up.images("daily", "mirror"), up.images("daily", "plain"), up.images("daily", "fresh")];
    assert_eq!(looked, now);
    for image in now[0].iter().chain(&now[1]) {
        assert_eq!(image["restorable"], true, "{image}");
    }
    // Every image that hangs on another one says on which content now, and every manifest is signed.
    for (target, folder) in [("mirror", "a"), ("plain", "b")] {
        let db = Connection::open(up.box_.path(&format!("state/daily/{target}.db"))).unwrap();
        let linked: i64 = db
            .query_row(
                "SELECT count(*) FROM published p JOIN published q ON q.path = p.parent \
                 WHERE p.parent_blake3 = q.blake3",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let hang = up.images("daily", target).iter().filter(|i| !i["parent"].is_null()).count();
        assert_eq!(linked, i64::try_from(hang).unwrap(), "{target}");
        let signed = own_files(&up.box_.path(folder))
            .iter()
            .filter(|f| fs::read_to_string(up.box_.path(folder).join(f)).is_ok_and(|t| t.contains("\"mac\"")))
            .count();
        assert!(signed >= 9, "{target}: {signed}");
    }
    // Nor the run after that.
    let again = up.offsite(&["run", "daily"]).run().expect(0);
    assert!(
        events(&again, "published").is_empty() && events(&again, "deleted").is_empty(),
        "{}",
        again.all()
    );
}

#[test]
fn what_the_old_version_was_killed_at_is_finished() {
    let up = Upgrade::new();
    let ran = up.offsite(&["run", "cut"]).run().expect(0);
    assert_eq!(tree(&up.box_.path("cut/source")), tree(&up.box_.path("cut/target")), "{}", ran.all());
    assert_eq!(debris(&up.box_.path("cut/target")), Vec::<PathBuf>::new(), "{}", ran.all());
    for image in up.images("cut", "vault") {
        assert_eq!(image["restorable"], true, "{image}");
    }
    // What was visible, and what was staged, is not sent again.
    let sent: u64 = events(&ran, "finished").iter().filter_map(|e| e["sent_bytes"].as_u64()).sum();
    assert_eq!(sent, 0, "{}", ran.all());
}

#[test]
fn with_the_old_state_lost_its_manifests_make_everything_known_and_unproven() {
    let up = Upgrade::new();
    fs::remove_dir_all(up.box_.path("state/daily")).unwrap();
    let ran = up.offsite(&["run", "daily"]).run().expect(0);
    for end in events(&ran, "finished") {
        assert_eq!((&end["sent_bytes"], &end["deleted"]), (&0.into(), &0.into()), "{}", ran.all());
    }
    let told = |ran: &Ran| events(ran, "notice").iter().filter(|n| n["code"] == "manifest-unproven").count();
    assert_eq!(told(&ran), 3, "one for each target: {}", ran.all());
    let images = up.images("daily", "plain");
    assert!(images.iter().all(|i| i["unproven"] == true && i["restorable"] == true), "{images:?}");
    // New increments go on.
    let new = up.box_.path("source/srv/web@c_20260301_d00_00003_i00002.aii");
    fs::write(&new, "the next increment").unwrap();
    let ran = up.offsite(&["run", "daily"]).run().expect(0);
    assert_eq!(events(&ran, "published").len(), 3, "{}", ran.all());
    for target in ["mirror", "plain", "fresh"] {
        up.offsite(&["target", "accept", "daily", "--target", target]).run().expect(0);
    }
    let ran = up.offsite(&["run", "daily"]).run().expect(0);
    assert_eq!(told(&ran), 0, "{}", ran.all());
    assert!(up.images("daily", "plain").iter().all(|i| i["unproven"] == false));
}
