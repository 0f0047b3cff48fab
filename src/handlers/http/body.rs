//! The body of a request. It is not used, but the next request begins where it ends, so its
//! framing is read as strictly as the head. RFC 9112, 6 and 7
//!
//! It is read as it comes and not kept, up to [`MAX_BODY`] bytes with its framing.

use super::status::Status;

/// The longest body, in bytes, with its framing.
pub(super) const MAX_BODY: u64 = 1 << 20;

/// How much of a body is still to come.
#[derive(Debug)]
pub(super) struct Body {
    /// The bytes that it may still have, or, if its length is known, must have.
    left: u64,
    /// The position in its chunks, unless its length is known.
    chunks: Option<Chunks>,
}

/// The position in a chunked body: what the next byte belongs to. RFC 9112, 7.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// The length of a chunk, of which no digit or some were read.
    Size {
        size: u64,
        has_digits: bool,
    },
    /// The extensions after the length, up to CR.
    Extensions {
        size: u64,
        at: Extension,
    },
    /// The LF after that CR.
    SizeEnd {
        size: u64,
    },
    /// This many bytes of the chunk's data, at least one.
    Data(u64),
    /// The CR and the LF after the data.
    DataCr,
    DataLf,
    /// The first byte of a trailer field, or the CR of the last line.
    Trailer,
    /// The rest of its name, and of its value.
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// The LF at the end of the body.
    LastLf,
}

/// The position in a list of extensions: `;name=value;name="quoted"`, with space around `;` and
/// `=` but not at the end. RFC 9112, 7.1.1
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// Space came after a length or a value, so a `;` must come.
    Space,
    /// A `;` came, so a name must come.
    Semicolon,
    Name,
    NameSpace,
    /// A `=` came, so a value must come.
    Equals,
    Value,
    Quoted,
    /// A backslash in quotes came.
    Escape,
    /// The quotes are closed.
    QuotesEnd,
}

impl Body {
    /// A body of a known length; `None` if that is 0.
    pub(super) fn of_length(length: u64) -> Option<Body> {
        (length > 0).then_some(Body { left: length, chunks: None })
    }

    pub(super) fn chunked() -> Body {
        Body { left: MAX_BODY, chunks: Some(Chunks::Size { size: 0, has_digits: false }) }
    }

    /// Takes the bytes of the body from the front of `input`. Returns whether it ended there.
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

    /// Takes up to `most` bytes. Returns how many.
    fn take(&mut self, most: u64, input: &mut &[u8]) -> u64 {
        let taken = most.min(input.len() as u64);
        *input = input.get(taken as usize..).unwrap_or_default();
        self.left -= taken;
        taken
    }
}

impl Chunks {
    /// The position after `byte`; `None` at the end of the body.
    fn next(self, byte: u8) -> Result<Option<Chunks>, Status> {
        use Chunks::*;
        use Extension::*;
        Ok(Some(match (self, byte) {
            (Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                let size = size << 4 | u64::from(digit);
                if size > MAX_BODY {
                    return Err(Status::CONTENT_TOO_LARGE);
                }
                Size { size, has_digits: true }
            }
            (Size { size, has_digits: true }, b'\r') => SizeEnd { size },
            (Extensions { size, at: Name | Value | QuotesEnd }, b'\r') => SizeEnd { size },
            (Size { size, has_digits: true }, _) => Extensions { size, at: Space.next(byte)? },
            (Extensions { size, at }, _) => Extensions { size, at: at.next(byte)? },
            (SizeEnd { size: 0 }, b'\n') => Trailer,
            (SizeEnd { size }, b'\n') => Data(size),
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Size { size: 0, has_digits: false },
            (Trailer, b'\r') => LastLf,
            (Trailer | TrailerName, _) if is_of_a_token(byte) => TrailerName,
            (TrailerName, b':') => TrailerValue,
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerValue, _) if is_text(byte) => TrailerValue,
            (TrailerLf, b'\n') => Trailer,
            (LastLf, b'\n') => return Ok(None),
            _ => return Err(Status::BAD_REQUEST),
        }))
    }
}

impl Extension {
    fn next(self, byte: u8) -> Result<Extension, Status> {
        use Extension::*;
        Ok(match (self, byte) {
            (Quoted, b'"') => QuotesEnd,
            (Quoted, b'\\') => Escape,
            (Quoted | Escape, _) if is_text(byte) => Quoted,
            (Semicolon | Name, _) if is_of_a_token(byte) => Name,
            (Equals | Value, _) if is_of_a_token(byte) => Value,
            (Equals, b'"') => Quoted,
            (Semicolon | Equals, b' ' | b'\t') => self,
            (Name | NameSpace, b' ' | b'\t') => NameSpace,
            (Space | Value | QuotesEnd, b' ' | b'\t') => Space,
            (Name | NameSpace, b'=') => Equals,
            (Space | Name | NameSpace | Value | QuotesEnd, b';') => Semicolon,
            _ => return Err(Status::BAD_REQUEST),
        })
    }
}

/// What may stand in a value, and in quotes.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// What may stand in a name. RFC 9110, 5.6.2
fn is_of_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
