//! A target's URL as the user wrote it -> the URL that a plugin opens: plain paths made absolute, credentials refused.
//!
//! A plain path stays a plain path (the plugin that offers the scheme `file` takes it). Passwords are refused here,
//! before anything can print or store the URL; a user name is no secret and stays.

use std::path::{Component, Path, PathBuf};

/// The scheme in lower case; `None` for a plain path. A single letter before a colon is no scheme.
pub fn scheme(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once(':')?;
    let mut letters = scheme.chars();
    let good = scheme.len() > 1
        && letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    good.then(|| scheme.to_ascii_lowercase())
}

/// The absolute, password-free form; a relative path is taken from `base`. Errors: what is wrong and what to write
/// instead.
pub fn normalise(text: &str, base: &Path) -> Result<String, (String, Option<String>)> {
    let text = text.trim();
    if text.is_empty() {
        return Err(("is empty".to_owned(), Some("give a path or a URL".to_owned())));
    }
    if text.chars().any(char::is_control) {
        return Err(("contains a control character".to_owned(), None));
    }
    if scheme(text).is_none() {
        return match tidy(&base.join(expand_home(text))).into_os_string().into_string() {
            Ok(path) => Ok(path),
            Err(_) => Err(("its directory's name is not UTF-8".to_owned(), None)),
        };
    }
    refuse_password(text)?;
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    if matches!(scheme, "file" | "folder") && !rest.starts_with('/') {
        if rest.is_empty() {
            return Err(("names no folder".to_owned(), Some(format!("write {scheme}:/path"))));
        }
        // Workers and the user do not share a working directory for ever.
        let path = tidy(&base.join(rest)).into_os_string().into_string();
        return path
            .map(|path| format!("{scheme}:{path}"))
            .map_err(|_| ("its directory's name is not UTF-8".to_owned(), None));
    }
    Ok(text.to_owned())
}

/// A password in the authority, or what looks like one in the query.
fn refuse_password(url: &str) -> Result<(), (String, Option<String>)> {
    let hint = "remove it, and name where it comes from: credentials = { password = { env = \"NAME\" } }";
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A '/', '?' or '#' inside a password ends the authority early: then what follows the colon is no port, and an '@'
    // comes later.
    let broken_off = authority
        .split_once(':')
        .is_some_and(|(_, port)| !port.chars().all(|c| c.is_ascii_digit()) && rest.contains('@'));
    let in_user = match authority.rsplit_once('@') {
        Some((user, _)) => user.contains(':'),
        None => broken_off && !authority.starts_with('['),
    };
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let in_query = query.split('&').any(|pair| {
        pair.split_once('=')
            .is_some_and(|(key, value)| !value.is_empty() && super::secrets::looks_secret(key))
    });
    if in_user || in_query {
        return Err(("contains a password".to_owned(), Some(hint.to_owned())));
    }
    Ok(())
}

/// What may be shown of a URL that was refused: everything from a password on is left out.
pub fn shown(url: &str) -> String {
    match refuse_password(url) {
        Ok(()) => url.to_owned(),
        Err(_) => format!("{}://…", scheme(url).unwrap_or_default()),
    }
}

/// The local directory behind a target's URL; `None` for other schemes.
pub fn local_path(url: &str) -> Option<PathBuf> {
    match scheme(url).as_deref() {
        None => Some(PathBuf::from(url)),
        Some("file" | "folder") => {
            let rest = url.split_once(':').map_or("", |(_, rest)| rest);
            // As the folder plugin reads them: `folder:` followed by a path is the path itself, URLs are percent-encoded.
            let folder = scheme(url).as_deref() == Some("folder");
            let encoded = match rest.strip_prefix("//") {
                None if folder => return Some(PathBuf::from(rest)),
                None => rest,
                Some(host) => host.strip_prefix("localhost").filter(|p| p.starts_with('/')).unwrap_or(host),
            };
            let decoded = percent_encoding::percent_decode_str(encoded).collect::<Vec<u8>>();
            let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(decoded);
            Some(PathBuf::from(name))
        }
        Some(_) => None,
    }
}

fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

/// An absolute path without `.` and without trailing slashes; `..` stays, because a link may be before it.
pub fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}

/// A directory the user named, absolute; `~/` and relative paths resolved.
pub fn directory(text: &str, base: &Path) -> PathBuf {
    tidy(&base.join(expand_home(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_become_absolute_and_urls_stay() {
        let base = Path::new("/base");
        for (text, url) in [
            ("to", "/base/to"),
            ("./to/", "/base/to"),
            ("/mnt/a", "/mnt/a"),
            ("c:odd", "/base/c:odd"),
            ("sftp://me@host/dir", "sftp://me@host/dir"),
            ("file:///mnt/a%20b", "file:///mnt/a%20b"),
            ("folder:sub/a%20b", "folder:/base/sub/a%20b"),
        ] {
            assert_eq!(normalise(text, base).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_shown() {
        for url in [
            "sftp://me:hunter2@host/",
            "ftp://me:hunter2/x@host/dir",
            "ftp://me:hunter2#x@host/dir",
            "https://host/dir?token=hunter2",
        ] {
            let error = normalise(url, Path::new("/")).unwrap_err();
            assert_eq!(error.0, "contains a password", "{url}");
            assert!(!shown(url).contains("hunter2"), "{url}");
        }
        assert!(normalise("https://host:8443/a@b", Path::new("/")).is_ok());
    }

    #[test]
    fn the_folder_behind_a_url_is_known() {
        assert_eq!(local_path("file:///mnt/a%20b"), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(local_path("file://localhost/mnt/a"), Some(PathBuf::from("/mnt/a")));
        assert_eq!(local_path("folder:/mnt/a%20b"), Some(PathBuf::from("/mnt/a%20b")));
        assert_eq!(local_path("/mnt/a"), Some(PathBuf::from("/mnt/a")));
        assert_eq!(local_path("s3://bucket"), None);
    }
}
