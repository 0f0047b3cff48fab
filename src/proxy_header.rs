//! The header of the PROXY protocol: what a front writes before a client's first byte, so that
//! the server behind it knows whose connection it is.
//!
//! A front (HAProxy, nginx, a load balancer) makes a connection of its own for each client, so
//! the server sees the front's address. The header names the client's. Version 1 is a line of
//! text, version 2 is binary and may carry more, as TLVs, which are skipped here. See
//! <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>.
//!
//! The protocol forbids to guess whether there is a header, because then any client could write
//! one. So bytes that begin none are refused at the first one that shows it.
//!
//! Invariant: what [`parse`] says of some bytes does not depend on what comes behind a whole
//! header, and bytes that it calls partial become whole, or wrong, within [`LONGEST`] bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes of a header: a version 2 one, with this server's bound on its TLVs.
pub const LONGEST: usize = FIXED + LONGEST_REST;

/// What a version 2 header begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header that always stand: signature, command, family, length.
const FIXED: usize = SIGNATURE.len() + 4;
/// Most bytes behind them.
const LONGEST_REST: usize = 4_096;
/// Most bytes of one that [`write`] writes.
pub(crate) const LONGEST_WRITTEN: usize = FIXED + 36;
/// What a version 1 header begins with.
const WORD: &[u8] = b"PROXY ";
/// Most bytes of it, its CR LF included.
const LONGEST_LINE: usize = 107;

