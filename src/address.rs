//! Where to listen, in words: `HOST:PORT`, `[V6]:PORT`, `unix:PATH`, or `fd:N` and `fd:NAME` for
//! a socket that this process was started with.
//!
//! A word names a [`Place`], which can be several addresses: a name is all the addresses
//! it has, in the resolver's order, and may have others tomorrow. A word that cannot be
//! used is answered with one line that quotes it and says what to write instead; nothing
//! is guessed, since a server that listens somewhere else than was meant is worse than
//! none. So an IPv4 address is four numbers, although the resolver takes `0` for 0.0.0.0
//! and `010.0.0.1` for 8.0.0.1.

use crate::error::Error;
use crate::escape::escaped;
use crate::fallible::shown;
use crate::inherited::{Passed, passed};
use crate::kernel::{Address, Errno};
use crate::reaction::Call;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path that fits into `struct sockaddr_un` with its final NUL. unix(7)
const LONGEST_UNIX_PATH: usize = 107;

/// What can name the places to listen at: a word such as `"localhost:1234"`, a [`Place`],
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
    /// The places, in order; a name is looked up now, which may take a while.
    fn to_places(&self) -> Result<Vec<Place>, AddressError>;

    /// The addresses of all places, in order.
    fn to_addresses(&self) -> Result<Vec<Address>, AddressError> {
        let places = self.to_places()?;
        Ok(places.into_iter().flat_map(|place| place.addresses).collect())
    }
}

/// What one word names: an address, or a name with the addresses that it had when it was
/// last looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    word: OsString,
    /// The host to be looked up, and the port; none if the word is an address.
    name: Option<(String, u16)>,
    addresses: Vec<Address>,
    /// Sockets that listen already; their addresses are asked for when they are taken over.
    descriptors: Vec<i32>,
    /// Declares that only fronts connect there.
    is_behind_front: bool,
}

impl Place {
    /// Understands a word and looks nothing up: a name has no addresses yet.
    ///
    /// # Errors
    ///
    /// The word is neither an address nor a name with a port.
    pub fn parse(word: &OsStr) -> Result<Place, AddressError> {
        let place = |name, addresses| {
            let place = Place::from(addresses);
            Place { word: word.to_owned(), name, ..place }
        };
        if let Some(name) = word.as_bytes().strip_prefix(b"fd:") {
            let descriptors = inherited(word, name, &passed())?;
            return Ok(Place { descriptors, ..place(None, Vec::new()) });
        }
        if let Some(path) = word.as_bytes().strip_prefix(b"unix:") {
            return unix(word, OsStr::from_bytes(path)).map(|address| place(None, vec![address]));
        }
        let wrong = |what: String| AddressError::new(word, what);
        let Some(text) = word.to_str() else {
            return Err(wrong("is not UTF-8 (a path is written unix:PATH)".into()));
        };
        let (host, port) = split(text).map_err(wrong)?;
        match text.parse() {
            Ok(address) => Ok(place(None, vec![Address::Tcp(address)])),
            Err(_) => Ok(place(Some((host.to_owned(), port)), Vec::new())),
        }
    }

    /// Looks a name up: the same place with the addresses that it has now. The resolver
    /// may take many seconds, so this is nothing for a callback.
    ///
    /// # Errors
    ///
    /// The name has no address, or the resolver cannot say.
    pub fn look_up(&self) -> Result<Place, AddressError> {
        let Some((host, port)) = &self.name else { return Ok(self.clone()) };
        let wrong = |what: String| AddressError::new(&self.word, what);
        let mut place = Place { addresses: Vec::new(), ..self.clone() };
        let found = (host.as_str(), *port).to_socket_addrs();
        for address in found.map_err(|error| wrong(unresolved(host, *port, &error)))? {
            // A hosts file may have `::ffff:127.0.0.1`, which is an IPv4 address.
            let address = match address.ip().to_canonical() {
                IpAddr::V4(ip) => Address::Tcp((ip, address.port()).into()),
                IpAddr::V6(_) => Address::Tcp(address),
            };
            if !place.addresses.contains(&address) {
                place.addresses.push(address);
            }
        }
        if place.addresses.is_empty() { Err(wrong("has no address".into())) } else { Ok(place) }
    }

