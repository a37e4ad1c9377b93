//! The objects the host hands to a plugin, both ends: `…V1::from(Arc<dyn …>)` makes one (host), and the object itself
//! implements the plain trait (plugin).
//!
//! The makers' functions run in the host on the plugin's threads; a panic in them becomes an error, or the answer
//! that stops the caller soonest.

use std::sync::Arc;
use std::time::Duration;

use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};
use zeroize::Zeroizing;

use super::convert::{from_result, level, nanos, secret, secret_back, token, wire};
use super::guard;
use super::v1::{
    CallTableV1, CallV1, Data, HostTableV1, HostV1, RangeV1, Res, SessionTableV1, SessionV1, SinkTableV1,
    SinkV1, SourceTableV1, SourceV1,
};
use crate::{CallHost, Error, ErrorKind, Host, Level, Range, Result, Session, Sink, Source, Token};

/// The pointer for an object made from `value`.
pub(crate) fn data<T: ?Sized>(value: Arc<T>) -> Data {
    Box::into_raw(Box::new(value)) as Data
}

/// What [`data`] was made from.
///
/// # Safety
/// `data` comes from [`data`] with the same `T` and was not freed; the table that holds the calling function is only
/// ever paired with such data.
pub(crate) unsafe fn get<'a, T: ?Sized>(data: Data) -> &'a T {
    // SAFETY: the caller's promise.
    unsafe { &*(data as *const Arc<T>) }
}

/// Frees what [`data`] made.
///
/// # Safety
/// As for [`get`], and nothing uses `data` afterwards.
pub(crate) unsafe extern "C" fn free<T: ?Sized>(data: Data) {
    // SAFETY: the caller's promise.
    guard::or((), || drop(unsafe { Box::from_raw(data as *mut Arc<T>) }));
}

// Each function below is reached through its own table only, so `data` is what `data::<dyn Trait>` made.

mod call {
    use super::*;

    pub(super) static TABLE: CallTableV1 =
        CallTableV1 { cancelled, remaining_ns, pace, acked, alive, log, free: free::<dyn CallHost> };

    unsafe fn host<'a>(data: Data) -> &'a dyn CallHost {
        // SAFETY: see above.
        unsafe { get(data) }
    }

    unsafe extern "C" fn cancelled(data: Data) -> bool {
        guard::or(true, || unsafe { host(data) }.cancelled())
    }

    unsafe extern "C" fn remaining_ns(data: Data) -> ROption<u64> {
        guard::or(ROption::RSome(0), || unsafe { host(data) }.remaining().map(nanos).into())
    }

    unsafe extern "C" fn pace(data: Data, bytes: u64) -> bool {
        guard::or(false, || unsafe { host(data) }.pace(bytes))
    }

    unsafe extern "C" fn acked(data: Data, bytes: u64) {
        guard::or((), || unsafe { host(data) }.acked(bytes));
    }

    unsafe extern "C" fn alive(data: Data, note: RStr<'_>) {
        guard::or((), || unsafe { host(data) }.alive(note.as_str()));
    }

    unsafe extern "C" fn log(data: Data, number: u32, message: RStr<'_>) {
        guard::or((), || unsafe { host(data) }.log(level(number), message.as_str()));
    }
}

impl From<Arc<dyn CallHost>> for CallV1 {
    fn from(value: Arc<dyn CallHost>) -> Self {
        Self { data: data(value), table: &call::TABLE }
    }
}

// In every implementation below: SAFETY: the table is called with its own object's data, which lives as long as `self`.

impl CallHost for CallV1 {
    fn cancelled(&self) -> bool {
        unsafe { (self.table.cancelled)(self.data) }
    }

    fn remaining(&self) -> Option<Duration> {
        unsafe { (self.table.remaining_ns)(self.data) }.into_option().map(Duration::from_nanos)
    }

    fn pace(&self, bytes: u64) -> bool {
        unsafe { (self.table.pace)(self.data, bytes) }
    }

    fn acked(&self, bytes: u64) {
        unsafe { (self.table.acked)(self.data, bytes) }
    }

    fn alive(&self, note: &str) {
        unsafe { (self.table.alive)(self.data, note.into()) }
    }

    fn log(&self, level: Level, message: &str) {
        unsafe { (self.table.log)(self.data, level as u32, message.into()) }
    }
}

mod host {
    use super::*;

    pub(super) static TABLE: HostTableV1 =
        HostTableV1 { secret: fresh_secret, state_get, state_put, invoke, free: free::<dyn Host> };

    unsafe fn host<'a>(data: Data) -> &'a dyn Host {
        // SAFETY: see above.
        unsafe { get(data) }
    }

    unsafe extern "C" fn fresh_secret(data: Data, name: RStr<'_>) -> Res<RVec<u8>> {
        guard::result(|| unsafe { host(data) }.secret(name.as_str()).map(|value| secret(&value)))
    }

    unsafe extern "C" fn state_get(data: Data, key: RStr<'_>) -> Res<ROption<RVec<u8>>> {
        guard::result(|| {
            unsafe { host(data) }.state_get(key.as_str()).map(|v| ROption::from(v.map(RVec::from)))
        })
    }