/// What some bytes are, that a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Partial,
    /// A header, and perhaps more behind it.
    Whole(Header),
    /// No header.
    Wrong,
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes.
    pub length: usize,
    /// The client, and the address that it connected to. `None` if the front speaks for itself
    /// (LOCAL: a health check), or names no TCP client (UNKNOWN, a Unix socket).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Reads a header at the beginning of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, due)| byte == due);
    if begins(WORD) {
        parse_line(bytes)
    } else if begins(SIGNATURE) {
        parse_binary(bytes)
    } else {
        Parsed::Wrong
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`, CR, LF.
fn parse_line(bytes: &[u8]) -> Parsed {
    let bytes = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        let is_cut = bytes.len() < LONGEST_LINE;
        return if is_cut { Parsed::Partial } else { Parsed::Wrong };
    };
    let line = bytes.get(WORD.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    match line.and_then(|line| std::str::from_utf8(line).ok()).and_then(addresses) {
        Some(addresses) => Parsed::Whole(Header { length: end + 1, addresses }),
        None => Parsed::Wrong,
    }
}

/// The words behind `PROXY `: `None` if they are not as they must be.
fn addresses(words: &str) -> Option<Option<(SocketAddr, SocketAddr)>> {
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = words.split(' ');
    let ip: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (from, to) = (ip(words.next()?)?, ip(words.next()?)?);
    let (from_port, to_port) = (port(words.next()?)?, port(words.next()?)?);
    let is_all = words.next().is_none();
    is_all.then_some(Some((SocketAddr::new(from, from_port), SocketAddr::new(to, to_port))))
}

/// A number from 0 to 65535, written in the one way there is.
fn port(word: &str) -> Option<u16> {
    let is_plain = word == "0" || word.starts_with(|first| matches!(first, '1'..='9'));
    word.parse().ok().filter(|_| is_plain)
}

/// Version 2: signature, version and command, family, length, addresses, TLVs.
fn parse_binary(bytes: &[u8]) -> Parsed {
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        // What has come of these is looked at when it is whole; the signature is.
        return Parsed::Partial;
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let least = match (command, family) {
        (LOCAL, _) | (PROXY, 0) => 0,
        (PROXY, TCP4 | UDP4) => 12,
        (PROXY, TCP6 | UDP6) => 36,
        (PROXY, UNIX_STREAM | UNIX_DATAGRAM) => 216,
        _ => return Parsed::Wrong,
    };
    if rest < least || rest > LONGEST_REST {
        return Parsed::Wrong;
    }
    let length = FIXED + rest;
    let Some(block) = bytes.get(FIXED..length) else { return Parsed::Partial };
    let addresses = match (command, family) {
        (PROXY, TCP4) => pair::<4, Ipv4Addr>(block),
        (PROXY, TCP6) => pair::<16, Ipv6Addr>(block),
        _ => None,
    };
    Parsed::Whole(Header { length, addresses })
}

/// Version 2, and the command LOCAL: the front speaks for itself.
const LOCAL: u8 = 0x20;
/// Version 2, and the command PROXY: it speaks for a client.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

/// Two addresses of `N` bytes, and behind them their ports.
fn pair<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(
    block: &[u8],
) -> Option<(SocketAddr, SocketAddr)> {
    let (from, rest) = block.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk()?;
    let (to_port, _) = rest.split_first_chunk()?;
    let address = |ip: [u8; N], port| SocketAddr::new(A::from(ip).into(), u16::from_be_bytes(port));
    Some((address(*from, *from_port), address(*to, *to_port)))
}

/// Writes a version 2 header for a client at `from` that connected to `to`. Without `from`,
/// it names no client: the server behind takes the address of the connection. Where `to` is
/// not known it is 0.0.0.0, port 0; if one of them is V6, both are written so.
#[must_use]
pub fn write(from: Option<SocketAddr>, to: Option<SocketAddr>) -> Vec<u8> {
    let mut header = Vec::with_capacity(LONGEST_WRITTEN);
    header.extend(SIGNATURE);
    let Some(from) = from else {
        header.extend([PROXY, 0, 0, 0]);
        return header;
    };
    let to = to.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([PROXY, TCP4, 0, 12]);
            header.extend([from, to].map(|ip| ip.octets()).as_flattened());
        }
        (from, to) => {
            header.extend([PROXY, TCP6, 0, 36]);
            header.extend([from, to].map(|ip| wide(ip).octets()).as_flattened());
        }
    }
    header.extend([from, to].map(|address| address.port().to_be_bytes()).as_flattened());
    header
}

fn wide(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "192.0.2.1:56324";
    const TO: &str = "198.51.100.1:443";

    fn known(from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((from.parse().unwrap(), to.parse().unwrap()))
    }

    fn whole(bytes: &[u8], addresses: Option<(SocketAddr, SocketAddr)>) {
        let due = Parsed::Whole(Header { length: bytes.len(), addresses });
        assert_eq!(parse(bytes), due, "{}", bytes.escape_ascii());
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Parsed::Partial, "{cut} of {}", bytes.escape_ascii());
        }
        for behind in ["G", "\n", "PROXY ", "\r\n\r\n", &"x".repeat(9_999)] {
            assert_eq!(parse(&[bytes, behind.as_bytes()].concat()), due, "{behind}");
        }
    }

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &length, block].concat()
    }

    /// Whole at its last byte and not before, whatever stands behind it.
    #[test]
    fn each_kind_of_header_is_read_at_every_cut() {
        let six = "2001:db8::1";
        for (line, due) in [
            ("TCP4 192.0.2.1 198.51.100.1 56324 443", known(FROM, TO)),
            ("TCP6 2001:db8::1 ::1 0 65535", known("[2001:db8::1]:0", "[::1]:65535")),
            ("UNKNOWN", None),
            ("UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535", None),
        ] {
            whole(format!("PROXY {line}\r\n").as_bytes(), due);
        }
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 220, 4, 1, 187];
        let wide = |ip: &str| ip.parse::<Ipv6Addr>().unwrap().octets();
        let sixes = [&wide(six)[..], &wide("::1"), &[0, 0, 255, 255]].concat();
        let tlvs = [&four[..], &[4, 0, 3, 1, 2, 3, 0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
        whole(&binary(PROXY, TCP4, &four), known(FROM, TO));
        whole(&binary(PROXY, TCP4, &tlvs), known(FROM, TO));
        whole(&binary(PROXY, TCP6, &sixes), known("[2001:db8::1]:0", "[::1]:65535"));
        let most = [&four[..], &[0; LONGEST_REST - 12]].concat();
        let longest = binary(PROXY, TCP4, &most);
        assert_eq!(longest.len(), LONGEST);
        whole(&longest, known(FROM, TO));
        for (command, family, length) in [
            (LOCAL, 0, 0),
            (LOCAL, TCP4, 12), // which are to be skipped
            (LOCAL, 0x77, 7),
            (PROXY, 0, 0),
            (PROXY, UDP4, 12),
            (PROXY, UDP6, 40),
            (PROXY, UNIX_STREAM, 216),
            (PROXY, UNIX_DATAGRAM, 220),
        ] {
            whole(&binary(command, family, &vec![1; length]), None);
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        for wrong in [
            "GET / HTTP/1.1\r\n",
            "G",
            "\n",
            "\0",
            "PROXIES",
            "PROXY\t",
            "proxy ",
            "\r\n\r\nG",
            "PROXY \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 0443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 +443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 ::1 56324 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            &format!("PROXY UNKNOWN {}", "x".repeat(93)),
        ] {
            assert_eq!(parse(wrong.as_bytes()), Parsed::Wrong, "{wrong:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(92));
        assert_eq!(parse(long.as_bytes()), Parsed::Partial);
        for (command, family, length) in [
            (0x10, TCP4, 12),
            (0x31, TCP4, 12),
            (0x22, TCP4, 12), // version, command
            (PROXY, 0x01, 0),
            (PROXY, 0x10, 12),
            (PROXY, 0x13, 12),
            (PROXY, 0x41, 12),
            (PROXY, TCP4, 11),
            (PROXY, TCP6, 35),
            (PROXY, UNIX_STREAM, 215),
            (PROXY, TCP4, LONGEST_REST + 1),
            (LOCAL, 0, 65_535),
        ] {
            let bytes = binary(command, family, &vec![1; length]);
            assert_eq!(parse(&bytes[..FIXED]), Parsed::Wrong, "{command:x} {family:x} {length}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (four, six) = (FROM, "[2001:db8::1]:7");
        let address = |text: &str| text.parse().unwrap();
        for (from, to, due) in [
            (four, Some(TO), known(four, TO)),
            (six, Some("[::1]:9"), known(six, "[::1]:9")),
            (four, Some("[::1]:9"), known("[::ffff:192.0.2.1]:56324", "[::1]:9")),
            (four, None, known(four, "0.0.0.0:0")),
            (six, None, known(six, "[::ffff:0.0.0.0]:0")),
        ] {
            whole(&write(Some(address(from)), to.map(address)), due);
        }
        whole(&write(None, known(four, TO).map(|(_, to)| to)), None);
    }
}
