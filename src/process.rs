//! What belongs to the process as a whole, and so to one server at a time: its signals, the
//! allocator, and the word of the service manager.
//!
//! A server owns the process if its program says so
//! ([`own_process`](crate::Builder::own_process)). Each signal that it takes is blocked, so
//! that it can be read as bytes, and asks for something; or for nothing, which the log says
//! once, because the sender expects something.
//!
//! Invariant: among the servers on the real kernel at most one owns the process.

use crate::error::{Error, needed, wanted};
use crate::kernel::{self, Errno, Kernel, Signal};
use crate::manager::{Manager, ServiceManager};
use crate::reaction::Call;
use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a server of this process owns it.
static OWNED: AtomicBool = AtomicBool::new(false);

/// The process, in the hands of one server. Dropping it lets another have it; the signals
/// stay blocked.
#[derive(Debug)]
pub(crate) struct Process {
    /// The signals that are blocked, and to be read.
    pub(crate) signals: Vec<Signal>,
    hangup_stops: bool,
    is_real: bool,
    /// Who started it, and wants to know how it does.
    manager: Option<Manager>,
    /// Signals that ask for nothing, of which the log has heard.
    told: Vec<Signal>,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Stop,
    Report,
    Nothing,
}

impl Process {
    /// Takes the process, unless another server has it.
    pub(crate) fn take<K: Kernel>(
        kernel: &mut K,
        manager: Option<ServiceManager>,
        warnings: &mut Vec<String>,
    ) -> Result<Process, Error> {
        if K::IS_REAL && OWNED.swap(true, Ordering::AcqRel) {
            let object = "signals, which another server of this process has (own_process)";
            return Err(Error::new(Call::SignalMask, object, Errno::EBUSY));
        }
        let hangup_stops = K::IS_REAL && stderr().is_terminal();
        let (signals, told) = (Vec::new(), Vec::new());
        let mut process =
            Process { signals, hangup_stops, is_real: K::IS_REAL, manager: None, told };
        if K::IS_REAL {
            kernel::map_large_buffers();
            kernel::ignore_signals();
        }
        process.signals = block_signals(kernel, warnings)?;
        if let Some(manager) = manager {
            process.manager = Manager::connect(kernel, &manager, warnings)?;
        }
        Ok(process)
    }

    /// The service manager, which gets status reports.
    pub(crate) fn manager(&self) -> Option<&Manager> {
        self.manager.as_ref()
    }

    /// Gives back what it has opened.
    pub(crate) fn close<K: Kernel>(&mut self, kernel: &mut K) {
        if let Some(manager) = self.manager.take() {
            manager.close(kernel);
        }
    }

    /// What `signal` asks for.
    pub(crate) fn command(&self, signal: Signal) -> Command {
        match signal {
            Signal::SIGUSR1 => Command::Report,
            Signal::SIGUSR2 => Command::Nothing,
            Signal::SIGHUP if !self.hangup_stops => Command::Nothing,
            _ => Command::Stop,
        }
    }

    /// Says once of each signal that nothing follows from it, and what to send instead.
    #[cold]
    pub(crate) fn tell_unused(&mut self, signal: Signal) {
        if self.told.contains(&signal) {
            return;
        }
        self.told.push(signal);
        match signal {
            Signal::SIGHUP => log::warn!(
                "SIGHUP does nothing, because stderr is no terminal; nothing is read anew: SIGTERM and start again"
            ),
            _ => log::warn!("{signal} does nothing; SIGUSR1 reports, SIGTERM stops"),
        }
    }

    /// Gives memory that was freed back to the kernel.
    pub(crate) fn return_memory(&self) {
        if self.is_real {
            kernel::return_memory();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_real {
            OWNED.store(false, Ordering::Release);
        }
    }
}

/// Blocks the signals that the server reads, and returns them.
fn block_signals<K: Kernel>(
    kernel: &mut K,
    warnings: &mut Vec<String>,
) -> Result<Vec<Signal>, Error> {
    let mut signals = vec![Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];
    let (call, hangup, without) = (Call::SignalAction, Signal::SIGHUP, "SIGHUP is left as it is");
    let ignored = wanted(call, hangup, without, warnings, || kernel.rt_sigaction(hangup))?;
    if ignored == Some(false) {
        signals.push(hangup); // else it is ignored, as under nohup
    }
    needed(Call::SignalMask, "signals", || kernel.rt_sigprocmask(&signals))?;
    Ok(signals)
}