    /// Whether it is a name, which may have other addresses when it is looked up again.
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.name.is_some()
    }

    /// Its port; a path has none.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match (&self.name, self.addresses.first()) {
            (Some((_, port)), _) => Some(*port),
            (None, Some(Address::Tcp(address))) => Some(address.port()),
            _ => None,
        }
    }

    /// Its addresses, in the resolver's order.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// All sockets that this process was started with, each a place: what LISTEN_FDS says, if
    /// LISTEN_PID is this process. sd_listen_fds(3)
    #[must_use]
    pub fn inherited() -> Vec<Place> {
        passed().into_iter().map(|(number, _)| Place::of_descriptor(number)).collect()
    }

    fn of_descriptor(number: i32) -> Place {
        let (word, descriptors) = (format!("fd:{number}").into(), vec![number]);
        Place { word, descriptors, ..Place::from(Vec::new()) }
    }

    /// The sockets that it names, which listen already.
    #[must_use]
    pub fn descriptors(&self) -> &[i32] {
        &self.descriptors
    }

    /// How many listeners it makes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.addresses.len() + self.descriptors.len()
    }

    /// The same place with addresses that were found elsewhere.
    #[must_use]
    pub fn with(self, addresses: Vec<Address>) -> Place {
        Place { addresses, ..self }
    }

    /// A listener there is for fronts: each connection begins with a
    /// [header](crate::proxy_header) of the PROXY protocol, which names the client. One that
    /// does not is reset, so only fronts should be able to reach the place: a client that can
    /// takes any name it likes.
    ///
    /// ```no_run
    /// # use threadbare::{Server, ToAddresses, handlers::Echo};
    /// let mut places = "127.0.0.1:8080".to_places()?; // for all
    /// let fronts = "unix:/run/echo.sock".to_places()?.into_iter().map(|it| it.behind_front());
    /// places.extend(fronts);
    /// let server = Server::builder(Echo).bind(places)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn behind_front(self) -> Place {
        Place { is_behind_front: true, ..self }
    }

    /// Whether a listener there is for fronts.
    #[must_use]
    pub fn is_behind_front(&self) -> bool {
        self.is_behind_front
    }

    /// How an error names one of its addresses: with the word that the user knows.
    pub(crate) fn call(&self, address: impl fmt::Display) -> String {
        match self.is_name() {
            true => shown(format_args!("{self} ({address})")),
            false => shown(address),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escaped(self.word.as_bytes()).fmt(f)
    }
}

/// As [`Place::parse`].
impl FromStr for Place {
    type Err = AddressError;

    fn from_str(word: &str) -> Result<Place, AddressError> {
        Place::parse(OsStr::new(word))
    }
}

/// Addresses that no word stands for.
impl From<Vec<Address>> for Place {
    fn from(addresses: Vec<Address>) -> Place {
        let (word, descriptors) = (OsString::new(), Vec::new());
        Place { word, name: None, addresses, descriptors, is_behind_front: false }
    }
}

impl From<Address> for Place {
    fn from(address: Address) -> Place {
        let word = match &address {
            Address::Tcp(address) => address.to_string().into(),
            Address::Unix(path) => [OsStr::new("unix:"), path.as_os_str()].into_iter().collect(),
        };
        Place { word, ..Place::from(vec![address]) }
    }
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

/// As the call that the address was for: a failed bind with EINVAL.
impl From<AddressError> for Error {
    fn from(error: AddressError) -> Error {
        Error::new(Call::BindTcp, error, Errno::EINVAL)
    }
}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

impl ToAddresses for OsStr {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        Ok(vec![Place::parse(self)?.look_up()?])
    }
}

/// The descriptor with this number, passed or not; or all that were passed with this name.
fn inherited(word: &OsStr, name: &[u8], passed: &[Passed]) -> Result<Vec<i32>, AddressError> {
    let name = String::from_utf8_lossy(name);
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = name.parse().map_err(|_| AddressError::new(word, "is no descriptor"))?;
        return Ok(vec![number]);
    }
    let has_name = |it: &&Passed| !name.is_empty() && it.1 == name;
    let numbers: Vec<i32> = passed.iter().filter(has_name).map(|(number, _)| *number).collect();
    if numbers.is_empty() {
        let what = match passed {
            [] => "names a socket that was not passed: none was (LISTEN_FDS), write an address such as 127.0.0.1:1234".into(),
            [(number, _), ..] => format!("names a socket that was not passed (LISTEN_FDNAMES), write a number such as fd:{number}"),
        };
        return Err(AddressError::new(word, what));
    }
    Ok(numbers)
}

