//! Whether there is a header is known at the first byte that shows it, and never otherwise again.

use std::net::SocketAddr;
use threadbare::proxy_header::{Header, LONGEST, Parsed, parse, write};

pub fn target(bytes: &[u8]) {
    let known = parse(bytes);
    for cut in 0..bytes.len() {
        match (parse(&bytes[..cut]), known) {
            (Parsed::Partial, Parsed::Whole(Header { length, .. })) => assert!(cut < length),
            (Parsed::Partial, _) => assert!(cut < LONGEST),
            (early, known) => assert_eq!(early, known, "{cut} bytes show it"),
        }
    }
    let Parsed::Whole(Header { length, addresses }) = known else { return };
    assert!(length <= bytes.len() && length <= LONGEST);
    if let Some((from, to)) = addresses {
        assert_eq!(from.is_ipv4(), to.is_ipv4());
    }
    let again = write(addresses.map(|(from, _)| from), addresses.map(|(_, to)| to));
    assert_eq!(parse(&again), Parsed::Whole(Header { length: again.len(), addresses }));
    let unknown: Option<SocketAddr> = None;
    assert!(again.len() >= write(unknown, None).len());
}
