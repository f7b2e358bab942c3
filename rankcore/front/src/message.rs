//! gRPC's framing of messages: one byte that says whether it is compressed, four with the length, the message.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};
use h2::RecvStream;

use crate::status::{Code, Refusal};

/// Bytes before a message.
const PREFIX: usize = 5;

/// Encodings of messages that are understood, as `grpc-accept-encoding` names them.
pub const ACCEPTED: &str = "identity, deflate, gzip";

/// How a call's messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// zlib.
    Deflate,
    /// gzip.
    Gzip,
}

impl Encoding {
    /// The encoding named so.
    ///
    /// # Errors
    /// UNIMPLEMENTED for one that is not understood.
    pub fn parse(name: Option<&str>) -> Result<Self, Refusal> {
        match name {
            None | Some("identity") => Ok(Self::Identity),
            Some("deflate") => Ok(Self::Deflate),
            Some("gzip") => Ok(Self::Gzip),
            Some(other) => Err(Refusal::Transport(
                Code::Unimplemented,
                format!(
                    "messages compressed with {other:?} are not understood; accepted: {ACCEPTED}"
                ),
            )),
        }
    }

    fn expand(self, data: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
        // One byte more than allowed tells a message that is too large from one that just fits.
        let limit = bytes_max as u64 + 1;
        let mut expanded = Vec::new();
        let read = match self {
            Self::Identity => {
                return Err(Refusal::Transport(
                    Code::Internal,
                    "a message is marked as compressed, but the call names no encoding".to_owned(),
                ));
            }
            Self::Deflate => ZlibDecoder::new(data)
                .take(limit)
                .read_to_end(&mut expanded),
            Self::Gzip => GzDecoder::new(data).take(limit).read_to_end(&mut expanded),
        };
        read.map_err(|error| {
            Refusal::Transport(
                Code::Internal,
                format!("a message could not be decompressed: {error}"),
            )
        })?;
        check_length(expanded.len(), bytes_max)?;
        Ok(expanded.into())
    }
}

fn check_length(length: usize, bytes_max: usize) -> Result<(), Refusal> {
    if length <= bytes_max {
        return Ok(());
    }
    Err(Refusal::Transport(
        Code::ResourceExhausted,
        format!("Received message larger than max ({length} vs. {bytes_max})"),
    ))
}

/// Why there is no message.
#[derive(Debug)]
pub enum Unread {
    /// The caller is told.
    Refused(Refusal),
    /// The stream or its connection broke.
    Broken,
}

/// The one message of a unary call while it comes in. Nothing above `bytes_max` is kept.
pub struct Incoming {
    bytes_max: usize,
    /// Nearly every message comes in one piece, which is then never copied.
    whole: Option<Bytes>,
    parts: BytesMut,
}

impl Incoming {
    /// Nothing yet.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            whole: None,
            parts: BytesMut::new(),
        }
    }

    /// Takes the bytes that came next.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED for a message above the limit, as soon as its length is known. INTERNAL for a second message.
    pub fn push(&mut self, part: Bytes) -> Result<(), Refusal> {
        match self.whole.take() {
            None if self.parts.is_empty() => self.whole = Some(part),
            None => self.parts.extend_from_slice(&part),
            Some(first) => {
                self.parts.extend_from_slice(&first);
                self.parts.extend_from_slice(&part);
            }
        }
        let seen = self.whole.as_deref().unwrap_or(&self.parts);
        if let Some(length) = length(seen) {
            check_length(length, self.bytes_max)?;
            if seen.len() > PREFIX + length {
                return Err(malformed("more than one message in a unary call"));
            }
        }
        Ok(())
    }

    /// The message, once the stream has ended.
    ///
    /// # Errors
    /// INTERNAL where there is none, or not all of it, or it cannot be decompressed. RESOURCE_EXHAUSTED where it expands beyond
    /// the limit.
    pub fn finish(self, encoding: Encoding) -> Result<Bytes, Refusal> {
        let mut data = self.whole.unwrap_or_else(|| self.parts.freeze());
        match length(&data) {
            Some(length) if data.len() == PREFIX + length => {}
            Some(_) => return Err(malformed("the message ends before its length")),
            None => return Err(malformed("a unary call without a message")),
        }
        let compressed = data[0] != 0;
        data.advance(PREFIX);
        if compressed {
            return encoding.expand(&data, self.bytes_max);
        }
        Ok(data)
    }
}

/// Reads the one message of a unary call, to the end of the stream.
///
/// # Errors
/// See [`Unread`].
pub async fn read(
    body: &mut RecvStream,
    encoding: Encoding,
    bytes_max: usize,
) -> Result<Bytes, Unread> {
    let mut incoming = Incoming::new(bytes_max);
    while let Some(part) = body.data().await {
        let part = part.map_err(|_| Unread::Broken)?;
        let _ = body.flow_control().release_capacity(part.len());
        incoming.push(part).map_err(Unread::Refused)?;
    }
    incoming.finish(encoding).map_err(Unread::Refused)
}

