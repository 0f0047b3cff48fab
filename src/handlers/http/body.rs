//! The body of a request: nobody wants it, but where it ends the next request begins, so
//! its framing is read as strictly as the head is. RFC 9112, 6 and 7
//!
//! It is read as it comes and kept nowhere, up to [`MAX_BODY`] bytes with its framing.

use super::status::Status;

/// The longest body.
pub(super) const MAX_BODY: u64 = 1 << 20;

/// How much of a body is still to come.
#[derive(Debug)]
pub(super) struct Body {
    /// Bytes that it may still have, or, of a known length, must.
    left: u64,
    /// Where in its chunks it stands, unless its length is known.
    chunks: Option<Chunks>,
}

/// Where a chunked body stands: what the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// The length of a chunk, of which so many digits were read.
    Size {
        size: u64,
        digits: u8,
    },
    /// What may stand behind the length, from `;` to CR.
    Extension {
        size: u64,
    },
    /// The LF behind it.
    SizeEnd {
        size: u64,
    },
    /// So many bytes of the chunk itself, at least one.
    Data(u64),
    /// The CR and the LF behind these.
    DataCr,
    DataLf,
    /// The first byte of a trailer field, or the CR of the last line.
    Trailer,
    /// The rest of it.
    TrailerField,
    TrailerLf,
    /// The LF at the end of all.
    LastLf,
}

impl Body {
    /// A body of a known length; `None` if that is 0.
    pub(super) fn of_length(length: u64) -> Option<Body> {
        (length > 0).then_some(Body { left: length, chunks: None })
    }

    pub(super) fn chunked() -> Body {
        Body { left: MAX_BODY, chunks: Some(Chunks::Size { size: 0, digits: 0 }) }
    }

    /// Takes what belongs to the body from the front of `input`; whether that was its end.
    pub(super) fn pass(&mut self, input: &mut &[u8]) -> Result<bool, Status> {
        let Some(mut state) = self.chunks else {
            self.take(self.left, input);
            return Ok(self.left == 0);
        };
        while let [byte, ..] = **input {
            if self.left == 0 {
                return Err(Status::CONTENT_TOO_LARGE);
            }
            if let Chunks::Data(size) = state {
                let taken = self.take(size.min(self.left), input);
                state = if taken == size { Chunks::DataCr } else { Chunks::Data(size - taken) };
            } else {
                self.take(1, input);
                state = match state.next(byte)? {
                    Some(state) => state,
                    None => return Ok(true),
                };
            }
            self.chunks = Some(state);
        }
        Ok(false)
    }

    /// Takes `most` bytes if there are as many; how many it took.
    fn take(&mut self, most: u64, input: &mut &[u8]) -> u64 {
        let taken = most.min(input.len() as u64);
        *input = input.get(taken as usize..).unwrap_or_default();
        self.left -= taken;
        taken
    }
}

impl Chunks {
    /// Where the body stands behind `byte`; `None` at its end.
    fn next(self, byte: u8) -> Result<Option<Chunks>, Status> {
        use Chunks::*;
        let is_text = byte == b'\t' || !byte.is_ascii_control();
        Ok(Some(match (self, byte) {
            (Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 16 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Size { size, digits: 1.. }, b';') => Extension { size },
            (Size { size, digits: 1.. } | Extension { size }, b'\r') => SizeEnd { size },
            (Extension { size }, _) if is_text => Extension { size },
            (SizeEnd { size: 0 }, b'\n') => Trailer,
            (SizeEnd { size }, b'\n') => Data(size),
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Size { size: 0, digits: 0 },
            (Trailer, b'\r') => LastLf,
            (Trailer, _) if byte.is_ascii_graphic() && byte != b':' => TrailerField,
            (TrailerField, b'\r') => TrailerLf,
            (TrailerField, _) if is_text => TrailerField,
            (TrailerLf, b'\n') => Trailer,
            (LastLf, b'\n') => return Ok(None),
            _ => return Err(Status::BAD_REQUEST),
        }))
    }
}
