//! An open target that cannot give its secrets away: every error, log record, note and report of the plugin passes a
//! [`Redactor`] before the rest of the host sees it.
//!
//! It stands around the plugin rather than where things are printed, because there are many such places and one here. For
//! the same reason it is here that a call learns that an operation begins, and that bytes read back count as life.

use std::sync::Arc;
use std::time::Duration;

use offsite_plugin_api::abi::host::{LogSink, Module};
use offsite_plugin_api::{
    Attributes, Backend, Call, CallHost, Capabilities, CheckReport, Digest, Entry, Expect, Host, Level,
    Object, Page, PublishRequest, Range, Result, Secrets, Session, Sink, Source, Space, StageRequest, Staged,
    StagedInfo, TargetPath, Token,
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::redact::Redactor;

/// Opens a target of `module` with the words of the plugin cleaned.
pub(super) fn open(
    module: &Module,
    url: &str,
    options: &Value,
    secrets: &Secrets,
    host: Arc<dyn Host>,
    log: Arc<dyn LogSink>,
) -> Result<Box<dyn Backend>> {
    let redactor = Arc::new(Redactor::new(secrets));
    let host = Arc::new(DiscreetHost { inner: host, redactor: redactor.clone() });
    let log = Arc::new(DiscreetLog { inner: log, redactor: redactor.clone() });
    match module.open(url, options, secrets, host, log) {
        Ok(inner) => Ok(Box::new(Discreet { inner, redactor })),
        Err(error) => Err(redactor.error(error)),
    }
}

/// Learns the secrets that the plugin asks for later.
struct DiscreetHost {
    inner: Arc<dyn Host>,
    redactor: Arc<Redactor>,
}

impl Host for DiscreetHost {
    fn secret(&self, name: &str) -> Result<Zeroizing<String>> {
        let secret = self.inner.secret(name)?;
        self.redactor.learn(&secret);
        Ok(secret)
    }

    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.inner.state_get(key)
    }

    fn state_put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.inner.state_put(key, value)
    }

    fn invoke(&self, operation: &str, json: &str) -> Result<String> {
        self.inner.invoke(operation, json)
    }
}

struct DiscreetLog {
    inner: Arc<dyn LogSink>,
    redactor: Arc<Redactor>,
}

impl LogSink for DiscreetLog {
    fn log(&self, level: Level, target: &str, message: &str) {
        self.inner.log(level, target, &self.redactor.clean(message));
    }

    fn most_verbose(&self) -> Level {
        self.inner.most_verbose()
    }
}

struct DiscreetCall {
    inner: Arc<dyn CallHost>,
    redactor: Arc<Redactor>,
}

impl CallHost for DiscreetCall {
    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }

    fn remaining(&self) -> Option<Duration> {
        self.inner.remaining()
    }

    fn pace(&self, bytes: u64) -> bool {
        self.inner.pace(bytes)
    }

    fn acked(&self, bytes: u64) {
        self.inner.acked(bytes);
    }

    fn alive(&self, note: &str) {
        self.inner.alive(&self.redactor.clean(note));
    }

    fn log(&self, level: Level, message: &str) {
        self.inner.log(level, &self.redactor.clean(message));
    }
}

/// Bytes that arrive are a sign of life, however long the reading takes.
struct LivelySink {
    inner: Arc<dyn Sink>,
    call: Call,
}

impl Sink for LivelySink {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.call.acked(bytes.len() as u64);
        self.inner.write(bytes)
    }
}

struct Discreet {
    inner: Box<dyn Backend>,
    redactor: Arc<Redactor>,
}

impl Discreet {
    fn call(&self, call: &Call) -> Call {
        call.host().begins();
        Call::new(Arc::new(DiscreetCall { inner: call.host().clone(), redactor: self.redactor.clone() }))
    }

    fn lively(&self, call: &Call, inner: Arc<dyn Sink>) -> Arc<dyn Sink> {
        Arc::new(LivelySink { inner, call: call.clone() })
    }

    fn clean<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.redactor.error(error))
    }
}

