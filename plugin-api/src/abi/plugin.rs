//! The plugin's side: a [`Backend`] behind its table, and the root module. Every function here runs the vendor's code
//! inside `guard::catch`; after a panic the object is poisoned, because nobody knows what state it was left in.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RResult, RSlice, RStr, RString, RVec};

use super::convert::{digests, from_json, list, path, secrets_back, to_json, to_result, token};
use super::guard::{self, Panic};
use super::v1::{
    BackendTableV1, BackendV1, CallV1, Data, DeleteV1, DigestV1, EntryV1, ErrorV1, ExpectV1, LogV1, ObjectV1,
    OpenV1, PageV1, PluginV1, PluginV1Ref, PublishRequestV1, RangeV1, Res, SessionV1, SinkV1, SourceV1,
    StageRequestV1, StagedInfoV1, StagedV1,
};
use super::{callbacks, log};
use crate::{
    Backend, Call, Error, ErrorKind, Opened, Plugin, PublishRequest, Range, Result, Sink, Source,
    StageRequest,
};

/// What `export_backend!` makes of a vendor's plugin.
pub trait Export: 'static {
    /// The metadata's JSON text: what the link section holds.
    fn metadata() -> &'static [u8];
    fn plugin() -> &'static dyn Plugin;
}

/// The root module of `E`.
pub fn root<E: Export>() -> PluginV1Ref {
    PluginV1 { metadata: metadata::<E>, init, open: open::<E> }.leak_into_prefix()
}

unsafe extern "C" fn metadata<E: Export>() -> RString {
    guard::or(RString::new(), || String::from_utf8_lossy(E::metadata()).into_owned().into())
}

unsafe extern "C" fn init(log: LogV1, most_verbose: u32) -> Res<()> {
    guard::result(|| {
        log::install(Arc::new(log), most_verbose);
        Ok(())
    })
}

unsafe extern "C" fn open<E: Export>(request: OpenV1) -> Res<BackendV1> {
    guard::result(|| {
        let log = Arc::new(request.log);
        let options: serde_json::Value = from_json("options", &request.options)?;
        let opened = Opened {
            url: &request.url,
            options: &options,
            secrets: secrets_back(request.secrets)?,
            host: Arc::new(request.host),
        };
        let backend = log::within(&log, || E::plugin().open(opened))?;
        Ok(export(backend, log))
    })
}

struct Exported {
    backend: Box<dyn Backend>,
    log: Arc<LogV1>,
    poison: OnceLock<Panic>,
}

fn export(backend: Box<dyn Backend>, log: Arc<LogV1>) -> BackendV1 {
    let exported = Exported { backend, log, poison: OnceLock::new() };
    BackendV1 { data: Box::into_raw(Box::new(exported)) as Data, table: &TABLE }
}

/// Runs one method, unless an earlier one panicked.
///
/// # Safety
/// `data` was made by [`export`] and was not freed: true for every function of [`TABLE`].
unsafe fn with<T, W: From<T>>(data: Data, f: impl FnOnce(&dyn Backend) -> Result<T>) -> Res<W> {
    // SAFETY: the caller's promise.
    let exported = unsafe { &*(data as *const Exported) };
    if let Some(panic) = exported.poison.get() {
        let message =
            format!("this target's plugin panicked earlier ({}) and takes no more calls", panic.message);
        let error = Error::new(ErrorKind::Panicked, message);
        return to_result::<T, W>(Err(match &panic.place {
            Some(place) => error.with_context("at", place),
            None => error,
        }));
    }
    let outcome = guard::catch(|| log::within(&exported.log, || to_result(f(&*exported.backend))));
    outcome.unwrap_or_else(|panic| {
        let _ = exported.poison.set(panic.clone());
        to_result::<T, W>(Err(panic.into()))
    })
}

static TABLE: BackendTableV1 = BackendTableV1 {
    identity,
    capabilities,
    space,
    check,
    list: list_dir,
    stat,
    stage,
    stat_staged,
    read_staged,
    list_staged,
    discard,
    publish,
    get,
    delete,
    delete_batch,
    copy,
    rename,
    make_dir,
    set_attributes,
    digest,
    invoke,
    close,
    free,
};

