//! From a configuration to a client: credentials, TLS, region, and what the server can do.
//!
//! Explicit keys make a static provider, and no metadata service is asked; without them the standard AWS chain (environment,
//! profile files, single sign-on, container and instance roles) is. Retries and stalled-stream protection are off: the
//! host retries, and a throttle looks like a stall.

use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_smithy_http_client::{Builder as HttpBuilder, Connector, proxy::ProxyConfig, tls};
use offsite_plugin_api::{Error, ErrorKind, Host, Result, Secrets};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::digest::Algorithm;
use super::endpoint::{self, Service};
use super::error;

const CONNECT: Duration = Duration::from_secs(15);
/// Under which what was found out is remembered.
const STATE: &str = "s3.found";

/// A client for the bucket, where it is, with what its server can do.
pub struct Connection {
    pub client: Client,
    pub service: Service,
    pub region: String,
    /// As the server names itself.
    pub server: Option<String>,
}

impl Connection {
    pub fn algorithm(&self, config: &Config) -> Algorithm {
        config.checksum.unwrap_or(self.service.checksum)
    }
}

/// What an earlier run found out about the place; of no use for another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    identity: String,
    /// As configured then.
    given: Option<String>,
    pub region: Option<String>,
    pub service: Option<String>,
    pub server: Option<String>,
}

impl Found {
    pub fn load(config: &Config, host: &dyn Host) -> Self {
        let stored = host.state_get(STATE).ok().flatten();
        let found: Option<Self> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let fresh = Self { identity: config.identity(), given: config.region.clone(), ..Self::default() };
        found.filter(|f| f.identity == fresh.identity && f.given == fresh.given).unwrap_or(fresh)
    }

    pub fn store(&self, host: &dyn Host) {
        if let Ok(bytes) = serde_json::to_vec(self) {
            // What cannot be remembered is found out again.
            let _ = host.state_put(STATE, &bytes);
        }
    }
}

/// The client for the region that is known, asked for, or found out now. `found` is filled in.
pub async fn connect(
    config: &Config,
    host: &Arc<dyn Host>,
    secrets: &Secrets,
    found: &mut Found,
) -> Result<Connection> {
    let http = http_client(config)?;
    let (credentials, usual) = credentials(config, secrets, &http).await?;
    let custom = config.endpoint.is_some();
    if custom && config.service.is_none() && found.service.is_none() {
        ask(config, &http, found).await?;
        found.store(&**host);
    }
    let service = config
        .service
        .or_else(|| found.service.as_deref().and_then(endpoint::named))
        .unwrap_or_else(|| endpoint::of_server(""));
    if config.retention.is_some() && !service.object_lock {
        let message = format!("Object Lock is not known of this kind of server ({})", service.name);
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_context("hint", "drop retention_mode, or name the server by the option 'service'"));
    }
    if !custom && found.region.is_none() {
        // Amazon's: the bucket tells its region, whatever region is asked.
        let asked = config.region.clone().or(usual.clone()).unwrap_or_else(|| service.region.to_owned());
        let client = client(config, &http, Some(&credentials), &asked, service);
        found.region = locate(config, &client).await?;
        found.store(&**host);
    }
    let region = found
        .region
        .clone()
        .or_else(|| config.region.clone())
        .or(usual.filter(|_| !custom))
        .unwrap_or_else(|| service.region.to_owned());
    let client = client(config, &http, Some(&credentials), &region, service);
    Ok(Connection { client, service, region, server: found.server.clone() })
}

fn client(
    config: &Config,
    http: &SharedHttpClient,
    credentials: Option<&SharedCredentialsProvider>,
    region: &str,
    service: Service,
) -> Client {
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.clone())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(config.path_style.unwrap_or(config.endpoint.is_some() && service.path_style));
    builder = match credentials {
        Some(credentials) => builder.credentials_provider(credentials.clone()),
        None => builder.allow_no_auth(),
    };
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint.url());
    }
    Client::from_conf(builder.build())
}

/// With the environment's proxy; the system's trust store and the configured file.
fn http_client(config: &Config) -> Result<SharedHttpClient> {
    let proxy = ProxyConfig::from_env();
    if config.endpoint.as_ref().is_some_and(|e| !e.tls) && config.ca_file.is_none() {
        return Ok(HttpBuilder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder().proxy_config(proxy.clone()).enable_tcp_nodelay(true);
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(|c| c.sleep_impl()));
            connector.build_http()
        }));
    }
    let mut trust = tls::TrustStore::default();
    if let Some(path) = &config.ca_file {
        trust = trust.with_pem_certificate(certificates(path)?);
    }
    let context = tls::TlsContext::builder().with_trust_store(trust).build().map_err(|e| {
        Error::new(ErrorKind::InvalidConfig, "TLS cannot be set up").with_source(e.to_string())
    })?;
    Ok(HttpBuilder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(proxy.clone()).enable_tcp_nodelay(true);
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|c| c.sleep_impl()));
        connector
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(context.clone())
            .build()
    }))
}

