//! The digest that a server checks for each part or small object while it receives it: which one, its value, and how the
//! values of parts make that of the file.
//!
//! CRC64NVME first: it is fast, and the values of parts combine into that of the whole object, which the server confirms at
//! the end. CRC32C combines as well, but older servers know it only as a digest of digests, so it is used for each part
//! alone. MD5 (`Content-MD5`) is what every server checks.

use aws_smithy_types::base64;
use crc_fast::CrcAlgorithm;
use md5::Digest as _;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Crc64Nvme,
    Crc32c,
    Md5,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "crc64nvme",
            Self::Crc32c => "crc32c",
            Self::Md5 => "md5",
        }
    }

    pub fn start(self) -> Running {
        match self {
            Self::Crc64Nvme => Running::Crc(Box::new(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme)), 8),
            Self::Crc32c => Running::Crc(Box::new(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi)), 4),
            Self::Md5 => Running::Md5(md5::Md5::new()),
        }
    }

    /// The value of `first` followed by `second`, which is of `length` bytes; `None` where values do not combine.
    pub fn combine(self, first: &Value, second: &Value, length: u64) -> Option<Value> {
        let crc = match self {
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Self::Md5 => return None,
        };
        let sum = crc_fast::checksum_combine(crc, first.number(), second.number(), length);
        Some(Value::of_number(sum, first.0.len()))
    }
}

pub enum Running {
    /// With the bytes of its value.
    Crc(Box<crc_fast::Digest>, usize),
    Md5(md5::Md5),
}

impl Running {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest, _) => digest.update(bytes),
            Self::Md5(digest) => digest.update(bytes),
        }
    }

    pub fn finish(self) -> Value {
        match self {
            Self::Crc(digest, length) => Value::of_number(digest.finalize(), length),
            Self::Md5(digest) => Value(digest.finalize().to_vec()),
        }
    }
}

/// A digest's bytes, most significant first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value(pub Vec<u8>);

impl Value {
    fn of_number(number: u64, length: usize) -> Self {
        Self(number.to_be_bytes()[8 - length..].to_vec())
    }

    fn number(&self) -> u64 {
        self.0.iter().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    /// As headers and listings carry it.
    pub fn base64(&self) -> String {
        base64::encode(&self.0)
    }

    pub fn from_base64(text: &str) -> Option<Self> {
        base64::decode(text).ok().map(Self)
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
        let pair = |p: &[u8]| Some(digit(p[0])? << 4 | digit(p[1])?);
        if !text.len().is_multiple_of(2) {
            return None;
        }
        text.as_bytes().chunks(2).map(pair).collect::<Option<_>>().map(Self)
    }

    /// Four bytes that stand for it in a token; never zero.
    pub fn mark(&self) -> u32 {
        let mut four = [0; 4];
        for (to, from) in four.iter_mut().zip(self.0.iter().rev()) {
            *to = *from;
        }
        u32::from_le_bytes(four).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: Algorithm, bytes: &[u8]) -> Value {
        let mut running = algorithm.start();
        running.update(bytes);
        running.finish()
    }

    #[test]
    fn values_are_those_of_the_catalogues() {
        let hex = |v: Value| v.0.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(of(Algorithm::Crc64Nvme, b"123456789")), "ae8b14860a799888");
        assert_eq!(hex(of(Algorithm::Crc32c, b"123456789")), "e3069283");
        assert_eq!(hex(of(Algorithm::Md5, b"123456789")), "25f9e794323b453885f5181f1b624d0b");
    }

    #[test]
    fn the_values_of_parts_make_that_of_the_whole() {
        for algorithm in [Algorithm::Crc64Nvme, Algorithm::Crc32c] {
            let (one, two) = (of(algorithm, b"1234"), of(algorithm, b"56789"));
            assert_eq!(algorithm.combine(&one, &two, 5), Some(of(algorithm, b"123456789")));
            assert_eq!(Value::from_base64(&one.base64()), Some(one));
        }
        let md5 = of(Algorithm::Md5, b"1");
        assert_eq!(Algorithm::Md5.combine(&md5, &md5, 1), None);
        assert_eq!(
            Value::from_hex("25f9e794323b453885f5181f1b624d0b"),
            Some(of(Algorithm::Md5, b"123456789"))
        );
        assert_eq!((Value::from_hex("xx"), Value::from_hex("abc")), (None, None));
    }

    #[test]
    fn a_mark_is_never_that_of_a_missing_part() {
        assert_eq!(Value(vec![0; 8]).mark(), 1);
        assert_ne!(of(Algorithm::Crc64Nvme, b"a").mark(), of(Algorithm::Crc64Nvme, b"b").mark());
    }
}