impl Backend for Discreet {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn capabilities(&self, c: &Call) -> Result<Capabilities> {
        self.clean(self.inner.capabilities(&self.call(c)))
    }

    fn space(&self, c: &Call) -> Result<Space> {
        self.clean(self.inner.space(&self.call(c)))
    }

    fn check(&self, c: &Call) -> Result<CheckReport> {
        self.clean(self.inner.check(&self.call(c))).map(|report| self.redactor.report(report))
    }

    fn list(&self, c: &Call, dir: &TargetPath, recursive: bool, page: Option<&[u8]>) -> Result<Page> {
        self.clean(self.inner.list(&self.call(c), dir, recursive, page))
    }

    fn stat(&self, c: &Call, path: &TargetPath) -> Result<Entry> {
        self.clean(self.inner.stat(&self.call(c), path))
    }

    fn stage(
        &self,
        c: &Call,
        request: &StageRequest,
        source: Arc<dyn Source>,
        session: Arc<dyn Session>,
    ) -> Result<Staged> {
        self.clean(self.inner.stage(&self.call(c), request, source, session))
    }

    fn stat_staged(&self, c: &Call, token: &Token) -> Result<StagedInfo> {
        self.clean(self.inner.stat_staged(&self.call(c), token))
    }

    fn read_staged(&self, c: &Call, token: &Token, range: Range, sink: Arc<dyn Sink>) -> Result<()> {
        self.clean(self.inner.read_staged(&self.call(c), token, range, self.lively(c, sink)))
    }

    fn list_staged(&self, c: &Call, dir: &TargetPath) -> Result<Vec<StagedInfo>> {
        self.clean(self.inner.list_staged(&self.call(c), dir))
    }

    fn discard(&self, c: &Call, token: &Token) -> Result<()> {
        self.clean(self.inner.discard(&self.call(c), token))
    }

    fn publish(&self, c: &Call, request: &PublishRequest) -> Result<Entry> {
        self.clean(self.inner.publish(&self.call(c), request))
    }

    fn get(
        &self,
        c: &Call,
        path: &TargetPath,
        range: Option<Range>,
        if_version: Option<&str>,
        sink: Arc<dyn Sink>,
    ) -> Result<()> {
        self.clean(self.inner.get(&self.call(c), path, range, if_version, self.lively(c, sink)))
    }

    fn delete(&self, c: &Call, path: &TargetPath, expect: &Expect) -> Result<()> {
        self.clean(self.inner.delete(&self.call(c), path, expect))
    }

    fn delete_batch(&self, c: &Call, items: &[(TargetPath, Expect)]) -> Result<Vec<Result<()>>> {
        let results = self.clean(self.inner.delete_batch(&self.call(c), items))?;
        Ok(results.into_iter().map(|result| self.clean(result)).collect())
    }

    fn copy(&self, c: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        self.clean(self.inner.copy(&self.call(c), from, to, expect))
    }

    fn rename(&self, c: &Call, from: &TargetPath, to: &TargetPath, expect: &Expect) -> Result<Entry> {
        self.clean(self.inner.rename(&self.call(c), from, to, expect))
    }

    fn make_dir(&self, c: &Call, path: &TargetPath) -> Result<()> {
        self.clean(self.inner.make_dir(&self.call(c), path))
    }

    fn set_attributes(&self, c: &Call, path: &TargetPath, attributes: &Attributes) -> Result<Entry> {
        self.clean(self.inner.set_attributes(&self.call(c), path, attributes))
    }

    fn digest(&self, c: &Call, object: &Object, algorithm: &str, range: Option<Range>) -> Result<Digest> {
        self.clean(self.inner.digest(&self.call(c), object, algorithm, range))
    }

    fn invoke(
        &self,
        c: &Call,
        operation: &str,
        json: &str,
        source: Option<Arc<dyn Source>>,
        sink: Option<Arc<dyn Sink>>,
    ) -> Result<String> {
        self.clean(self.inner.invoke(&self.call(c), operation, json, source, sink))
    }

    fn close(&self, deadline: Duration) {
        self.inner.close(deadline);
    }
}
