//! The claim marker and the place behind it.

use super::mem::Mem;
use super::{Bench, ME, OTHER, path};
use crate::error::Kind;
use crate::run::killpoint::in_thread::killed_at;
use crate::target::{Site, Who, marker, names};

fn who(job: &str) -> Who {
    Who { job: job.into(), target: "nas".into(), state: "one".into(), host: Some("here".into()) }
}

fn refused<T: std::fmt::Debug>(result: crate::error::Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind, Kind::TargetRefused, "{error}");
    assert!(error.hint.is_some(), "no hint: {error}");
    error.to_string()
}

#[test]
fn a_target_is_claimed_once_and_then_mine() {
    for mem in [Mem::atomic(), Mem::plain()] {
        let bench = Bench::new(mem);
        assert!(marker::claim(&bench.site(), &who("job")).unwrap());
        assert!(!marker::claim(&bench.site(), &who("job")).unwrap());
        assert!(marker::verify(&bench.site(), &who("job")).unwrap());
    }
}

#[test]
fn another_jobs_or_installations_target_is_refused_until_taken_over() {
    for mem in [Mem::atomic(), Mem::plain()] {
        let bench = Bench::new(mem.clone());
        marker::claim(&bench.site(), &who("job")).unwrap();
        let theirs = Bench::new(mem);
        let said = refused(marker::claim(&theirs.site(), &who("other")));
        assert!(said.contains("the job 'job'") && said.contains("take-over"), "{said}");
        let far = Site { installation: OTHER, ..theirs.site() };
        let said = refused(marker::claim(&far, &who("job")));
        assert!(said.contains("another installation"), "{said}");
        assert!(marker::take_over(&far, &who("job")).unwrap().contains("taken over"));
        assert!(!marker::claim(&far, &who("job")).unwrap());
        refused(marker::claim(&bench.site(), &who("job")));
    }
}

#[test]
fn two_users_of_one_machine_and_two_machines_of_one_id_are_two_writers() {
    for (other, said) in [
        (Who { state: "another".into(), ..who("job") }, "another state directory"),
        (Who { host: Some("clone".into()), ..who("job") }, "on the machine 'here', this one is 'clone'"),
    ] {
        let bench = Bench::new(Mem::atomic());
        marker::claim(&bench.site(), &who("job")).unwrap();
        let words = refused(marker::claim(&bench.site(), &other));
        assert!(words.contains(said) && words.contains("take-over"), "{words}");
        marker::take_over(&bench.site(), &other).unwrap();
        assert!(!marker::claim(&bench.site(), &other).unwrap());
        refused(marker::claim(&bench.site(), &who("job")));
    }
    // What does not tell them says nothing: a claim of before, a container whose name changes.
    let bench = Bench::new(Mem::atomic());
    let text = format!(r#"{{"version":1,"installation":"{ME}","job":"job","target":"nas","created":0}}"#);
    bench.mem.put(&path(names::MARKER), text.as_bytes(), 1);
    assert!(!marker::claim(&bench.site(), &who("job")).unwrap());
    let bench = Bench::new(Mem::atomic());
    marker::claim(&bench.site(), &who("job")).unwrap();
    assert!(!marker::claim(&bench.site(), &Who { host: None, ..who("job") }).unwrap());
}

#[test]
fn a_state_directory_is_known_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (state, link) = (dir.path().join("deep/state"), dir.path().join("link"));
    let before = marker::state_id(&state);
    std::fs::create_dir_all(&state).unwrap();
    std::os::unix::fs::symlink(&state, &link).unwrap();
    assert_eq!(marker::state_id(&state), before, "lost and begun anew");
    assert_eq!(marker::state_id(&link), before);
    assert_ne!(marker::state_id(dir.path()), before);
}

#[test]
fn a_marker_that_is_gone_while_the_catalog_knows_the_target_is_refused() {
    let bench = Bench::new(Mem::atomic());
    marker::claim(&bench.site(), &who("job")).unwrap();
    bench.mem.disk().files.clear();
    let said = refused(marker::claim(&bench.site(), &who("job")));
    assert!(said.contains("mounted"), "{said}");
    assert!(bench.mem.disk().files.is_empty());
    // The catalog is lost too: what is there is adopted.
    let fresh = Bench::new(bench.mem.clone());
    assert!(marker::claim(&fresh.site(), &who("job")).unwrap());
}

#[test]
fn a_place_that_became_the_root_file_system_is_refused() {
    let bench = Bench::new(Mem::atomic());
    let root = rustix::fs::stat("/").unwrap().st_dev;
    bench.mem.disk().place = Some(format!(r#"{{"device":{},"inode":2,"fs":"nfs"}}"#, root.wrapping_add(1)));
    marker::claim(&bench.site(), &who("job")).unwrap();
    bench.mem.disk().place = Some(format!(r#"{{"device":{root},"inode":9,"fs":"ext4"}}"#));
    let said = refused(marker::claim(&bench.site(), &who("job")));
    assert!(said.contains("root file system"), "{said}");
    marker::take_over(&bench.site(), &who("job")).unwrap();
    assert!(!marker::claim(&bench.site(), &who("job")).unwrap());
}

#[test]
fn a_marker_that_is_none_is_refused() {
    for content in [
        &b"{"[..],
        b"{\"version\":99,\"installation\":\"0123abcd\",\"job\":\"job\",\"target\":\"nas\",\"created\":0}",
        &[b' '; 70_000],
    ] {
        let bench = Bench::new(Mem::atomic());
        bench.mem.put(&path(names::MARKER), content, 1);
        refused(marker::claim(&bench.site(), &who("job")));
    }
}

#[test]
fn claiming_and_taking_over_killed_anywhere_can_be_repeated() {
    for make in [Mem::atomic, Mem::plain] {
        for at in 1.. {
            let bench = Bench::new(make());
            let done = killed_at(at, || marker::claim(&bench.site(), &who("job")).unwrap()).is_some();
            marker::claim(&bench.site(), &who("job")).unwrap();
            let far = Bench::new(bench.mem.clone());
            let site = Site { installation: OTHER, ..far.site() };
            let _ = killed_at(at, || marker::take_over(&site, &who("job")).unwrap());
            marker::take_over(&site, &who("job")).unwrap();
            assert!(!marker::claim(&site, &who("job")).unwrap());
            if done {
                assert!(at > 3);
                break;
            }
        }
    }
    assert_ne!(ME, OTHER);
}
