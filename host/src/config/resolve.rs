//! Secret references -> values: late, only for the target that needs them, and never shown.
//!
//! The supervisor resolves; a worker gets the values on its standard input. A file that everybody can read is refused,
//! because a secret that is no secret any more should be noticed. Values are wiped when dropped.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::secrets::describe;
use super::{SecretRef, Target};
use crate::error::{Error, Kind, Result};
use crate::run::protocol::SecretValues;

/// Longest secret, bytes: a private key with certificates fits many times.
const LONGEST: usize = 256 * 1024;

/// A command that asks a locked key ring must not hold a run for ever.
const COMMAND_TIME: Duration = Duration::from_secs(60);

/// A file on a share that hangs, neither.
const FILE_TIME: Duration = Duration::from_secs(8);

/// Every secret of a target.
pub async fn secrets(target: &Target) -> Result<SecretValues> {
    let mut values = SecretValues::default();
    for (name, reference) in &target.secrets {
        values.0.insert(name.clone(), secret(&target.name, name, reference).await?);
    }
    Ok(values)
}

/// One secret; line ends behind it are dropped.
pub async fn secret(target: &str, name: &str, reference: &SecretRef) -> Result<Zeroizing<String>> {
    let fail = |why: String| {
        Error::new(Kind::Config, format!("cannot get the secret '{name}' from {}", describe(reference)))
            .on(format!("target '{target}'"))
            .because(why)
    };
    let bytes = match reference {
        SecretRef::Env(var) => {
            let value = std::env::var_os(var).ok_or_else(|| {
                fail("it is not set".to_owned()).hint(format!("export {var} before the run"))
            })?;
            Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value))
        }
        SecretRef::File(path) => read_elsewhere(path).await.map_err(|(why, hint)| match hint {
            Some(hint) => fail(why).hint(hint),
            None => fail(why),
        })?,
        SecretRef::Command(words) => command(words).await.map_err(fail)?,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| fail("it is not UTF-8".to_owned()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(fail("it is empty".to_owned()));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Whether a reference could be resolved now, without resolving it; only files can be told. Errors: what is wrong, and
/// what to do.
pub fn fit(reference: &SecretRef) -> std::result::Result<(), (String, Option<String>)> {
    match reference {
        SecretRef::File(path) => open(path).map(|_| ()),
        SecretRef::Env(_) | SecretRef::Command(_) => Ok(()),
    }
}

fn open(path: &Path) -> std::result::Result<std::fs::File, (String, Option<String>)> {
    let io = |e: std::io::Error| (format!("'{}' cannot be read: {e}", path.display()), None);
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err((format!("'{}' is no regular file", path.display()), None));
    }
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.mode() & 0o007 != 0 {
        let hint = format!("chmod 600 '{}', and change the secret", path.display());
        return Err((
            format!("everybody on this machine may read or write '{}'", path.display()),
            Some(hint),
        ));
    }
    Ok(file)
}

/// On a thread of its own: a file on a share that hangs must not hold the supervisor, which serves every target.
async fn read_elsewhere(path: &Path) -> std::result::Result<Zeroizing<Vec<u8>>, (String, Option<String>)> {
    let (give, take) = tokio::sync::oneshot::channel();
    let path = path.to_owned();
    let shown = path.display().to_string();
    let reader = std::thread::Builder::new().name("secret".to_owned()).spawn(move || {
        // Nobody waits any more: the time was up.
        let _ = give.send(file(&path));
    });
    reader.map_err(|e| (e.to_string(), None))?;
    match tokio::time::timeout(FILE_TIME, take).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err(("the thread that reads it ended".to_owned(), None)),
        Err(_) => Err((
            format!("'{shown}' could not be read within {} s", FILE_TIME.as_secs()),
            Some("check that the disk or share it lies on answers".to_owned()),
        )),
    }
}

fn file(path: &Path) -> std::result::Result<Zeroizing<Vec<u8>>, (String, Option<String>)> {
    let io = |e: std::io::Error| (e.to_string(), None);
    let mut file = open(path)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.by_ref().take(LONGEST as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > LONGEST {
        return Err((format!("it is longer than {LONGEST} bytes"), None));
    }
    Ok(bytes)
}

async fn command(words: &[String]) -> std::result::Result<Zeroizing<Vec<u8>>, String> {
    use tokio::io::AsyncReadExt;
    let (program, arguments) = words.split_first().ok_or("it is empty")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let out = child.stdout.take().ok_or("its output cannot be read")?;
    let work = async {
        out.take(LONGEST as u64 + 1).read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
        child.wait().await.map_err(|e| e.to_string())
    };
    let status = tokio::time::timeout(COMMAND_TIME, work)
        .await
        .map_err(|_| format!("it did not end within {} s", COMMAND_TIME.as_secs()))??;
    if !status.success() {
        return Err(format!("it failed ({status})"));
    }
    if bytes.len() > LONGEST {
        return Err(format!("it gave more than {LONGEST} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn get(reference: SecretRef) -> Result<Zeroizing<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(secret("nas", "password", &reference))
    }

    #[test]
    fn a_world_readable_secret_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let error = get(SecretRef::File(path.clone())).unwrap_err();
        assert!(error.to_string().contains("everybody"), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(get(SecretRef::File(path)).unwrap().as_str(), "hunter2");
    }

    #[test]
    fn a_failing_command_is_reported_without_its_output() {
        let failing = ["sh", "-c", "echo hunter2; exit 3"].map(str::to_owned).to_vec();
        let error = get(SecretRef::Command(failing)).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && !error.contains("hunter2"), "{error}");
        let good = ["printf", "hunter2"].map(str::to_owned).to_vec();
        assert_eq!(get(SecretRef::Command(good)).unwrap().as_str(), "hunter2");
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = get(SecretRef::Env("OFFSITE_TEST_NOT_SET".into())).unwrap_err().to_string();
        assert!(error.contains("OFFSITE_TEST_NOT_SET") && error.contains("not set"), "{error}");
    }
}