/// A path as it stands; it may be bytes that are no UTF-8.
fn unix(word: &OsStr, path: &OsStr) -> Result<Address, AddressError> {
    let length = path.as_bytes().len();
    if matches!(path.as_bytes(), [] | b"@") {
        Err(AddressError::new(word, "names no path, write unix:/tmp/threadbare.sock"))
    } else if path.as_bytes().starts_with(b"@") {
        let (name, shown) = (path.as_bytes().get(1..).unwrap_or_default(), path.as_bytes());
        let what = format!(
            "would be an abstract socket, which anybody may use, write unix:/tmp/{} (or unix:./{} for a file of that name)",
            escaped(name),
            escaped(shown)
        );
        Err(AddressError::new(word, what))
    } else if path.as_bytes().starts_with(b"~") {
        let what = format!(
            "has a ~ that no shell has replaced, write unix:$HOME{} (or unix:./{} for a file of that name)",
            escaped(path.as_bytes().get(1..).unwrap_or_default()),
            escaped(path.as_bytes())
        );
        Err(AddressError::new(word, what))
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
            match address.parse::<Ipv6Addr>().map(|address| address.to_ipv4_mapped()) {
                Ok(None) => Ok(inner),
                Ok(Some(v4)) => Err(format!("is an IPv4 address, write {v4}:{port}")),
                Err(_) => Err(format!("has no IPv6 address in its brackets, write [::1]:{port}")),
            }
        }
        None if host.contains(':') => {
            let host = host.trim_matches(['[', ']']);
            if !is_v6(host.split('%').next().unwrap_or(host)) {
                return Err(format!("has several colons, write 127.0.0.1:{port} or [::1]:{port}"));
            }
            let host = escaped(host.as_bytes());
            Err(format!("is ambiguous: IPv6 goes into brackets, write [{host}]:{port}"))
        }
        None if is_numeric(host) && host.parse::<Ipv4Addr>().is_err() => Err(format!(
            "is no IPv4 address, which is four numbers from 0 to 255 with no zero before them, \
             write 127.0.0.1:{port} (or 0.0.0.0:{port} for every interface)"
        )),
        None => Ok(host),
    }
}

/// Whether there is nothing but numbers, decimal or hexadecimal: the resolver would read it
/// as inet_aton(3) does, `127.1` as 127.0.0.1 and `010` as 0.0.0.8.
fn is_numeric(host: &str) -> bool {
    host.split('.').all(|part| {
        let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
        match hex {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => part.bytes().all(|byte| byte.is_ascii_digit()),
        }
    })
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
fn unresolved(host: &str, port: u16, error: &io::Error) -> String {
    if host.contains('%') {
        return "names no interface of this machine (see ip addr)".into();
    }
    let text = error.to_string();
    let why = text.rsplit_once(": ").map_or(text.as_str(), |(_, why)| why);
    format!("does not resolve ({why}), write an address such as 127.0.0.1:{port}")
}

/// Whether a client of `target` comes to the listener at `own`, as far as can be known. (A
/// listener that is given port 0 gets a free one, which nothing names.) A proxy between the
/// two would hand a client on to itself, again and again.
#[must_use]
pub fn leads_to(target: &Address, own: &Address) -> bool {
    match (target, own) {
        (Address::Tcp(target), Address::Tcp(own)) => {
            let to = match target.ip().to_canonical() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip, // the unspecified address is this machine, to connect to
            };
            let at = own.ip().to_canonical();
            let is_everywhere = at.is_unspecified() && at.is_ipv4() == to.is_ipv4();
            target.port() == own.port() && (to == at || is_everywhere && is_ours(to))
        }
        (Address::Unix(target), Address::Unix(own)) => file(target) == file(own),
        _ => false,
    }
}

/// Whether this machine has the address: then a socket can be bound to it.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// The file that the path names, whether or not it exists, and however it is written.
fn file(path: &Path) -> PathBuf {
    let of_folder = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(of_folder).unwrap_or_else(|| path.to_owned())
}

impl ToAddresses for str {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        OsStr::new(self).to_places()
    }
}

impl ToAddresses for String {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        self.as_str().to_places()
    }
}

impl ToAddresses for OsString {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        self.as_os_str().to_places()
    }
}

impl ToAddresses for Place {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        Ok(vec![self.clone()])
    }
}

impl ToAddresses for Address {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        Ok(vec![self.clone().into()])
    }
}

impl ToAddresses for SocketAddr {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        Ok(vec![Address::Tcp(*self).into()])
    }
}

impl<T: ToAddresses> ToAddresses for [T] {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        let lists: Result<Vec<_>, _> = self.iter().map(T::to_places).collect();
        Ok(lists?.into_iter().flatten().collect())
    }
}

