//! Log lines about clients that a limit cut: the client, the reason, the option to change.
//!
//! The first client of each reason is named at once, later ones at most once in
//! [`SILENCE`], with the number cut in between. So a limit that is too low is seen, and a
//! crowd that meets it does not fill the disk. No timer is needed: the counters have those
//! that no line came to report.

use crate::close_reason::CloseReason;
use crate::fallible::shown;
use crate::kernel::Peer;
use crate::limits::Limits;
use std::time::Duration;

/// How long a reason is not named again, in milliseconds.
const SILENCE: u64 = 10_000;

/// What was logged about each kind of reason.
#[derive(Debug, Default)]
pub(crate) struct Cuts([Cut; CloseReason::KINDS.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    /// When it may be named again, in milliseconds of the loop's clock.
    again: u64,
    /// Clients cut since it was named.
    unnamed: u64,
}

impl Cuts {
    /// Logs that a client was cut, if a limit did it and that reason is due again.
    #[inline(never)] // each close asks, and hardly any has a line
    pub(crate) fn report(&mut self, why: CloseReason, peer: Peer, limits: &Limits, now: u64) {
        let Some(more) = self.due(why, now) else { return };
        let Some(limit) = explained(why, limits) else { return };
        match more {
            0 => log::warn!("{peer} was cut ({why}): {limit}"),
            _ => {
                log::warn!("{peer} was cut ({why}): {limit}; {more} more since the last such line")
            }
        }
    }

    /// Whether this reason is to be named now, and how often it was not since it was.
    fn due(&mut self, why: CloseReason, now: u64) -> Option<u64> {
        let cut = self.0.get_mut(why.kind())?;
        if now < cut.again {
            cut.unnamed += 1;
            return None;
        }
        let before = std::mem::replace(cut, Cut { again: now + SILENCE, unnamed: 0 });
        Some(before.unnamed)
    }
}

/// The reason in words, and the option to change; `None` where no limit did it: the peer
/// closed, nobody sent anything for long, the handler or a stop closed it, a call failed.
fn explained(why: CloseReason, limits: &Limits) -> Option<String> {
    let Limits { max_output, max_input, max_memory, max_per_address, .. } = limits;
    let seconds = |span: Option<Duration>| span.unwrap_or_default().as_secs_f64();
    Some(match why {
        CloseReason::MessageTooSlow => {
            let seconds = seconds(limits.message_timeout);
            shown(format_args!(
                "the rest of its message did not come in {seconds} s (--message-timeout)"
            ))
        }
        CloseReason::WriteStalled => {
            let seconds = seconds(limits.write_timeout);
            shown(format_args!("it took no byte of its output for {seconds} s (--write-timeout)"))
        }
        CloseReason::OutputLimit => shown(format_args!(
            "it left more than {max_output} bytes of output unread (--max-output)"
        )),
        CloseReason::InputLimit => shown(format_args!(
            "it sent more than {max_input} bytes that are no message (--max-line)"
        )),
        CloseReason::MemoryBudget => shown(format_args!(
            "it held most, or its address, with {max_memory} bytes in all (--max-memory)"
        )),
        CloseReason::AddressLimit => shown(format_args!(
            "its address had {max_per_address} connections already (--max-per-ip)"
        )),
        CloseReason::GaveWay => shown(format_args!(
            "all {} places were taken, a client waited, and this one was idle, \
             of an address with more than a quarter of them (--give-way)",
            limits.max_connections
        )),
        CloseReason::ProxyHeader => {
            shown("it came with no PROXY header, or a wrong one (--proxy-protocol)")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_named_once_in_ten_seconds() {
        let mut cuts = Cuts::default();
        let (slow, stalled) = (CloseReason::MessageTooSlow, CloseReason::WriteStalled);
        assert_eq!(cuts.due(slow, 500), Some(0));
        assert_eq!(cuts.due(slow, 501), None);
        assert_eq!(cuts.due(slow, 500 + SILENCE - 1), None);
        assert_eq!(cuts.due(stalled, 500), Some(0), "another reason");
        assert_eq!(cuts.due(slow, 500 + SILENCE), Some(2));
        assert_eq!(cuts.due(slow, 500 + 2 * SILENCE), Some(0));
    }

    /// What is no limit has no option to turn; and each limit names its own.
    #[test]
    fn a_limit_names_its_option() {
        let limits = Limits { max_per_address: 3, ..Limits::default() };
        for (why, due) in [
            (CloseReason::MessageTooSlow, Some("30 s (--message-timeout)")),
            (CloseReason::WriteStalled, Some("60 s (--write-timeout)")),
            (CloseReason::OutputLimit, Some("4194304 bytes of output unread (--max-output)")),
            (CloseReason::InputLimit, Some("(--max-line)")),
            (CloseReason::MemoryBudget, Some("(--max-memory)")),
            (CloseReason::AddressLimit, Some("3 connections already (--max-per-ip)")),
            (CloseReason::GaveWay, Some("more than a quarter of them (--give-way)")),
            (CloseReason::ProxyHeader, Some("(--proxy-protocol)")),
            (CloseReason::PeerClosed, None),
            (CloseReason::Idle, None),
            (CloseReason::DrainDeadline, None),
        ] {
            let explained = explained(why, &limits);
            assert_eq!(explained.is_some(), due.is_some(), "{why}");
            assert!(explained.unwrap_or_default().ends_with(due.unwrap_or_default()), "{why}");
        }
    }
}