fn call(wire: CallV1) -> Call {
    Call::new(Arc::new(wire))
}

fn range(wire: ROption<RangeV1>) -> Option<Range> {
    wire.into_option().map(Range::from)
}

// In every function below: SAFETY: only [`TABLE`] holds it, and only [`export`] pairs that with data.

unsafe extern "C" fn identity(data: Data) -> Res<RString> {
    unsafe { with(data, |b| Ok(b.identity())) }
}

unsafe extern "C" fn capabilities(data: Data, wire: CallV1) -> Res<RString> {
    unsafe { with(data, |b| to_json("capabilities", &b.capabilities(&call(wire))?)) }
}

unsafe extern "C" fn space(data: Data, wire: CallV1) -> Res<RString> {
    unsafe { with(data, |b| to_json("free space", &b.space(&call(wire))?)) }
}

unsafe extern "C" fn check(data: Data, wire: CallV1) -> Res<RString> {
    unsafe { with(data, |b| to_json("a check report", &b.check(&call(wire))?)) }
}

unsafe extern "C" fn list_dir(
    data: Data,
    wire: CallV1,
    dir: RSlice<'_, u8>,
    recursive: bool,
    page: ROption<RSlice<'_, u8>>,
) -> Res<PageV1> {
    unsafe {
        with(data, |b| {
            b.list(&call(wire), &path(&dir)?, recursive, page.into_option().as_ref().map(RSlice::as_slice))
        })
    }
}

unsafe extern "C" fn stat(data: Data, wire: CallV1, name: RSlice<'_, u8>) -> Res<EntryV1> {
    unsafe { with(data, |b| b.stat(&call(wire), &path(&name)?)) }
}

unsafe extern "C" fn stage(
    data: Data,
    wire: CallV1,
    request: StageRequestV1,
    source: SourceV1,
    session: SessionV1,
) -> Res<StagedV1> {
    unsafe {
        with(data, |b| {
            let request = StageRequest::try_from(request)?;
            b.stage(&call(wire), &request, Arc::new(source), Arc::new(session))
        })
    }
}

unsafe extern "C" fn stat_staged(data: Data, wire: CallV1, name: RSlice<'_, u8>) -> Res<StagedInfoV1> {
    unsafe { with(data, |b| b.stat_staged(&call(wire), &token(&name)?)) }
}

unsafe extern "C" fn read_staged(
    data: Data,
    wire: CallV1,
    name: RSlice<'_, u8>,
    range: RangeV1,
    sink: SinkV1,
) -> Res<()> {
    unsafe { with(data, |b| b.read_staged(&call(wire), &token(&name)?, range.into(), Arc::new(sink))) }
}

unsafe extern "C" fn list_staged(data: Data, wire: CallV1, dir: RSlice<'_, u8>) -> Res<RVec<StagedInfoV1>> {
    unsafe { with(data, |b| b.list_staged(&call(wire), &path(&dir)?).map(list::<_, StagedInfoV1>)) }
}

unsafe extern "C" fn discard(data: Data, wire: CallV1, name: RSlice<'_, u8>) -> Res<()> {
    unsafe { with(data, |b| b.discard(&call(wire), &token(&name)?)) }
}

unsafe extern "C" fn publish(
    data: Data,
    wire: CallV1,
    request: PublishRequestV1,
    source: SourceV1,
) -> Res<EntryV1> {
    unsafe {
        with(data, |b| {
            let request = PublishRequest {
                token: token(&request.token)?,
                path: path(&request.path)?,
                expect: request.expect.try_into()?,
                attributes: from_json("attributes", &request.attributes)?,
                digests: digests(request.digests),
                size: request.size,
                source: Arc::new(source),
            };
            b.publish(&call(wire), &request)
        })
    }
}

