//! What this server can do: from the URL, what the server says of itself (OPTIONS), and, at a Nextcloud or ownCloud, its
//! capabilities. Nothing is written to find out.

use offsite_plugin_api::{Call, Capabilities, Error, NameRules, PartSizes, Replace, Result, Resume};
use url::Url;

use super::chunked::{LARGEST_PART, MOST_PARTS, SMALLEST_PART};
use super::client::WebDav;
use super::config::{Chunked, Config, invalid};
use super::http::Request;
use super::names::{Place, segments};
use super::ranges;

/// Ranges of one file in flight, where the server takes chunks or ranges.
const MOST_STREAMS: u32 = 8;

#[derive(Clone)]
pub struct Facts {
    /// As the server names itself.
    pub server: Option<String>,
    /// The header `DAV` of its answer to OPTIONS.
    pub classes: Option<String>,
    /// Product and version of a Nextcloud or ownCloud.
    pub cloud: Option<String>,
    /// Where chunks go.
    pub uploads: Option<Place>,
    /// Whether it writes ranges into a file.
    pub ranges: bool,
}

/// A Nextcloud's or ownCloud's own addresses, from `…/remote.php/dav/files/USER/…`.
struct Cloud {
    capabilities: Url,
    uploads: Url,
}

fn cloud(root: &Url) -> Option<Cloud> {
    let parts: Vec<&str> = root.path().split('/').collect();
    let decoded = segments(root.path());
    // Doubled slashes would shift one against the other: such a URL is no Nextcloud's.
    if parts.iter().filter(|p| !p.is_empty()).count() != parts.len() - 2 {
        return None;
    }
    let at =
        decoded.windows(3).position(|w| w == [&b"remote.php"[..], b"dav", b"files"].map(<[u8]>::to_vec))?;
    let user = parts.get(at + 4).filter(|u| !u.is_empty())?;
    let prefix = parts[..=at].join("/");
    let with = |path: String| {
        let mut url = root.clone();
        url.set_path(&path);
        url
    };
    let mut capabilities = with(format!("{prefix}/ocs/v1.php/cloud/capabilities"));
    capabilities.set_query(Some("format=json"));
    Some(Cloud { capabilities, uploads: with(format!("{prefix}/remote.php/dav/uploads/{user}/")) })
}

/// Errors: `InvalidConfig` for chunks at an address that has no place for them.
pub fn fits(config: &Config) -> Result<()> {
    if config.chunked == Chunked::Always && cloud(&config.root).is_none() {
        return Err(invalid("chunked = \"always\" needs a Nextcloud or ownCloud address")
            .with_context("hint", "write https://host/remote.php/dav/files/USER/folder"));
    }
    Ok(())
}

pub fn find(dav: &WebDav, call: &Call) -> Result<Facts> {
    let request = Request::new("OPTIONS", dav.config.root.clone());
    let answer = dav.http.send(call, &request, "reach", "the server")?;
    // The folder may be missing still, and some servers refuse OPTIONS: what they say of themselves counts all the same.
    if matches!(answer.code(), 401 | 407) || answer.status().is_server_error() && answer.code() != 501 {
        return Err(dav.http.fail(call, answer, "reach", "the server"));
    }
    let kept = |name: &str| {
        // A list may come as several headers (RFC 9110 §5.3).
        let texts: Vec<&str> =
            answer.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let text: String = texts.join(", ").chars().filter(|c| !c.is_control()).take(400).collect();
        (!texts.is_empty()).then_some(text)
    };
    let (server, classes) = (kept("server"), kept("dav"));
    dav.http.drain(call, answer);
    let ranges = dav.config.chunked != Chunked::Never && ranges::understood(classes.as_deref());
    let mut facts = Facts { server, classes, cloud: None, uploads: None, ranges };
    let Some(cloud) = cloud(&dav.config.root) else { return Ok(facts) };
    let (product, chunking) = ask(dav, call, &cloud)?;
    facts.cloud = product;
    facts.uploads = match dav.config.chunked {
        Chunked::Never => None,
        Chunked::Auto if !chunking => None,
        _ => Some(Place::new(cloud.uploads)),
    };
    Ok(facts)
}

