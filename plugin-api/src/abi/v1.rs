//! ABI version 1: the records and interface objects that cross the boundary, and the root module.
//!
//! Two kinds of record. What is on a hot path, or what the host's safety hangs on (entries, errors, tokens, ranges,
//! expectations), is a `#[repr(C)]` record: its layout is the ABI and is checked when a library is loaded. What
//! only describes (capabilities, space, check reports, attributes, metadata, options) crosses as JSON text, so that
//! it can gain a field without a new ABI; a reader ignores what it does not know and defaults what it does not find.
//! Kinds and results are strings or integers, never enums, so that a side passes on what it does not know.
//!
//! An interface object is a pointer that only its maker understands, with a table of functions. The receiver owns
//! it and drops it through the table. Objects are `Send + Sync`: what they are made from is.
//!
//! Nothing here may change once the version is published: a change is `v2` beside this file (README.md, "Rules for
//! the ABI"). A test fails when a reachable type's layout differs from `v1.layout.txt`.

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec, Tuple2};
use zeroize::Zeroize;

/// What an object's maker put behind its pointer.
pub type Data = *const ();
/// The result of every function that can fail.
pub type Res<T> = RResult<T, ErrorV1>;

/// [`crate::Error`]. `retry`: 0 never, 1 now, 2 after `after_ns`; anything else counts as never.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ErrorV1 {
    pub kind: RString,
    pub retry: u8,
    pub after_ns: u64,
    pub message: RString,
    pub context: RVec<Tuple2<RString, RString>>,
    pub source: ROption<RString>,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct RangeV1 {
    pub offset: u64,
    pub length: u64,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct TimestampV1 {
    pub ns: i64,
    pub precision_ns: u64,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct DigestV1 {
    pub algorithm: RString,
    pub value: RVec<u8>,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct RetentionV1 {
    pub mode: RString,
    pub until: i64,
}

/// `kind`: 0 file, 1 directory, anything else is some other thing.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct EntryV1 {
    pub path: RVec<u8>,
    pub kind: u32,
    pub size: u64,
    pub mtime: ROption<TimestampV1>,
    pub version: ROption<RString>,
    pub digests: RVec<DigestV1>,
    pub retention: ROption<RetentionV1>,
    pub class: ROption<RString>,
    pub extra: RVec<Tuple2<RString, RString>>,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct PageV1 {
    pub entries: RVec<EntryV1>,
    pub next: ROption<RVec<u8>>,
    /// Directories, and why each is not listed wholly.
    pub incomplete: RVec<Tuple2<RVec<u8>, RString>>,
}

/// `kind`: 0 absent, 1 `version`, 2 any; anything else is refused.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ExpectV1 {
    pub kind: u32,
    pub version: RString,
}

/// `kind`: 0 a path, 1 a staging token; anything else is refused.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ObjectV1 {
    pub kind: u32,
    pub bytes: RVec<u8>,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ResumeFromV1 {
    pub token: RVec<u8>,
    pub ranges: RVec<RangeV1>,
}

/// `attributes` is JSON.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct StageRequestV1 {
    pub path: RVec<u8>,
    pub staging: RVec<u8>,
    pub attributes: RString,
    pub size: u64,
    pub streams: u32,
    pub owner: RString,
    pub resume: ROption<ResumeFromV1>,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct StagedV1 {
    pub token: RVec<u8>,
    pub size: u64,
    pub digests: RVec<DigestV1>,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct StagedInfoV1 {
    pub token: RVec<u8>,
    pub path: ROption<RVec<u8>>,
    pub owner: RString,
    pub bytes: u64,
    pub age: ROption<u64>,
}

/// `attributes` is JSON.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct PublishRequestV1 {
    pub token: RVec<u8>,
    pub path: RVec<u8>,
    pub expect: ExpectV1,
    pub attributes: RString,
    pub digests: RVec<DigestV1>,
    pub size: u64,
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct DeleteV1 {
    pub path: RVec<u8>,
    pub expect: ExpectV1,
}

/// The value as bytes, because those can be overwritten, and are when it is dropped.
#[repr(C)]
#[derive(StableAbi)]
pub struct SecretV1 {
    pub name: RString,
    pub value: RVec<u8>,
}

impl Drop for SecretV1 {
    fn drop(&mut self) {
        self.value.as_mut_slice().zeroize();
    }
}

/// `options` is JSON.
#[repr(C)]
#[derive(StableAbi)]
pub struct OpenV1 {
    pub url: RString,
    pub options: RString,
    pub secrets: RVec<SecretV1>,
    pub host: HostV1,
    pub log: LogV1,
}

/// Declares an interface object and its table of functions; the table's last entry frees the object.
macro_rules! object {
    ($(#[$doc:meta])* $object:ident, $table:ident { $($method:ident: fn($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(StableAbi)]
        pub struct $object {
            pub data: Data,
            pub table: &'static $table,
        }

        // SAFETY: `data` was made from a value that is Send + Sync (the makers in `callbacks.rs` and `plugin.rs` say
        // so in their types), and the table is immutable.
        unsafe impl Send for $object {}
        // SAFETY: as above.
        unsafe impl Sync for $object {}

        impl Drop for $object {
            fn drop(&mut self) {
                // SAFETY: `data` is what this table's maker put there, and nobody uses it after this.
                unsafe { (self.table.free)(self.data) }
            }
        }

        #[doc = concat!("The functions of [`", stringify!($object), "`]; the first argument is its `data`.")]
        #[repr(C)]
        #[derive(StableAbi)]
        pub struct $table {
            $(pub $method: unsafe extern "C" fn(Data $(, $ty)*) $(-> $ret)?,)*
            pub free: unsafe extern "C" fn(Data),
        }
    };
}

object! {
    /// Takes the plugin's log records: level 1 (error) to 5 (trace), target (a module path), message.
    LogV1, LogTableV1 {
        log: fn(level: u32, target: RStr<'_>, message: RStr<'_>);
    }
}

object! {
    /// [`crate::CallHost`].
    CallV1, CallTableV1 {
        cancelled: fn() -> bool;
        remaining_ns: fn() -> ROption<u64>;
        pace: fn(bytes: u64) -> bool;
        acked: fn(bytes: u64);
        alive: fn(note: RStr<'_>);
        log: fn(level: u32, message: RStr<'_>);
    }
}

object! {
    /// [`crate::Host`].
    HostV1, HostTableV1 {
        secret: fn(name: RStr<'_>) -> Res<RVec<u8>>;
        state_get: fn(key: RStr<'_>) -> Res<ROption<RVec<u8>>>;
        state_put: fn(key: RStr<'_>, value: RSlice<'_, u8>) -> Res<()>;
        invoke: fn(operation: RStr<'_>, json: RStr<'_>) -> Res<RString>;
    }
}

object! {
    /// [`crate::Source`].
    SourceV1, SourceTableV1 {
        size: fn() -> u64;
        read_at: fn(offset: u64, buf: RSliceMut<'_, u8>) -> Res<u64>;
    }
}

object! {
    /// [`crate::Sink`].
    SinkV1, SinkTableV1 {
        write: fn(bytes: RSlice<'_, u8>) -> Res<()>;
    }
}

object! {
    /// [`crate::Session`].
    SessionV1, SessionTableV1 {
        checkpoint: fn(token: RSlice<'_, u8>, ranges: RSlice<'_, RangeV1>, durable: bool) -> Res<()>;
    }
}

object! {
    /// [`crate::Backend`]. Results named `RString` are JSON, except those of `identity` and `invoke`.
    BackendV1, BackendTableV1 {
        identity: fn() -> Res<RString>;
        capabilities: fn(call: CallV1) -> Res<RString>;
        space: fn(call: CallV1) -> Res<RString>;
        check: fn(call: CallV1) -> Res<RString>;
        list: fn(call: CallV1, dir: RSlice<'_, u8>, recursive: bool, page: ROption<RSlice<'_, u8>>) -> Res<PageV1>;
        stat: fn(call: CallV1, path: RSlice<'_, u8>) -> Res<EntryV1>;
        stage: fn(call: CallV1, request: StageRequestV1, source: SourceV1, session: SessionV1) -> Res<StagedV1>;
        stat_staged: fn(call: CallV1, token: RSlice<'_, u8>) -> Res<StagedInfoV1>;
        read_staged: fn(call: CallV1, token: RSlice<'_, u8>, range: RangeV1, sink: SinkV1) -> Res<()>;
        list_staged: fn(call: CallV1, dir: RSlice<'_, u8>) -> Res<RVec<StagedInfoV1>>;
        discard: fn(call: CallV1, token: RSlice<'_, u8>) -> Res<()>;
        publish: fn(call: CallV1, request: PublishRequestV1, source: SourceV1) -> Res<EntryV1>;
        get: fn(
            call: CallV1,
            path: RSlice<'_, u8>,
            range: ROption<RangeV1>,
            if_version: ROption<RStr<'_>>,
            sink: SinkV1,
        ) -> Res<()>;
        delete: fn(call: CallV1, path: RSlice<'_, u8>, expect: ExpectV1) -> Res<()>;
        delete_batch: fn(call: CallV1, items: RVec<DeleteV1>) -> Res<RVec<RResult<(), ErrorV1>>>;
        copy: fn(call: CallV1, from: RSlice<'_, u8>, to: RSlice<'_, u8>, expect: ExpectV1) -> Res<EntryV1>;
        rename: fn(call: CallV1, from: RSlice<'_, u8>, to: RSlice<'_, u8>, expect: ExpectV1) -> Res<EntryV1>;
        make_dir: fn(call: CallV1, path: RSlice<'_, u8>) -> Res<()>;
        set_attributes: fn(call: CallV1, path: RSlice<'_, u8>, attributes: RStr<'_>) -> Res<EntryV1>;
        digest: fn(call: CallV1, object: ObjectV1, algorithm: RStr<'_>, range: ROption<RangeV1>) -> Res<DigestV1>;
        invoke: fn(
            call: CallV1,
            operation: RStr<'_>,
            json: RStr<'_>,
            source: ROption<SourceV1>,
            sink: ROption<SinkV1>,
        ) -> Res<RString>;
        close: fn(deadline_ns: u64) -> Res<()>;
    }
}

/// The root module of a plugin that speaks version 1.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginV1Ref, prefix_fields = PluginV1Prefix)))]
pub struct PluginV1 {
    /// The metadata as JSON, the same bytes as in the link section.
    pub metadata: unsafe extern "C" fn() -> RString,
    /// Once per library, before anything else: where the library logs, and the most verbose level worth sending.
    pub init: unsafe extern "C" fn(log: LogV1, most_verbose: u32) -> Res<()>,
    #[sabi(last_prefix_field)]
    pub open: unsafe extern "C" fn(request: OpenV1) -> Res<BackendV1>,
}

impl RootModule for PluginV1Ref {
    abi_stable::declare_root_module_statics! {PluginV1Ref}
    const BASE_NAME: &'static str = "offsite_plugin";
    const NAME: &'static str = "offsite plugin, ABI 1";
    /// By hand: it is the version of the ABI, not of this crate.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}