unsafe extern "C" fn get(
    data: Data,
    wire: CallV1,
    name: RSlice<'_, u8>,
    part: ROption<RangeV1>,
    if_version: ROption<RStr<'_>>,
    sink: SinkV1,
) -> Res<()> {
    let version = if_version.into_option();
    unsafe {
        with(data, |b| {
            b.get(&call(wire), &path(&name)?, range(part), version.as_ref().map(RStr::as_str), Arc::new(sink))
        })
    }
}

unsafe extern "C" fn delete(data: Data, wire: CallV1, name: RSlice<'_, u8>, expect: ExpectV1) -> Res<()> {
    unsafe { with(data, |b| b.delete(&call(wire), &path(&name)?, &expect.try_into()?)) }
}

unsafe extern "C" fn delete_batch(
    data: Data,
    wire: CallV1,
    items: RVec<DeleteV1>,
) -> Res<RVec<RResult<(), ErrorV1>>> {
    unsafe {
        with(data, |b| {
            let items = items.into_iter().map(TryFrom::try_from).collect::<Result<Vec<_>>>()?;
            let results = b.delete_batch(&call(wire), &items)?;
            Ok(results.into_iter().map(to_result).collect::<RVec<_>>())
        })
    }
}

unsafe extern "C" fn copy(
    data: Data,
    wire: CallV1,
    from: RSlice<'_, u8>,
    to: RSlice<'_, u8>,
    expect: ExpectV1,
) -> Res<EntryV1> {
    unsafe { with(data, |b| b.copy(&call(wire), &path(&from)?, &path(&to)?, &expect.try_into()?)) }
}

unsafe extern "C" fn rename(
    data: Data,
    wire: CallV1,
    from: RSlice<'_, u8>,
    to: RSlice<'_, u8>,
    expect: ExpectV1,
) -> Res<EntryV1> {
    unsafe { with(data, |b| b.rename(&call(wire), &path(&from)?, &path(&to)?, &expect.try_into()?)) }
}

unsafe extern "C" fn make_dir(data: Data, wire: CallV1, name: RSlice<'_, u8>) -> Res<()> {
    unsafe { with(data, |b| b.make_dir(&call(wire), &path(&name)?)) }
}

unsafe extern "C" fn set_attributes(
    data: Data,
    wire: CallV1,
    name: RSlice<'_, u8>,
    attributes: RStr<'_>,
) -> Res<EntryV1> {
    unsafe {
        with(data, |b| {
            b.set_attributes(&call(wire), &path(&name)?, &from_json("attributes", attributes.as_str())?)
        })
    }
}

unsafe extern "C" fn digest(
    data: Data,
    wire: CallV1,
    object: ObjectV1,
    algorithm: RStr<'_>,
    part: ROption<RangeV1>,
) -> Res<DigestV1> {
    unsafe { with(data, |b| b.digest(&call(wire), &object.try_into()?, algorithm.as_str(), range(part))) }
}

unsafe extern "C" fn invoke(
    data: Data,
    wire: CallV1,
    operation: RStr<'_>,
    json: RStr<'_>,
    source: ROption<SourceV1>,
    sink: ROption<SinkV1>,
) -> Res<RString> {
    let source = callbacks::optional(source, |s| Arc::new(s) as Arc<dyn Source>);
    let sink = callbacks::optional(sink, |s| Arc::new(s) as Arc<dyn Sink>);
    unsafe { with(data, |b| b.invoke(&call(wire), operation.as_str(), json.as_str(), source, sink)) }
}

unsafe extern "C" fn close(data: Data, deadline_ns: u64) -> Res<()> {
    unsafe {
        with(data, |b| {
            b.close(Duration::from_nanos(deadline_ns));
            Ok(())
        })
    }
}

/// Works on a poisoned object too.
unsafe extern "C" fn free(data: Data) {
    guard::or((), || {
        // SAFETY: see above, and the receiver does not use `data` after this.
        let exported = unsafe { Box::from_raw(data as *mut Exported) };
        let log = exported.log.clone();
        log::within(&log, || drop(exported));
    });
}
