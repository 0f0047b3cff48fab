//! Where to listen, in words: `HOST:PORT`, `[V6]:PORT` or `unix:PATH`.
//!
//! One word can be several addresses: a name is all the addresses it has, in
//! the resolver's order. A word that cannot be used is answered with one line
//! that quotes it and says what to write instead; nothing is guessed, since a
//! server that listens somewhere else than was meant is worse than none.

use crate::escape::escaped;
use crate::kernel::Address;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The longest path that fits into `struct sockaddr_un` with its final NUL. unix(7)
const LONGEST_UNIX_PATH: usize = 107;

/// What can name the addresses to listen on: a word such as `"localhost:1234"`,
/// an [`Address`], a `SocketAddr`, or a list of these.
///
/// ```
/// use threadbare::address::ToAddresses;
/// let addresses = ["127.0.0.1:0", "unix:/run/thread.sock"].to_addresses()?;
/// assert_eq!(addresses.len(), 2);
/// assert_eq!(
///     "1234".to_addresses().map_err(|error| error.to_string()),
///     Err(r#""1234" names no host, write 127.0.0.1:1234 (or 0.0.0.0:1234 for every interface)"#.into()),
/// );
/// # Ok::<(), threadbare::address::AddressError>(())
/// ```
pub trait ToAddresses {
    /// The addresses, in order; a name is looked up now, which may take a while.
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError>;
}

/// A word that names no address: one line that quotes it and says what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl AddressError {
    fn new(word: &OsStr, what: impl fmt::Display) -> AddressError {
        AddressError(format!("\"{}\" {what}", escaped(word.as_bytes())))
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AddressError {}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

impl ToAddresses for OsStr {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        match self.as_bytes().strip_prefix(b"unix:") {
            Some(path) => unix(self, OsStr::from_bytes(path)).map(|address| vec![address]),
            None => tcp(self),
        }
    }
}

/// A path as it stands; it may be bytes that are no UTF-8.
fn unix(word: &OsStr, path: &OsStr) -> Result<Address, AddressError> {
    let length = path.as_bytes().len();
    if length == 0 {
        Err(AddressError::new(word, "names no path, write unix:/tmp/threadbare.sock"))
    } else if path.as_bytes().contains(&0) {
        Err(AddressError::new(word, "has a NUL byte in its path"))
    } else if length > LONGEST_UNIX_PATH {
        let what = format!(
            "is too long: the path of a socket has at most {LONGEST_UNIX_PATH} bytes, not {length}"
        );
        Err(AddressError::new(word, what))
    } else {
        Ok(Address::Unix(PathBuf::from(path)))
    }
}

/// A host and a port, resolved.
fn tcp(word: &OsStr) -> Result<Vec<Address>, AddressError> {
    let wrong = |what: String| AddressError::new(word, what);
    let Some(text) = word.to_str() else {
        return Err(wrong("is not UTF-8 (a path is written unix:PATH)".into()));
    };
    let (host, port) = split(text).map_err(wrong)?;
    let mut addresses = Vec::new();
    for address in (host, port).to_socket_addrs().map_err(|error| wrong(unresolved(&error)))? {
        let address = Address::Tcp(address);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(wrong("has no address".into()));
    }
    Ok(addresses)
}

/// The host, without its brackets, and the port; or what is wrong, and what to write.
fn split(text: &str) -> Result<(&str, u16), String> {
    if let Some((_, rest)) = text.split_once("://") {
        return Err(scheme(rest));
    }
    if text.starts_with(['/', '.']) {
        return Err(format!("looks like a path, write unix:{}", escaped(text.as_bytes())));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Err(no_host(port));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port),
        _ => return Err(no_port(text)),
    };
    if is_v6(text) && !is_v6(host) {
        return Err(format!("is an IPv6 address without a port, write [{text}]:1234"));
    }
    let number = match port.parse::<u16>() {
        Ok(number) if !port.starts_with('+') => number,
        _ if port.is_empty() => return Err(no_port(host)),
        _ => return Err("has no port from 0 to 65535 behind its last colon".into()),
    };
    match host {
        "" => Err(no_host(number)),
        "*" => Err(format!("is not understood, write 0.0.0.0:{number} (and [::]:{number})")),
        _ => Ok((unbracketed(host, number)?, number)),
    }
}

