//! The arguments and results of calls, as strace writes them.

use crate::kernel::{
    Address, ERR, Errno, Event, FileKind, FileStatus, HUP, IN, OUT, RDHUP, Signal, SocketOption,
};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Stands for an address in the wrapped kernel's memory, where strace shows the real one.
pub(super) const POINTER: &str = "0x7ffc00000000";

/// How many bytes of a payload, and how many elements of an array, strace shows before it
/// writes `...`.
const SHOWN: usize = 32;

/// What an errno means, in the words of the C library, as in strace. (nix has its own.)
pub(super) fn words(errno: Errno) -> String {
    let number = errno as i32;
    let error = io::Error::from_raw_os_error(number).to_string();
    error.replace(&format!(" (os error {number})"), "")
}

/// Bytes in quotes, escaped.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    let mut bytes = bytes.iter().peekable();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => text += "\\\"",
            b'\\' => text += "\\\\",
            b'\n' => text += "\\n",
            b'\r' => text += "\\r",
            b'\t' => text += "\\t",
            0x0b => text += "\\v",
            0x0c => text += "\\f",
            b' '..=b'~' => text.push(char::from(byte)),
            // Octal, in three digits only where the next byte would be taken for one of them.
            _ if matches!(bytes.peek(), Some(b'0'..=b'7')) => text += &format!("\\{byte:03o}"),
            _ => text += &format!("\\{byte:o}"),
        }
    }
    text + "\""
}

/// The beginning of the bytes that a call carries.
pub(super) fn payload(bytes: &[u8]) -> String {
    match bytes.split_at_checked(SHOWN) {
        Some((beginning, rest)) if !rest.is_empty() => quoted(beginning) + "...",
        _ => quoted(bytes),
    }
}

