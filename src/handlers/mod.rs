//! The ready-made handlers. Each is also the example of how to write one.

mod chat;
mod echo;
mod greet;
#[cfg(feature = "http")]
mod http;
mod once;
mod proxy;

pub use chat::Chat;
pub use echo::Echo;
pub use greet::Greet;
#[cfg(feature = "http")]
pub use http::Http;
pub use once::Once;
pub use proxy::Proxy;

/// What a message is, for [`Greet`] and [`Once`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A line, ending in LF or CRLF.
    #[default]
    Line,
    /// Whatever one recv returned.
    Chunk,
}

/// What both say to a line that is longer than they take.
fn too_long(max_line: usize) -> String {
    format!("error: line longer than {max_line} bytes\n")
}