/// What to write instead of a URL, of which `rest` is what follows its scheme.
fn scheme(rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let authority = if authority.is_empty() { "127.0.0.1" } else { authority };
    let port = if split(authority).is_ok() { "" } else { ":1234" };
    format!("has a scheme, write {}{port}", escaped(authority.as_bytes()))
}

/// A V6 host stands in brackets, and nothing else does.
fn unbracketed(host: &str, port: u16) -> Result<&str, String> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => {
            let address = inner.split('%').next().unwrap_or(inner); // fe80::1%eth0 has a scope
            if is_v6(address) {
                Ok(inner)
            } else {
                Err(format!("has no IPv6 address in its brackets, write [::1]:{port}"))
            }
        }
        None if host.contains(':') => {
            let host = escaped(host.trim_matches(['[', ']']).as_bytes());
            Err(format!("is ambiguous: IPv6 goes into brackets, write [{host}]:{port}"))
        }
        None => Ok(host),
    }
}

fn is_v6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

fn no_host(port: u16) -> String {
    format!("names no host, write 127.0.0.1:{port} (or 0.0.0.0:{port} for every interface)")
}

fn no_port(host: &str) -> String {
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    format!("names no port, write {}:1234", escaped(host.as_bytes()))
}

/// The resolver's own words, without std's long preface.
fn unresolved(error: &io::Error) -> String {
    let text = error.to_string();
    let why = text.rsplit_once(": ").map_or(text.as_str(), |(_, why)| why);
    format!("does not resolve ({why})")
}

impl ToAddresses for str {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        OsStr::new(self).to_addresses()
    }
}

impl ToAddresses for String {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        self.as_str().to_addresses()
    }
}

impl ToAddresses for OsString {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        self.as_os_str().to_addresses()
    }
}

impl ToAddresses for Address {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        Ok(vec![self.clone()])
    }
}

impl ToAddresses for SocketAddr {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        Ok(vec![Address::Tcp(*self)])
    }
}

impl<T: ToAddresses> ToAddresses for [T] {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        let lists: Result<Vec<_>, _> = self.iter().map(T::to_addresses).collect();
        Ok(lists?.into_iter().flatten().collect())
    }
}

impl<T: ToAddresses, const N: usize> ToAddresses for [T; N] {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        self.as_slice().to_addresses()
    }
}

impl<T: ToAddresses> ToAddresses for Vec<T> {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        self.as_slice().to_addresses()
    }
}

impl<T: ToAddresses + ?Sized> ToAddresses for &T {
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        (**self).to_addresses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(word: &str) -> Result<Vec<String>, String> {
        let addresses = word.to_addresses().map_err(|error| error.to_string())?;
        Ok(addresses.iter().map(Address::to_string).collect())
    }

