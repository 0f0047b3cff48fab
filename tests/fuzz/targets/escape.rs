//! Whatever was escaped is one harmless line, and can be read back.

use threadbare::escape::escaped;

pub fn target(bytes: &[u8]) {
    let shown = escaped(bytes).to_string();
    assert_harmless(&shown);
    assert_eq!(read_back(&shown), bytes, "{shown}");
}

/// No terminal obeys it, it is one line, and reads in the order in which it stands.
pub fn assert_harmless(shown: &str) {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_line = |c| matches!(c, '\u{2028}' | '\u{2029}');
    let harm = shown.chars().find(|&c| c.is_control() || turns(c) || ends_line(c));
    assert_eq!(harm, None, "{shown:?}");
}

/// As the documentation of the escapes has it: a backslash always begins one.
fn read_back(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = shown.as_bytes();
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match (first, behind) {
            (b'\\', [b'\\', behind @ ..]) => (b'\\', behind),
            (b'\\', [b'x', high, low, behind @ ..]) => (hex(*high) << 4 | hex(*low), behind),
            (b'\\', _) => panic!("half an escape in {shown}"),
            (&byte, behind) => (byte, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}

fn hex(digit: u8) -> u8 {
    let place = b"0123456789abcdef".iter().position(|&known| known == digit);
    place.expect("a lower-case hex digit") as u8
}
