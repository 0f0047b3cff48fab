//! A word is addresses, which are written as they are read, or one harmless line that
//! quotes it. Names are left out: a resolver is nothing to be fuzzed.

use super::escape::assert_harmless;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use threadbare::address::ToAddresses;
use threadbare::escape::escaped;
use threadbare::{Address, AddressError};

pub fn target(bytes: &[u8]) {
    if needs_resolver(bytes) {
        return;
    }
    let told = OsStr::from_bytes(bytes).to_addresses();
    if let Some(expected) = expected(bytes) {
        assert_eq!(told, Ok(vec![expected]));
    }
    match told {
        Ok(addresses) => addresses.iter().for_each(assert_reads_back),
        Err(error) => assert_helps(bytes, &error),
    }
}

/// Whether a name stands in front of the port, or may do so.
pub fn needs_resolver(word: &[u8]) -> bool {
    let text = String::from_utf8_lossy(word);
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_address = is_bracketed || host.contains(':') || host.parse::<Ipv4Addr>().is_ok();
    let is_path = text.starts_with(['/', '.']);
    port.parse::<u16>().is_ok() && !is_address && !is_path && !matches!(host, "" | "*")
}

/// What a word means beyond doubt, if it does.
fn expected(word: &[u8]) -> Option<Address> {
    if let Some(path) = word.strip_prefix(b"unix:") {
        let is_plain = !path.contains(&0) && !path.starts_with(b"@") && !path.starts_with(b"~");
        let fits = (1..=107).contains(&path.len()) && is_plain;
        return fits.then(|| Address::Unix(OsStr::from_bytes(path).into()));
    }
    let address = str::from_utf8(word).ok()?.parse::<SocketAddr>().ok()?;
    let is_plain = address.is_ipv4() || address.ip().to_canonical().is_ipv6();
    is_plain.then_some(Address::Tcp(address))
}

/// An address, as it is displayed, is that address. (A path need not be text.)
fn assert_reads_back(address: &Address) {
    let shown = address.to_string();
    if !shown.contains(char::REPLACEMENT_CHARACTER) {
        assert_eq!(shown.to_addresses(), Ok(vec![address.clone()]));
    }
}

fn assert_helps(word: &[u8], error: &AddressError) {
    let text = error.to_string();
    assert_harmless(&text);
    let word = escaped(word).to_string();
    assert!(text.starts_with(&format!("\"{word}\" ")), "{text}");
    let same = text.rsplit_once("write ").is_some_and(|(_, advice)| advice == word);
    assert!(!same, "it says to write what was written: {text}");
}
