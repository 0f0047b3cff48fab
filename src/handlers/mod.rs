//! The ready-made handlers. Each is also the example of how to write one.
//!
//! ```
//! use std::time::Duration;
//! use threadbare::address::Place;
//! use threadbare::handlers::{Chat, Echo, Framing, Greet, Http, Proxy};
//! use threadbare::{Limits, Server};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let chat = Server::builder(Chat::new(4_096)).bind("127.0.0.1:0")?;
//! let greet = Server::builder(Greet::new(Framing::Line, 4_096)).bind("127.0.0.1:0")?;
//! let http = Server::builder(Http::new().serve("docs")).bind("127.0.0.1:0")?;
//!
//! let upstream: Place = "127.0.0.1:8080".parse()?;
//! let limits = Limits { max_outbound: 10_000, ..Limits::default() };
//! let proxy = Proxy::new(upstream, Duration::from_secs(5));
//! let proxy = Server::builder(proxy).limits(limits).bind("127.0.0.1:0")?;
//! # let _ = (Server::builder(Echo), chat, greet, http, proxy);
//! # Ok(())
//! # }
//! ```

mod catch_panics;
#[cfg(feature = "chat")]
mod chat;
mod echo;
mod greet;
#[cfg(feature = "http")]
mod http;
mod once;
mod proxy;
#[cfg(feature = "chat")]
mod telnet;

pub use catch_panics::CatchPanics;
#[cfg(feature = "chat")]
pub use chat::Chat;
pub use echo::Echo;
pub use greet::Greet;
#[cfg(feature = "http")]
pub use http::Http;
pub use once::Once;
pub use proxy::Proxy;

use crate::net::Conn;

/// What a message is, for [`Greet`] and [`Once`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A line, ending in LF or CRLF.
    #[default]
    Line,
    /// Whatever one recv returned.
    Chunk,
}

/// What a client gets that takes this for a web server.
const NO_WEB: &[u8] = b"error: this is no web server\n";

/// Whether a client begins as a browser does: with a line that ends with the version of HTTP, or
/// with a record of TLS, whose bytes have an LF somewhere. Any page may let a browser send a
/// request to a port of the machine it runs on, and the lines of the form would be heard as
/// those of the user.
fn is_web(first: &[u8]) -> bool {
    let line = first.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") || line.starts_with(b"\x16\x03")
}

/// What both say to a line that is longer than they take.
fn too_long(conn: &mut Conn<'_>, max_line: usize) {
    writeln!(conn, "error: line longer than {max_line} bytes");
}