/// The pieces of a message.
pub(super) fn iovecs(pieces: &[IoSlice<'_>]) -> String {
    let iovec =
        |piece: &IoSlice<'_>| format!("{{iov_base={}, iov_len={}}}", payload(piece), piece.len());
    array(pieces, iovec)
}

/// The beginning of an array.
fn array<T>(elements: &[T], element: impl FnMut(&T) -> String) -> String {
    let mut shown: Vec<String> = elements.iter().take(SHOWN).map(element).collect();
    if elements.len() > SHOWN {
        shown.push("...".to_string());
    }
    format!("[{}]", shown.join(", "))
}

/// A path, never cut.
pub(super) fn quoted_path(path: &Path) -> String {
    quoted(path.as_os_str().as_bytes())
}

/// The mode of a file, at least three digits.
pub(super) fn octal(mode: u32) -> String {
    format!("0{mode:02o}")
}

/// An address as a call is given it, and its length.
pub(super) fn sockaddr(address: &Address) -> (String, usize) {
    let (fields, length) = match address {
        Address::Tcp(SocketAddr::V4(v4)) => {
            let (port, ip) = (v4.port(), v4.ip());
            let fields = format!("INET, sin_port=htons({port}), sin_addr=inet_addr(\"{ip}\")");
            (fields, 16)
        }
        Address::Tcp(SocketAddr::V6(v6)) => {
            let port = format!("sin6_port=htons({}), sin6_flowinfo=htonl(0)", v6.port());
            let ip = format!("inet_pton(AF_INET6, \"{}\", &sin6_addr)", v6.ip());
            let scope = v6.scope_id();
            (format!("INET6, {port}, {ip}, sin6_scope_id={scope}"), 28)
        }
        // A socket that was never bound has a family and nothing else.
        Address::Unix(path) if path.as_os_str().is_empty() => ("UNIX".to_string(), 2),
        Address::Unix(path) if path.as_os_str().as_bytes().starts_with(b"\0") => {
            let name = path.as_os_str().as_bytes().get(1..).unwrap_or_default();
            (format!("UNIX, sun_path=@{}", quoted(name)), 2 + 1 + name.len())
        }
        Address::Unix(path) => {
            let fields = format!("UNIX, sun_path={}", quoted_path(path));
            // Two bytes of family in front, a NUL behind.
            (fields, 2 + path.as_os_str().len() + 1)
        }
    };
    (format!("{{sa_family=AF_{fields}}}"), length)
}

/// An address as a call gives it back, in `room` bytes of which it fills some.
pub(super) fn filled_sockaddr(address: Option<&Address>, room: usize) -> String {
    match address.map(sockaddr) {
        Some((address, length)) => format!("{address}, [{room} => {length}]"),
        None => format!("{POINTER}, [{room}]"),
    }
}

/// The level, the name, the value and its length.
pub(super) fn socket_option(option: SocketOption) -> String {
    let number = |name: &str, value: u32| format!("{name}, [{value}], 4");
    match option {
        SocketOption::ReuseAddr => number("SOL_SOCKET, SO_REUSEADDR", 1),
        SocketOption::ReusePort => number("SOL_SOCKET, SO_REUSEPORT", 1),
        SocketOption::SteerTo(_) => {
            format!("SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, {{len=1, filter={POINTER}}}, 16")
        }
        SocketOption::StopSteering => number("SOL_SOCKET, SO_DETACH_REUSEPORT_BPF", 1),
        SocketOption::DetachFilter => number("SOL_SOCKET, SO_DETACH_FILTER", 1),
        SocketOption::V6Only => number("SOL_IPV6, IPV6_V6ONLY", 1),
        SocketOption::NoDelay => number("SOL_TCP, TCP_NODELAY", 1),
        SocketOption::KeepAlive => number("SOL_SOCKET, SO_KEEPALIVE", 1),
        SocketOption::KeepIdle(seconds) => number("SOL_TCP, TCP_KEEPIDLE", seconds),
        SocketOption::UserTimeout(ms) => number("SOL_TCP, TCP_USER_TIMEOUT", ms),
        SocketOption::NotSentLowat(bytes) => number("SOL_TCP, TCP_NOTSENT_LOWAT", bytes),
        SocketOption::Cork(on) => number("SOL_TCP, TCP_CORK", on.into()),
        SocketOption::UrgentInline => number("SOL_SOCKET, SO_OOBINLINE", 1),
        SocketOption::NoDevice => "SOL_SOCKET, SO_BINDTOIFINDEX, [2147483647], 4".into(),
        SocketOption::RefuseDescriptors => number("SOL_SOCKET, SO_PASSRIGHTS", 0),
        SocketOption::ResetOnClose => {
            "SOL_SOCKET, SO_LINGER, {l_onoff=1, l_linger=0}, 8".to_string()
        }
    }
}

/// The status of a file.
pub(super) fn file_status(status: Option<FileStatus>) -> String {
    let Some(FileStatus { kind, mode, size, .. }) = status else { return POINTER.to_string() };
    let mode = octal(mode);
    match kind {
        FileKind::Regular => format!("{{st_mode=S_IFREG|{mode}, st_size={size}, ...}}"),
        FileKind::Directory => format!("{{st_mode=S_IFDIR|{mode}, st_size={size}, ...}}"),
        FileKind::Socket => format!("{{st_mode=S_IFSOCK|{mode}, st_size={size}, ...}}"),
        FileKind::Other => format!("{{st_mode={mode}, ...}}"),
    }
}

/// A set of signals: without their SIG, in the order of their numbers.
pub(super) fn signal_set(signals: &[Signal]) -> String {
    let mut signals = signals.to_vec();
    signals.sort_unstable();
    let names: Vec<_> = signals.iter().map(|signal| signal.name()).collect();
    format!("[{}]", names.join(" ").replace("SIG", ""))
}

/// The soft and the hard limit.
pub(super) fn limits((soft, hard): (u64, u64)) -> String {
    let limit = |limit: u64| match limit {
        libc::RLIM_INFINITY => "RLIM64_INFINITY".to_string(),
        1025.. if limit.is_multiple_of(1024) => format!("{}*1024", limit / 1024),
        _ => limit.to_string(),
    };
    format!("{{rlim_cur={}, rlim_max={}}}", limit(soft), limit(hard))
}

/// One event, asked for or reported.
pub(super) fn epoll_event(event: &Event) -> String {
    let (mask, data) = (event.mask, event.data);
    let mut names = Vec::new();
    for (bit, name) in [(IN, "IN"), (OUT, "OUT"), (ERR, "ERR"), (HUP, "HUP"), (RDHUP, "RDHUP")] {
        if mask & bit != 0 {
            names.push(format!("EPOLL{name}"));
        }
    }
    if names.is_empty() {
        names.push("0".to_string());
    }
    // `data` is a union: strace shows its lower half, too.
    let (events, half) = (names.join("|"), data as u32);
    format!("{{events={events}, data={{u32={half}, u64={data}}}}}")
}

/// The events that a wait reported.
pub(super) fn epoll_events(events: &[Event]) -> String {
    array(events, epoll_event)
}

/// A time, given in nanoseconds.
pub(super) fn timespec(nanoseconds: u64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    format!("{{tv_sec={seconds}, tv_nsec={rest}}}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn strings_are_escaped_as_strace_does() {
        assert_eq!(quoted(b"hello\n"), r#""hello\n""#);
        assert_eq!(quoted(b"\"\\\n\r\t\x0b\x0c ~"), r#""\"\\\n\r\t\v\f ~""#);
        assert_eq!(quoted(b"\0\x01\x07\x08\x1b\x7f\xff"), r#""\0\1\7\10\33\177\377""#);
        // Three digits before an octal digit; an 8 is none.
        assert_eq!(quoted(b"\x000\x017\x018\x7f1"), r#""\0000\0017\18\1771""#);
    }

    #[test]
    fn payloads_are_cut_at_32_bytes() {
        assert_eq!(payload(b""), "\"\"");
        assert_eq!(payload(&[b'a'; 32]), format!("\"{}\"", "a".repeat(32)));
        assert_eq!(payload(&[b'a'; 33]), format!("\"{}\"...", "a".repeat(32)));
        // What was cut off does not lengthen the escape in front of it.
        let cut = [&[b'a'; 31], &b"\x017"[..]].concat();
        assert_eq!(payload(&cut), format!("\"{}\\1\"...", "a".repeat(31)));
    }

    #[test]
    fn addresses_of_each_family() {
        let v4 = Address::Tcp(([127, 0, 0, 1], 1234).into());
        let text = r#"{sa_family=AF_INET, sin_port=htons(1234), sin_addr=inet_addr("127.0.0.1")}"#;
        assert_eq!(sockaddr(&v4), (text.to_string(), 16));

        let v6 = Address::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 80).into());
        let text = r#"{sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}"#;
        assert_eq!(sockaddr(&v6), (text.to_string(), 28));

        let unix = Address::Unix("/tmp/a".into());
        let text = r#"{sa_family=AF_UNIX, sun_path="/tmp/a"}"#;
        assert_eq!(sockaddr(&unix), (text.to_string(), 9));

        let unbound = Address::Unix(PathBuf::new());
        let text = "{sa_family=AF_UNIX}, [128 => 2]";
        assert_eq!(filled_sockaddr(Some(&unbound), 128), text);
    }

    #[test]
    fn masks_sets_and_numbers() {
        let event = |mask| epoll_event(&Event { mask, data: 1 << 32 | 5 });
        let data = "data={u32=5, u64=4294967301}";
        assert_eq!(event(0), format!("{{events=0, {data}}}"));
        assert_eq!(event(IN | OUT), format!("{{events=EPOLLIN|EPOLLOUT, {data}}}"));
        let all = "EPOLLIN|EPOLLOUT|EPOLLERR|EPOLLHUP";
        assert_eq!(event(HUP | ERR | OUT | IN), format!("{{events={all}, {data}}}"));

        let shown = |count| epoll_events(&vec![Event::default(); count]);
        assert_eq!(shown(0), "[]");
        assert!(shown(32).ends_with("u64=0}}]"));
        assert!(shown(33).ends_with("u64=0}}, ...]"));

        let signals = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGINT];
        assert_eq!(signal_set(&signals), "[HUP INT USR1 TERM]");
        let modes = [0, 0o7, 0o77, 0o600, 0o4755].map(octal);
        assert_eq!(modes, ["000", "007", "077", "0600", "04755"]);
        let text = "{rlim_cur=1024, rlim_max=4*1024}";
        assert_eq!(limits((1024, 4096)), text);
        let text = "{rlim_cur=2049, rlim_max=RLIM64_INFINITY}";
        assert_eq!(limits((2049, u64::MAX)), text);
        assert_eq!(timespec(2_000_000_003), "{tv_sec=2, tv_nsec=3}");
    }
}