fn malformed(text: &str) -> Refusal {
    Refusal::Transport(Code::Internal, text.to_owned())
}

fn length(data: &[u8]) -> Option<usize> {
    let length = data.get(1..PREFIX)?;
    Some(u32::from_be_bytes(length.try_into().expect("four bytes")) as usize)
}

/// A message as it goes onto the wire, with what is put behind it.
///
/// # Errors
/// RESOURCE_EXHAUSTED above `bytes_max`.
pub fn frame(message: &[u8], ending: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
    let bytes = message.len() + ending.len();
    let length = match u32::try_from(bytes) {
        Ok(length) if bytes <= bytes_max => length,
        _ => {
            return Err(Refusal::Transport(
                Code::ResourceExhausted,
                format!("Sent message larger than max ({bytes} vs. {bytes_max})"),
            ));
        }
    };
    let mut framed = Vec::with_capacity(PREFIX + bytes);
    framed.push(0);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    framed.extend_from_slice(ending);
    Ok(framed.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "megabytes through gzip: hours under Miri")]
    fn a_message_that_expands_beyond_the_limit_is_refused_and_one_that_just_fits_is_not() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let pack = |length: usize| {
                let data = vec![7; length];
                let level = flate2::Compression::default();
                if encoding == Encoding::Gzip {
                    let mut writer = flate2::write::GzEncoder::new(Vec::new(), level);
                    writer.write_all(&data).expect("memory");
                    writer.finish().expect("memory")
                } else {
                    let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), level);
                    writer.write_all(&data).expect("memory");
                    writer.finish().expect("memory")
                }
            };
            let fits = encoding.expand(&pack(1_000), 1_000).expect("it fits");
            assert_eq!(fits, vec![7; 1_000]);
            let Err(Refusal::Transport(code, _)) = encoding.expand(&pack(1_000_000), 1_000) else {
                panic!("accepted");
            };
            assert_eq!(code, Code::ResourceExhausted);
            let Err(Refusal::Transport(code, _)) = encoding.expand(b"no archive", 1_000) else {
                panic!("accepted");
            };
            assert_eq!(code, Code::Internal);
        }
    }

    #[test]
    fn only_known_encodings_are_understood() {
        assert_eq!(Encoding::parse(None).expect("known"), Encoding::Identity);
        assert_eq!(
            Encoding::parse(Some("gzip")).expect("known"),
            Encoding::Gzip
        );
        let Err(Refusal::Transport(code, text)) = Encoding::parse(Some("snappy")) else {
            panic!("accepted");
        };
        assert_eq!(code, Code::Unimplemented);
        assert!(text.contains("gzip"));
    }

    /// The message that these parts make, or how it is refused.
    fn taken(parts: &[&[u8]], bytes_max: usize) -> Result<Bytes, Code> {
        let mut incoming = Incoming::new(bytes_max);
        let pushed = parts
            .iter()
            .try_for_each(|part| incoming.push(Bytes::copy_from_slice(part)));
        pushed
            .and_then(|()| incoming.finish(Encoding::Identity))
            .map_err(|refusal| refusal.status().code)
    }

    #[test]
    fn a_message_is_the_same_however_it_is_cut() {
        let framed = frame(b"twelve", b" bytes", 12).expect("it fits");
        for size in 1..=framed.len() {
            let parts: Vec<_> = framed.chunks(size).collect();
            assert_eq!(taken(&parts, 12).as_deref(), Ok(&b"twelve bytes"[..]));
            assert_eq!(taken(&parts, 11), Err(Code::ResourceExhausted));
        }
    }

    #[test]
    fn what_is_no_single_message_is_refused() {
        for (parts, code) in [
            (&[][..], Code::Internal),
            (&[&b"\0\0\0\0"[..]][..], Code::Internal),
            (&[&b"\0\0\0\0\x02a"[..]][..], Code::Internal),
            (&[&b"\0\0\0\0\x01a"[..], b"\0"][..], Code::Internal),
            (&[&b"\x01\0\0\0\x01a"[..]][..], Code::Internal),
            (&[&b"\0\xff\xff\xff\xff"[..]][..], Code::ResourceExhausted),
        ] {
            assert_eq!(taken(parts, 100), Err(code), "{parts:?}");
        }
        assert_eq!(taken(&[b"\0\0\0\0\0"], 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn a_message_is_framed_with_its_length() {
        assert_eq!(
            &frame(b"abc", b"", 3).expect("it fits")[..],
            b"\0\0\0\0\x03abc"
        );
        assert!(frame(b"abc", b"d", 3).is_err());
    }
}