impl<T: ToAddresses, const N: usize> ToAddresses for [T; N] {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        self.as_slice().to_places()
    }
}

impl<T: ToAddresses> ToAddresses for Vec<T> {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        self.as_slice().to_places()
    }
}

impl<T: ToAddresses + ?Sized> ToAddresses for &T {
    fn to_places(&self) -> Result<Vec<Place>, AddressError> {
        (**self).to_places()
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
            ("unix:./@name", "unix:./@name"),
            ("unix:a~b@c", "unix:a~b@c"),
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
                "fe80::1%eth0:80",
                r#""fe80::1%eth0:80" is ambiguous: IPv6 goes into brackets, write [fe80::1%eth0]:80"#,
            ),
            ("fe80::x:80", r#""fe80::x:80" has several colons, write 127.0.0.1:80 or [::1]:80"#),
            ("tcp:a:80", r#""tcp:a:80" has several colons, write 127.0.0.1:80 or [::1]:80"#),
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
            (
                "[::ffff:10.0.0.1]:80",
                r#""[::ffff:10.0.0.1]:80" is an IPv4 address, write 10.0.0.1:80"#,
            ),
            (
                "unix:@name",
                r#""unix:@name" would be an abstract socket, which anybody may use, write unix:/tmp/name (or unix:./@name for a file of that name)"#,
            ),
            (
                "unix:~/s",
                r#""unix:~/s" has a ~ that no shell has replaced, write unix:$HOME/s (or unix:./~/s for a file of that name)"#,
            ),
            ("unix:", r#""unix:" names no path, write unix:/tmp/threadbare.sock"#),
            ("unix:@", r#""unix:@" names no path, write unix:/tmp/threadbare.sock"#),
            ("unix:a\0b", r#""unix:a\x00b" has a NUL byte in its path"#),
            ("\x1b[2J", r#""\x1b[2J" names no port, write \x1b[2J:1234"#),
        ] {
            assert_eq!(shown(word), Err(message.to_string()));
            // The word to write instead is a word: `[fe80::x]:80` and `unix:/tmp/` were none.
            if let Some((_, advice)) = message.split_once(", write ") {
                let word = advice.split(' ').next().unwrap_or_default();
                assert!(word.parse::<Place>().is_ok(), "{word}");
            }
        }
    }

    /// The resolver would take each of these for an address, and seldom for the one that was
    /// meant: `0` for every interface, `010.0.0.1` for 8.0.0.1.
    #[test]
    fn numbers_that_are_no_address_are_not_guessed() {
        for host in [
            "0",
            "1",
            "127.1",
            "010.0.0.1",
            "127.0.0.01",
            "0x7f.0.0.1",
            "0x7f000001",
            "2130706433",
            "256.0.0.1",
            "1.2.3.4.5",
            "127.0.0.1.",
            "0X7F.1",
            "0x",
            "127..1",
        ] {
            let error = shown(&format!("{host}:80")).err().unwrap_or_default();
            let due = "is no IPv4 address, which is four numbers from 0 to 255 with no zero before \
                       them, write 127.0.0.1:80 (or 0.0.0.0:80 for every interface)";
            assert_eq!(error, format!("\"{host}:80\" {due}"));
        }
        for host in ["node.1", "1-2", "0xyz", "a"] {
            assert!(!is_numeric(host), "{host} may be a name");
        }
    }

    /// A name is not looked up before it is wanted, and again each time it is.
    #[test]
    fn a_name_has_addresses_when_it_is_looked_up() {
        let place = |word: &str| Place::parse(OsStr::new(word)).unwrap();
        let name = place("no-such-host.invalid:80");
        assert!(name.is_name() && name.addresses().is_empty() && name.look_up().is_err());
        let name = place("localhost:80").look_up().unwrap();
        assert!(name.is_name() && !name.addresses().is_empty());
        assert_eq!(name.look_up(), Ok(name.clone()));
        assert_eq!(name.call("[::1]:80"), "localhost:80 ([::1]:80)");
        let literal = place("127.0.0.1:80");
        assert!(!literal.is_name());
        assert_eq!(
            (literal.look_up(), literal.call("127.0.0.1:80")),
            (Ok(literal.clone()), "127.0.0.1:80".into())
        );
    }

    #[test]
    fn an_interface_that_is_not_there() {
        let error = shown("[fe80::1%no-such-if]:80").err().unwrap_or_default();
        let due = r#""[fe80::1%no-such-if]:80" names no interface of this machine (see ip addr)"#;
        assert_eq!(error, due);
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
