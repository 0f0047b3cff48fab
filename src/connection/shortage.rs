//! A connection for which the kernel had no memory: how often, and when it is tried again.
//!
//! It waits after each failure until its deadline, and then is tried again. A call that succeeds
//! sets it back to none; more than [`MAX_TRIES`] failures in a row end the connection.

/// How often the kernel may be out of memory for one connection in a row.
pub(super) const MAX_TRIES: u8 = 12;

/// How often in a row the kernel was out of memory for a connection; and whether nothing is
/// tried until the timer has it looked at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortage(u8);

impl Shortage {
    const WAITS: u8 = 1 << 7;

    pub(crate) fn waits(self) -> bool {
        self.0 & Shortage::WAITS != 0
    }

    pub(crate) fn tries(self) -> u8 {
        self.0 & !Shortage::WAITS
    }

    /// Once more.
    pub(crate) fn count_failure(&mut self) {
        self.0 = (self.tries() + 1) | Shortage::WAITS;
    }

    /// Now it is tried again.
    pub(crate) fn try_again(&mut self) {
        self.0 = self.tries();
    }
}