    unsafe extern "C" fn state_put(data: Data, key: RStr<'_>, value: RSlice<'_, u8>) -> Res<()> {
        guard::result(|| unsafe { host(data) }.state_put(key.as_str(), value.as_slice()))
    }

    unsafe extern "C" fn invoke(data: Data, operation: RStr<'_>, json: RStr<'_>) -> Res<RString> {
        guard::result(|| unsafe { host(data) }.invoke(operation.as_str(), json.as_str()))
    }
}

impl From<Arc<dyn Host>> for HostV1 {
    fn from(value: Arc<dyn Host>) -> Self {
        Self { data: data(value), table: &host::TABLE }
    }
}

impl Host for HostV1 {
    fn secret(&self, name: &str) -> Result<Zeroizing<String>> {
        from_result(unsafe { (self.table.secret)(self.data, name.into()) }).and_then(secret_back)
    }

    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let value = from_result(unsafe { (self.table.state_get)(self.data, key.into()) })?;
        Ok(value.into_option().map(RVec::into_vec))
    }

    fn state_put(&self, key: &str, value: &[u8]) -> Result<()> {
        from_result(unsafe { (self.table.state_put)(self.data, key.into(), value.into()) })
    }

    fn invoke(&self, operation: &str, json: &str) -> Result<String> {
        from_result(unsafe { (self.table.invoke)(self.data, operation.into(), json.into()) })
            .map(String::from)
    }
}

mod source {
    use super::*;

    pub(super) static TABLE: SourceTableV1 = SourceTableV1 { size, read_at, free: free::<dyn Source> };

    unsafe extern "C" fn size(data: Data) -> u64 {
        guard::or(0, || unsafe { get::<dyn Source>(data) }.size())
    }

    unsafe extern "C" fn read_at(data: Data, offset: u64, mut buf: RSliceMut<'_, u8>) -> Res<u64> {
        guard::result(|| {
            unsafe { get::<dyn Source>(data) }.read_at(offset, buf.as_mut_slice()).map(|n| n as u64)
        })
    }
}

impl From<Arc<dyn Source>> for SourceV1 {
    fn from(value: Arc<dyn Source>) -> Self {
        Self { data: data(value), table: &source::TABLE }
    }
}

impl Source for SourceV1 {
    fn size(&self) -> u64 {
        unsafe { (self.table.size)(self.data) }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let room = buf.len();
        let read = from_result(unsafe { (self.table.read_at)(self.data, offset, buf.into()) })?;
        match usize::try_from(read) {
            Ok(read) if read <= room => Ok(read),
            _ => Err(Error::new(ErrorKind::Corrupt, format!("{read} bytes were read into room for {room}"))),
        }
    }
}

mod sink {
    use super::*;

    pub(super) static TABLE: SinkTableV1 = SinkTableV1 { write, free: free::<dyn Sink> };

    unsafe extern "C" fn write(data: Data, bytes: RSlice<'_, u8>) -> Res<()> {
        guard::result(|| unsafe { get::<dyn Sink>(data) }.write(bytes.as_slice()))
    }
}

impl From<Arc<dyn Sink>> for SinkV1 {
    fn from(value: Arc<dyn Sink>) -> Self {
        Self { data: data(value), table: &sink::TABLE }
    }
}

impl Sink for SinkV1 {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        from_result(unsafe { (self.table.write)(self.data, bytes.into()) })
    }
}

mod session {
    use super::*;

    pub(super) static TABLE: SessionTableV1 = SessionTableV1 { checkpoint, free: free::<dyn Session> };

    unsafe extern "C" fn checkpoint(
        data: Data,
        name: RSlice<'_, u8>,
        ranges: RSlice<'_, RangeV1>,
        durable: bool,
    ) -> Res<()> {
        guard::result(|| {
            let ranges: Vec<Range> = ranges.iter().copied().map(wire).collect();
            unsafe { get::<dyn Session>(data) }.checkpoint(&token(name.as_slice())?, &ranges, durable)
        })
    }
}

impl From<Arc<dyn Session>> for SessionV1 {
    fn from(value: Arc<dyn Session>) -> Self {
        Self { data: data(value), table: &session::TABLE }
    }
}

impl Session for SessionV1 {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        let ranges: Vec<RangeV1> = ranges.iter().copied().map(wire).collect();
        let call = self.table.checkpoint;
        from_result(unsafe { call(self.data, token.0.as_slice().into(), ranges.as_slice().into(), durable) })
    }
}

/// Turns an optional object into the optional plain trait object.
pub(crate) fn optional<W, T>(wire: ROption<W>, plain: impl FnOnce(W) -> T) -> Option<T> {
    wire.into_option().map(plain)
}

/// The result of a call that returns a record which has to be checked.
pub(crate) fn checked<W, T: TryFrom<W, Error = Error>>(result: Res<W>) -> Result<T> {
    match result {
        RResult::ROk(wire) => T::try_from(wire),
        RResult::RErr(error) => Err(error.into()),
    }
}
