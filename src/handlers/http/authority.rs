//! An authority: the host, and perhaps the port, in a Host field or in a target.
//! RFC 3986, 3.2.2 and 3.2.3
//!
//! A pure function of the bytes. All hosts get the same files, so nothing is looked up: an
//! authority only has to be well-formed.

use memchr::memchr;
use std::net::Ipv6Addr;

/// The host, and the port with its colon; each may be empty. `None` if `authority` is
/// malformed, or names a user, which is the client's business. RFC 9110, 4.2.4
#[inline]
pub(super) fn parts(authority: &[u8]) -> Option<(&[u8], &[u8])> {
    let (host, port) = match authority.strip_prefix(b"[") {
        Some(rest) => {
            let (literal, port) = rest.split_at_checked(memchr(b']', rest)?)?;
            (literal, port.strip_prefix(b"]").filter(|_| is_address(literal))?)
        }
        None => {
            let end = memchr(b':', authority).unwrap_or(authority.len());
            authority.split_at_checked(end).filter(|(name, _)| is_name(name))?
        }
    };
    let is_port = port.is_empty() || port.strip_prefix(b":").is_some_and(is_number);
    is_port.then_some((host, port))
}

/// Digits that make a port, or none.
fn is_number(digits: &[u8]) -> bool {
    let value = |text: &str| text.is_empty() || text.parse::<u16>().is_ok();
    digits.iter().all(u8::is_ascii_digit) && str::from_utf8(digits).is_ok_and(value)
}

/// A registered name, or an IPv4 address, which has the same form.
#[inline]
fn is_name(mut name: &[u8]) -> bool {
    while let [byte, rest @ ..] = name {
        name = match rest {
            [high, low, rest @ ..] if *byte == b'%' => {
                if !(high.is_ascii_hexdigit() && low.is_ascii_hexdigit()) {
                    return false;
                }
                rest
            }
            _ if is_of_a_name(*byte) => rest,
            _ => return false,
        };
    }
    true
}

/// The text between brackets: an IPv6 address, or one of a future version.
fn is_address(literal: &[u8]) -> bool {
    if let [b'v' | b'V', rest @ ..] = literal {
        let dot = memchr(b'.', rest).unwrap_or(rest.len());
        let (version, address) = rest.split_at_checked(dot).unwrap_or_default();
        let is_text = |text: &[u8]| text.iter().all(|&byte| byte == b':' || is_of_a_name(byte));
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && address.strip_prefix(b".").is_some_and(|text| !text.is_empty() && is_text(text));
    }
    str::from_utf8(literal).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// `unreserved` and `sub-delims`.
#[inline]
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || memchr(byte, b"-._~!$&'()*+,;=").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, host, port) in [
            ("", "", ""),
            (":", "", ":"),
            ("x:80", "x", ":80"),
            ("x:00080", "x", ":00080"),
            ("a_b-c.~d,e;f=g", "a_b-c.~d,e;f=g", ""),
            ("%C3%bc", "%C3%bc", ""),
            ("[::1]:", "::1", ":"),
            ("[1::2:127.0.0.1]:65535", "1::2:127.0.0.1", ":65535"),
            ("[v1f.a:b]", "v1f.a:b", ""),
        ] {
            assert_eq!(parts(text.as_bytes()), Some((host.as_bytes(), port.as_bytes())), "{text}");
        }
        for text in [
            "a b",
            "a/b",
            "a@b",
            "a:b",
            "x:65536",
            "x:+1",
            "x:1:2",
            "a\\b",
            "a\"",
            "%",
            "%4",
            "%4x",
            "%zz",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25lo]",
            "x[::1]",
            "[v.a]",
            "[v1.]",
            "[vx.a]",
            "[127.0.0.1]",
        ] {
            assert_eq!(parts(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parts(b"\xff"), None);
    }
}
