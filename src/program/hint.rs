//! What to do about a start that failed: the third part of its error line.

use threadbare::kernel::Errno;
use threadbare::{Call, Error};

/// Advice for the errors that have one, with what joins it to the line.
pub(crate) fn hint(error: &Error) -> String {
    let advice = advice(error.call, &error.object, error.errno).or(error.sandbox());
    advice.map(|advice| format!("; {advice}")).unwrap_or_default()
}

#[rustfmt::skip] // one row a line
fn advice(call: Call, object: &str, errno: Errno) -> Option<&'static str> {
    use Call::*;
    use Errno::*;
    Some(match (call, errno) {
        (BindTcp, EACCES) if is_privileged(object) => "ports below 1024 need a privilege, try -l 127.0.0.1:1234",
        (BindTcp | Listen, EADDRINUSE) if crate::frame::has_make() => "that port is taken (is another `make run` still going?), try ARGS='-l 127.0.0.1:0'",
        (BindTcp | Listen, EADDRINUSE) => "that port is taken (ss -tanp shows by what), try another, or -l 127.0.0.1:0 for any free one",
        (BindTcp, EADDRNOTAVAIL) if object.contains("127.0.0.1:") => "IPv4 is off here (see ip addr), try -l [::1]:1234",
        (BindTcp, EADDRNOTAVAIL) => "no interface of this machine has that address (see ip addr), try -l 127.0.0.1:1234",
        (BindTcp, EINVAL) if object.starts_with("[fe80:") => "a link-local address needs its interface, as in -l [fe80::1%eth0]:1234",
        (Socket, EAFNOSUPPORT) => "this kernel, or a sandbox, does not allow that family of addresses, try -l 127.0.0.1:1234",
        (Inherit, EBADF) => "nothing was passed there, see systemd.socket(5) ListenStream=",
        (CheckListener, ENOTSOCK) => "it is no socket",
        (CheckListener, EINVAL) => "write ListenStream= and Accept=no in the socket unit",
        (BindUnix | ProbeUnix, EADDRINUSE) => "a server listens there, or the file is no socket; try another path",
        (BindUnix, ENOENT) => "the directory does not exist",
        (BindUnix, ENOTDIR) => "a part of the path is no directory",
        (BindUnix, EACCES) => "you may not create files in that directory, try -l unix:/tmp/threadbare.sock",
        (BindUnix, EROFS) => "the file system is read-only, try -l unix:/tmp/threadbare.sock",
        (ProbeUnix | FileStatus | FileMode | OpenSocketFile | Unlink, EACCES | EPERM) => "the file belongs to another user (or a sandbox forbids it), try another path",
        (FileMode, ENOENT) => "/proc is not mounted: start with umask 0, or leave --unix-mode out",
        (SocketFileStatus, ESTALE) => "another process has replaced the file: it writes to that directory",
        (LockDirectory, EAGAIN) => "another process keeps that directory locked (fuser -v shows which), try another",
        (OpenDirectory, ENOENT) if crate::guess::is_address(object) => "http takes a directory, and -l the address, as in http . -l 127.0.0.1:8080",
        (OpenDirectory, ENOENT) => "the directory does not exist",
        (OpenDirectory, ENOTDIR) => "it is no directory, name the one that contains it",
        (OpenDirectory, EACCES) => "you may not open that directory",
        (OpenDirectory | OpenSocketFile, ENOSYS) => "openat2 needs Linux 5.6, and a sandbox that allows it",
        (EpollCreate, EMFILE) => "RLIMIT_NOFILE or fs.epoll.max_user_instances is too low, try ulimit -n 1024",
        (DescriptorLimit, EMFILE) => "try ulimit -n 1024",
        (_, EMFILE) => "too few descriptors (RLIMIT_NOFILE), try ulimit -n 1024",
        (_, ENFILE) => "the machine has no descriptor left (fs.file-max)",
        (_, ENOMEM | ENOBUFS) => "the kernel has no memory left",
        (EpollAddCore, ENOSPC) => "the user's epoll watches are used up (fs.epoll.max_user_watches)",
        _ => return None,
    })
}

/// Whether binding to that port needs a privilege. ip(7)
fn is_privileged(address: &str) -> bool {
    let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    port.is_some_and(|port| (1..1024).contains(&port)) // 0 is a free one, above
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_contract() {
        let error = Error::new(Call::BindTcp, "127.0.0.1:80", Errno::EACCES);
        let line = format!("{error}{}", hint(&error));
        assert_eq!(
            line,
            "bind 127.0.0.1:80: EACCES (Permission denied); \
             ports below 1024 need a privilege, try -l 127.0.0.1:1234"
        );
    }

    /// What has just failed is no way out.
    #[test]
    fn where_ipv4_is_off() {
        for object in ["127.0.0.1:80", "localhost:80 (127.0.0.1:80)"] {
            let hint = hint(&Error::new(Call::BindTcp, object, Errno::EADDRNOTAVAIL));
            assert!(hint.ends_with("try -l [::1]:1234"), "{hint}");
        }
    }

    #[test]
    fn advice_is_one_short_line() {
        for call in Call::ALL {
            for errno in (1..134).map(Errno::from_raw) {
                let advice = advice(call, "", errno).unwrap_or_default();
                assert!(advice.len() <= 100 && !advice.contains('\n'), "{advice}");
            }
        }
    }
}
