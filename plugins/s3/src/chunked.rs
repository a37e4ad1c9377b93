//! A body with its digest behind it: Amazon's `aws-chunked` encoding with an unsigned payload and a trailer ("Signature
//! calculations: transferring payload in multiple chunks").
//!
//! Ours, because the library signs every chunk where the connection is not encrypted, and not every server takes that.

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use bytes::Bytes;

use super::body::PIECE;
use super::digest::{Algorithm, Value};

/// Says to the server, and to whoever signs, how the body is encoded.
#[derive(Debug)]
pub struct Chunked {
    pub algorithm: Algorithm,
    /// Bytes of the part itself.
    pub size: u64,
}

fn header(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        Algorithm::Crc32c => "x-amz-checksum-crc32c",
        Algorithm::Md5 => "content-md5",
    }
}

impl Intercept for Chunked {
    fn name(&self) -> &'static str {
        "Chunked"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        headers.insert("content-encoding", "aws-chunked");
        headers.insert("x-amz-trailer", header(self.algorithm));
        headers.insert("x-amz-decoded-content-length", self.size.to_string());
        config.interceptor_state().store_put(PayloadSigningOverride::StreamingUnsignedPayloadTrailer);
        Ok(())
    }
}

/// One piece as a chunk.
pub fn chunk(piece: Bytes) -> [Bytes; 3] {
    [Bytes::from(format!("{:x}\r\n", piece.len())), piece, Bytes::from_static(b"\r\n")]
}

/// The last chunk and the digest.
pub fn end(algorithm: Algorithm, value: &Value) -> Bytes {
    Bytes::from(format!("0\r\n{}:{}\r\n\r\n", header(algorithm), value.base64()))
}

/// Bytes of a part of `size` bytes once encoded, in chunks of a piece each.
pub fn length(size: u64, algorithm: Algorithm) -> u64 {
    let framed = |piece: u64| format!("{piece:x}").len() as u64 + 4 + piece;
    let (whole, rest) = (size / PIECE, size % PIECE);
    let value = Value(vec![0; if algorithm == Algorithm::Crc64Nvme { 8 } else { 4 }]);
    whole * framed(PIECE) + if rest > 0 { framed(rest) } else { 0 } + end(algorithm, &value).len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::pieces;
    use offsite_plugin_api::Range;

    #[test]
    fn the_length_is_that_of_what_is_sent() {
        for size in [1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 12_345] {
            for algorithm in [Algorithm::Crc64Nvme, Algorithm::Crc32c] {
                let mut sent = 0;
                for (_, length) in pieces(Range { offset: 0, length: size }) {
                    sent += chunk(vec![0; length as usize].into()).iter().map(Bytes::len).sum::<usize>();
                }
                sent += end(algorithm, &algorithm.start().finish()).len();
                assert_eq!(length(size, algorithm), sent as u64, "{size}");
            }
        }
        assert_eq!(chunk(Bytes::from_static(b"0123456789abcdef"))[0], "10\r\n");
    }
}