    #[test]
    fn good_words() {
        for (word, address) in [
            ("127.0.0.1:1234", "127.0.0.1:1234"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("[::1]:1234", "[::1]:1234"),
            ("[::]:80", "[::]:80"),
            ("[fe80::1%1]:80", "[fe80::1%1]:80"),
            ("unix:/run/a b.sock", "unix:/run/a b.sock"),
            ("unix:relative", "unix:relative"),
            ("unix:1234", "unix:1234"),
        ] {
            assert_eq!(shown(word), Ok(vec![address.to_string()]));
        }
    }

    #[test]
    fn bad_words_say_what_to_write() {
        for (word, message) in [
            ("", r#""" names no port, write 127.0.0.1:1234"#),
            (
                "8080",
                r#""8080" names no host, write 127.0.0.1:8080 (or 0.0.0.0:8080 for every interface)"#,
            ),
            (
                ":8080",
                r#"":8080" names no host, write 127.0.0.1:8080 (or 0.0.0.0:8080 for every interface)"#,
            ),
            ("localhost", r#""localhost" names no port, write localhost:1234"#),
            ("localhost:", r#""localhost:" names no port, write localhost:1234"#),
            ("[::1]", r#""[::1]" names no port, write [::1]:1234"#),
            ("::1", r#""::1" is an IPv6 address without a port, write [::1]:1234"#),
            (
                "fe80::x:80",
                r#""fe80::x:80" is ambiguous: IPv6 goes into brackets, write [fe80::x]:80"#,
            ),
            (
                "[localhost]:80",
                r#""[localhost]:80" has no IPv6 address in its brackets, write [::1]:80"#,
            ),
            ("[::1:80", r#""[::1:80" is ambiguous: IPv6 goes into brackets, write [::1]:80"#),
            ("::1:80", r#""::1:80" is ambiguous: IPv6 goes into brackets, write [::1]:80"#),
            ("a:99999", r#""a:99999" has no port from 0 to 65535 behind its last colon"#),
            ("a:+80", r#""a:+80" has no port from 0 to 65535 behind its last colon"#),
            ("a:http", r#""a:http" has no port from 0 to 65535 behind its last colon"#),
            ("*:80", r#""*:80" is not understood, write 0.0.0.0:80 (and [::]:80)"#),
            ("/tmp/s", r#""/tmp/s" looks like a path, write unix:/tmp/s"#),
            ("tcp://a:80", r#""tcp://a:80" has a scheme, write a:80"#),
            ("http://[::1]:80/x?y", r#""http://[::1]:80/x?y" has a scheme, write [::1]:80"#),
            ("http://a/", r#""http://a/" has a scheme, write a:1234"#),
            ("http://", r#""http://" has a scheme, write 127.0.0.1:1234"#),
            ("unix:", r#""unix:" names no path, write unix:/tmp/threadbare.sock"#),
            ("unix:a\0b", r#""unix:a\x00b" has a NUL byte in its path"#),
            ("\x1b[2J", r#""\x1b[2J" names no port, write \x1b[2J:1234"#),
        ] {
            assert_eq!(shown(word), Err(message.to_string()));
        }
    }

    #[test]
    fn the_longest_path_is_what_the_kernel_takes() {
        let path = "x".repeat(LONGEST_UNIX_PATH);
        assert_eq!(shown(&format!("unix:{path}")), Ok(vec![format!("unix:{path}")]));
        assert!(shown(&format!("unix:{path}x")).is_err_and(|error| error.contains("at most 107")));
    }

    #[test]
    fn a_path_may_be_any_bytes_and_a_host_may_not() {
        let path = OsStr::from_bytes(b"unix:/tmp/\xff");
        let address = Address::Unix(PathBuf::from(OsStr::from_bytes(b"/tmp/\xff")));
        assert_eq!(path.to_addresses(), Ok(vec![address]));
        let error = OsStr::from_bytes(b"\xff:80").to_addresses().map_err(|error| error.to_string());
        assert_eq!(error, Err(r#""\xff:80" is not UTF-8 (a path is written unix:PATH)"#.into()));
    }

    /// `.invalid` is reserved never to resolve (RFC 6761).
    #[test]
    fn a_name_that_does_not_resolve_says_so() {
        let error = shown("no-such-host.invalid:80").err().unwrap_or_default();
        assert!(error.starts_with(r#""no-such-host.invalid:80" does not resolve ("#), "{error}");
    }

    #[test]
    fn lists_keep_their_order_and_names_have_no_address_twice() {
        let list = vec!["127.0.0.1:2", "127.0.0.1:1"].to_addresses().unwrap_or_default();
        assert_eq!(
            list,
            ["127.0.0.1:2".to_addresses(), "127.0.0.1:1".to_addresses()]
                .map(Result::unwrap_or_default)
                .concat()
        );
        let names = shown("localhost:1234").unwrap_or_default();
        assert!(!names.is_empty());
        let mut once = names.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), names.len());
    }
}
