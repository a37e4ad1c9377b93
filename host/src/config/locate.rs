//! Which configuration file is read: the one named, else the first of the working directory's, the user's, the system's.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// The places in order.
pub fn places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("offsite.toml")];
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    places.extend(user.map(|dir| dir.join("offsite/offsite.toml")));
    places.push(PathBuf::from("/etc/offsite/offsite.toml"));
    places
}

/// Errors: `Config` where there is none, naming every place that was looked at.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let places = places();
    places.iter().find(|p| p.exists()).cloned().ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Error::new(Kind::Config, "there is no configuration file")
            .because(format!("looked for {}", looked.join(", ")))
            .hint("write one, name it with --config, or use --source DIR --to URL")
    })
}
