//! What goes wrong, and when: the plan of failures, the shortened transfers, and
//! the trace of the calls that were made.

use super::{EpollOp, Errno, Result};
use std::cell::RefCell;

/// Makes the enum, its list, and the names as strace writes them.
macro_rules! methods {
    ($($variant:ident $name:literal,)*) => {
        /// A method of [`Kernel`](crate::kernel::Kernel) that can fail. The clock cannot.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Method {
            $(#[doc = concat!("[`Kernel::", $name, "`](crate::kernel::Kernel::", $name, ")")] $variant,)*
        }

        impl Method {
            /// All of them, in the order of the trait.
            pub const ALL: &[Method] = &[$(Method::$variant,)*];

            /// Its name in the trait.
            pub fn name(self) -> &'static str {
                match self {
                    $(Method::$variant => $name,)*
                }
            }
        }
    };
}

methods! {
    RtSigaction "rt_sigaction",
    RtSigprocmask "rt_sigprocmask",
    Prlimit "prlimit",
    Socket "socket",
    FcntlInherit "fcntl_inherit",
    FcntlNonblock "fcntl_nonblock",
    GetsockoptListens "getsockopt_listens",
    SocketDatagram "socket_datagram",
    Setsockopt "setsockopt",
    OpenAs "openat2_as",
    Flock "flock",
    ClockNanosleep "clock_nanosleep",
    Fchmod "fchmod",
    Bind "bind",
    Lstat "lstat",
    Chmod "chmod",
    Connect "connect",
    Unlink "unlink",
    Listen "listen",
    Getsockname "getsockname",
    EpollCreate1 "epoll_create1",
    Eventfd2 "eventfd2",
    Signalfd4 "signalfd4",
    TimerfdCreate "timerfd_create",
    EpollCtl "epoll_ctl",
    EpollWait "epoll_wait",
    Accept4 "accept4",
    Recv "recv",
    Send "send",
    Sendmsg "sendmsg",
    GetsockoptError "getsockopt_error",
    Openat2 "openat2",
    Fstat "fstat",
    Pread64 "pread64",
    Sendfile "sendfile",
    Stat "stat",
    SocketDiag "socket_diag",
    WriteDiag "write_diag",
    ReadDiag "read_diag",
    TimerfdSettime "timerfd_settime",
    ReadCounter "read_counter",
    ReadSignal "read_signal",
    WriteCounter "write_counter",
    Shutdown "shutdown",
    IoctlOutq "ioctl_outq",
    Close "close",
}

/// Which call a fault fails first. Calls are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// The call with this index in the [trace](super::Simulated::trace), whatever it is.
    Call(u64),
    /// Of the calls of one method, the one with this index.
    Of(Method, u64),
}

/// How often a fault fails a call. After the first time it fails only that method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Times {
    /// Once.
    Once,
    /// This many calls of the method, one after the other.
    Burst(u64),
    /// Each call of the method until [`Simulated::heal`](super::Simulated::heal).
    UntilHealed,
}

/// How much a recv or a send moves at once: always at least one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Short {
    /// As much as there is room for.
    #[default]
    Full,
    /// At most this many bytes.
    AtMost(usize),
    /// A length drawn from the seed, between 1 and what was asked for.
    Random,
}

/// One line of the trace: a call that the server made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which method.
    pub method: Method,
    /// The number of its first descriptor argument, or -1.
    pub fd: i32,
    /// The operation of epoll_ctl.
    pub op: Option<EpollOp>,
    /// Whose connection that was, or was accepted: see
    /// [`Client::connection`](super::Client::connection).
    pub connection: Option<u64>,
    /// What it returned: a length, a counter, the number of a descriptor or of a signal, or 0
    /// where it returns nothing.
    pub result: Result<i64>,
    /// Whether a fault failed it.
    pub injected: bool,
}

/// One entry of the plan.
#[derive(Clone, Copy)]
struct Fault {
    at: At,
    errno: Errno,
    times: Times,
    /// The method that it has failed, once it has.
    struck: Option<Method>,
    /// How many more calls it fails.
    left: u64,
}

/// The plan and the trace. Taking the trace does not reset the counts.
#[derive(Default)]
pub(super) struct Faults {
    plan: Vec<Fault>,
    pub(super) trace: Vec<Call>,
    calls: u64,
    /// By method; as long as it had to be.
    counts: Vec<u64>,
}

impl Faults {
    pub(super) fn add(&mut self, at: At, errno: Errno, times: Times) {
        let left = match times {
            Times::Once => 1,
            Times::Burst(count) => count,
            Times::UntilHealed => u64::MAX,
        };
        self.plan.push(Fault { at, errno, times, struck: None, left });
    }

    pub(super) fn heal(&mut self) {
        self.plan.clear();
    }

    /// How often `method` was called.
    pub(super) fn count(&self, method: Method) -> u64 {
        self.counts.get(method as usize).copied().unwrap_or_default()
    }

    /// How many calls were made in all.
    pub(super) fn total(&self) -> u64 {
        self.calls
    }

    /// Counts a call that is about to happen. Returns its errno if a fault fails it. If several
    /// faults match, the one planned first fails it, and the others keep their counts.
    pub(super) fn strike(&mut self, method: Method) -> Option<Errno> {
        let (call, nth) = (self.calls, self.count(method));
        self.calls += 1;
        self.counts.resize(Method::ALL.len(), 0);
        if let Some(count) = self.counts.get_mut(method as usize) {
            *count += 1;
        }
        let fault = self.plan.iter_mut().find(|fault| match fault.struck {
            Some(struck) => struck == method,
            None => fault.at == At::Call(call) || fault.at == At::Of(method, nth),
        })?;
        fault.struck = Some(method);
        if fault.times != Times::UntilHealed {
            fault.left = fault.left.saturating_sub(1);
        }
        let errno = fault.errno;
        self.plan.retain(|fault| fault.left > 0);
        Some(errno)
    }
}

/// Whether this thread has looked up each failed call in the table of errnos.
#[derive(Default)]
struct Ledger {
    /// The call that failed last, until its errno is looked up.
    open: Option<(Method, Errno)>,
    /// The calls whose errno was not looked up.
    unasked: Vec<(Method, Errno)>,
    /// The rows that were looked up, a bit each.
    rows: u128,
}

thread_local! {
    static LEDGER: RefCell<Ledger> = RefCell::default();
}

/// A call was made.
pub(super) fn made(method: Method, failed: Option<Errno>) {
    LEDGER.with_borrow_mut(|ledger| {
        if let Some(unasked) = ledger.open.take()
            && !ledger.unasked.contains(&unasked)
        {
            ledger.unasked.push(unasked);
        }
        ledger.open = failed.map(|errno| (method, errno));
    });
}

/// `errno` is looked up in a row of the system call `name`.
pub(crate) fn asked(row: usize, name: &str, errno: Errno) {
    let is_answered = |(method, failed): (Method, Errno)| {
        let method = method.name(); // read_counter, of `read`; fchmod, of `chmod`
        failed == errno && (method.starts_with(name) || method.ends_with(name))
    };
    LEDGER.with_borrow_mut(|ledger| {
        ledger.open = ledger.open.filter(|open| !is_answered(*open));
        ledger.rows |= 1 << row;
    });
}

/// Takes what this thread has noted: the failed calls whose errno was not looked up, and the
/// rows that were looked up, a bit each.
#[doc(hidden)]
pub fn take_ledger() -> (Vec<(Method, Errno)>, u128) {
    made(Method::Close, None);
    let Ledger { unasked, rows, .. } = LEDGER.take();
    (unasked, rows)
}