/// Product and version, and whether chunked uploads (of version 1.0, "NG") are offered.
fn ask(dav: &WebDav, call: &Call, cloud: &Cloud) -> Result<(Option<String>, bool)> {
    let request = Request::new("GET", cloud.capabilities.clone())
        .header("ocs-apirequest", "true")
        .header("accept", "application/json");
    let answer = dav.http.send(call, &request, "ask the capabilities of", "the server")?;
    if answer.status().is_server_error() {
        return Err(dav.http.fail(call, answer, "ask the capabilities of", "the server"));
    }
    if !answer.status().is_success() {
        dav.http.drain(call, answer);
        return Ok((None, false));
    }
    let text = dav.http.text(call, answer, 1 << 20, dav.http.idle);
    call.proceed()?;
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else { return Ok((None, false)) };
    let data = &json["ocs"]["data"];
    let version = data["version"]["string"].as_str().filter(|v| v.len() < 100);
    let name = data["capabilities"]["theming"]["name"].as_str().filter(|n| n.len() < 100);
    let product = version
        .map(|v| format!("{} {v}", name.unwrap_or("Nextcloud or ownCloud")).escape_debug().to_string());
    Ok((product, data["capabilities"]["dav"]["chunking"].as_str().is_some_and(|c| !c.is_empty())))
}

impl Facts {
    /// Whether `X-OC-MTime` is kept, and `lastmodified` can be set.
    pub fn keeps_mtime(&self) -> bool {
        self.cloud.is_some()
    }

    pub fn capabilities(&self, config: &Config) -> Capabilities {
        let chunks = self.uploads.is_some();
        let resume = match (chunks, self.ranges) {
            (true, _) => Resume::Parts,
            (false, true) => Resume::Ranges,
            (false, false) => Resume::None,
        };
        Capabilities {
            durable_checkpoints: false,
            resume,
            // Servers delete the old file before an overwriting MOVE (mod_dav does): the host swaps.
            replace: Replace::None,
            conditional_publish: false,
            staged_readable: true,
            names: self.names(),
            part_sizes: chunks.then_some(PartSizes {
                smallest: config.chunk_size.min(SMALLEST_PART),
                largest: LARGEST_PART,
                most_parts: MOST_PARTS,
            }),
            mtime_precision_ns: self.keeps_mtime().then_some(1_000_000_000),
            // A COPY is visible before it is whole.
            copy: false,
            rename: true,
            parallel_ranges: if resume == Resume::None { 1 } else { MOST_STREAMS },
            ..Capabilities::default()
        }
    }

    fn names(&self) -> NameRules {
        let server = self.server.as_deref().unwrap_or_default();
        let mut names = NameRules {
            utf8_only: true,
            // Percent-encoded, three bytes for one, a path has to fit into the 8 KiB that servers take as request line.
            longest_path: 2048,
            ..NameRules::default()
        };
        if server.starts_with("Microsoft-") {
            names.case_sensitive = false;
            names.refused = "<>:\"\\|?*".chars().chain('\u{1}'..='\u{1f}').collect();
        }
        if self.cloud.is_some() {
            // The file name of Nextcloud's database column holds 250 characters.
            names.longest_name = 250;
            names.refused = "\\".to_owned();
        }
        names
    }
}

impl WebDav {
    /// Asked once; an error is not kept. Nobody waits for another's question: each call has its own time.
    pub(super) fn facts(&self, call: &Call) -> Result<Facts, Error> {
        let known = || self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(facts) = &*known() {
            return Ok(facts.clone());
        }
        let found = find(self, call)?;
        // Who was first counts: the answer never changes while the target is open.
        Ok(known().get_or_insert(found).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nextcloud_is_known_by_its_address() {
        let found =
            cloud(&Url::parse("https://c/nc/remote.php/dav/files/j%C3%BCrgen/backup/").unwrap()).unwrap();
        assert_eq!(found.uploads.as_str(), "https://c/nc/remote.php/dav/uploads/j%C3%BCrgen/");
        assert_eq!(found.capabilities.as_str(), "https://c/nc/ocs/v1.php/cloud/capabilities?format=json");
        let at_top = cloud(&Url::parse("https://c/remote.php/dav/files/me/").unwrap()).unwrap();
        assert_eq!(at_top.uploads.as_str(), "https://c/remote.php/dav/uploads/me/");
        for other in [
            "https://c/",
            "https://c/remote.php/webdav/x/",
            "https://c/remote.php/dav/files/",
            "https://c//remote.php/dav/files/me/",
        ] {
            assert!(cloud(&Url::parse(other).unwrap()).is_none(), "{other}");
        }
    }
}
