//! Sources, sinks and sessions that tamper with what passes through them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use offsite_plugin_api::{
    Capabilities, Error, ErrorKind, Range, Result, Resume, Session, Sink, Source, Token,
};

use crate::fault::Effect;

fn cut() -> Error {
    Error::new(ErrorKind::Interrupted, "chaos: the connection was cut, as asked")
}

pub struct Tampered {
    pub inner: Arc<dyn Source>,
    pub effect: Effect,
    pub passed: AtomicU64,
}

impl Source for Tampered {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let read = self.inner.read_at(offset, buf)?;
        match self.effect {
            Effect::WrongBytes if offset == 0 && read > 0 => buf[read / 2] ^= 0x20,
            Effect::CutAfter(limit)
                if self.passed.fetch_add(read as u64, Ordering::SeqCst) + read as u64 > limit =>
            {
                return Err(cut());
            }
            _ => {}
        }
        Ok(read)
    }
}

pub struct TamperedSink {
    pub inner: Arc<dyn Sink>,
    pub effect: Effect,
    pub passed: AtomicU64,
    pub flipped: AtomicBool,
}

impl Sink for TamperedSink {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let passed = self.passed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        match self.effect {
            Effect::CutAfter(limit) if passed + bytes.len() as u64 > limit => Err(cut()),
            Effect::WrongBytes if !bytes.is_empty() && !self.flipped.swap(true, Ordering::SeqCst) => {
                let mut wrong = bytes.to_vec();
                wrong[bytes.len() / 2] ^= 0x20;
                self.inner.write(&wrong)
            }
            Effect::ShortWrite => self.inner.write(&bytes[..bytes.len() / 2]),
            Effect::LieSize if !bytes.is_empty() && !self.flipped.swap(true, Ordering::SeqCst) => {
                self.inner.write(&[bytes, b"+"].concat())
            }
            _ => self.inner.write(bytes),
        }
    }
}

/// Passes on only what a server with these capabilities could promise.
pub struct Weaker {
    pub inner: Arc<dyn Session>,
    pub capabilities: Capabilities,
}

impl Session for Weaker {
    fn checkpoint(&self, token: &Token, ranges: &[Range], durable: bool) -> Result<()> {
        let durable = durable && self.capabilities.durable_checkpoints;
        match self.capabilities.resume {
            Resume::None => Ok(()),
            Resume::Offset => match ranges.first() {
                Some(first) if first.offset == 0 => self.inner.checkpoint(token, &[*first], durable),
                _ => Ok(()),
            },
            Resume::Ranges | Resume::Parts => self.inner.checkpoint(token, ranges, durable),
        }
    }
}