/// A PEM file, looked at before the library does: it takes a bad one for a defect.
fn certificates(path: &str) -> Result<Vec<u8>> {
    let wrong =
        |why: String| Error::new(ErrorKind::InvalidConfig, format!("the file of ca_file, '{path}', {why}"));
    let bytes = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not a PEM file".into()))?;
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = 0;
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (body, after) = after.split_once(END).ok_or_else(|| wrong("is cut off".into()))?;
        let body: String = body.split_whitespace().collect();
        let der = aws_smithy_types::base64::decode(&body).map_err(|_| wrong("is damaged".into()))?;
        // A certificate is a DER sequence as long as it says.
        if der.len() < 64
            || der[..2] != [0x30, 0x82]
            || der.len() != 4 + usize::from(der[2]) * 256 + usize::from(der[3])
        {
            return Err(wrong("holds something that is no certificate".into()));
        }
        found += 1;
        rest = after;
    }
    if found == 0 {
        return Err(wrong("holds no certificate (-----BEGIN CERTIFICATE-----)".into()));
    }
    Ok(text.into_bytes())
}

/// Explicit keys, or the standard chain; with the chain also the region that it is set up for.
async fn credentials(
    config: &Config,
    secrets: &Secrets,
    http: &SharedHttpClient,
) -> Result<(SharedCredentialsProvider, Option<String>)> {
    let id = secrets.get("access_key_id").or(config.access_key_id.as_deref());
    match (id, secrets.get("secret_access_key")) {
        (Some(id), Some(secret)) => {
            let token = secrets.get("session_token").map(str::to_owned);
            let keys = Credentials::new(id.trim(), secret.trim(), token, None, "offsite");
            Ok((SharedCredentialsProvider::new(keys), None))
        }
        (None, None) => {
            let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
            if let Some(profile) = &config.profile {
                loader = loader.profile_name(profile);
            }
            let loaded = loader.load().await;
            let provider = loaded
                .credentials_provider()
                .ok_or_else(|| Error::new(ErrorKind::Unauthenticated, "no credentials were found"))?;
            Ok((provider, loaded.region().map(|r| r.as_ref().to_owned())))
        }
        (Some(_), None) => Err(half("secret_access_key")),
        (None, Some(_)) => Err(half("access_key_id")),
    }
}

/// What is wrong with the settings as a whole, as far as it can be seen without the network. Errors: `InvalidConfig`.
pub fn complete(config: &Config, secrets: &Secrets) -> Result<()> {
    if let Some(path) = &config.ca_file {
        certificates(path)?;
    }
    let id = secrets.get("access_key_id").or(config.access_key_id.as_deref());
    match (id, secrets.get("secret_access_key")) {
        (Some(_), None) => Err(half("secret_access_key")),
        (None, Some(_)) => Err(half("access_key_id")),
        _ => Ok(()),
    }
}

fn half(missing: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("the credential '{missing}' is missing"))
        .with_context("hint", "give access_key_id and secret_access_key, or neither")
}

/// The bucket's region, from the answer to HeadBucket; `None` where the answer does not say.
async fn locate(config: &Config, client: &Client) -> Result<Option<String>> {
    match client.head_bucket().bucket(&config.bucket).send().await {
        Ok(answer) => Ok(answer.bucket_region().map(str::to_owned)),
        Err(failure) => {
            // A refusal names the region, too.
            let named = failure.raw_response().and_then(error::named_region);
            match (named, failure.raw_response().map(|r| r.status().as_u16())) {
                (Some(region), _) => Ok(Some(region)),
                (None, Some(404)) => Err(no_bucket(config)),
                // Whatever is wrong, the next request says it better than one without a body.
                (None, Some(_)) => Ok(None),
                (None, None) => {
                    Err(error::failed("reach", &offsite_plugin_api::TargetPath::root(), &failure))
                }
            }
        }
    }
}

pub fn no_bucket(config: &Config) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{} does not exist", config.place()))
        .with_context("hint", "create the bucket, or correct its name or the endpoint")
}

/// Asks an unknown server what it is: one unsigned request, whose refusal tells as much as its answer would.
async fn ask(config: &Config, http: &SharedHttpClient, found: &mut Found) -> Result<()> {
    let service = endpoint::of_server("");
    let client = client(config, http, None, service.region, service);
    let answer = client.list_objects_v2().bucket(&config.bucket).max_keys(1).send().await;
    let Err(failure) = &answer else {
        found.service = Some(service.name.to_owned());
        return Ok(());
    };
    let Some(response) = failure.raw_response() else {
        return Err(error::failed("reach", &offsite_plugin_api::TargetPath::root(), failure));
    };
    let server = response.headers().get("server").unwrap_or_default().to_owned();
    let message = failure.as_service_error().and_then(|e| e.message()).unwrap_or_default();
    // It sends no such header, but names itself.
    let service = if message.contains("Garage") { endpoint::named("garage") } else { None };
    let service = service.unwrap_or_else(|| endpoint::of_server(&server));
    found.service = Some(service.name.to_owned());
    found.region = found.region.take().or_else(|| error::named_region(response));
    found.server =
        (!server.is_empty()).then(|| server.chars().filter(|c| !c.is_control()).take(80).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_certificate_is_a_configuration_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let path = path.to_str().unwrap();
        for content in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\nabc",
            "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----",
        ] {
            std::fs::write(path, content).unwrap();
            assert_eq!(certificates(path).unwrap_err().kind(), &ErrorKind::InvalidConfig, "{content}");
        }
        assert!(certificates("/nowhere/at/all").is_err());
    }
}
