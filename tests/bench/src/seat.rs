//! Who runs on which CPU, and who goes first.
//!
//! Side by side, server and load have a CPU each, both SCHED_RR, so that other work on the
//! machine does not disturb. On top, the load shares the server's CPU and is SCHED_FIFO: it
//! sends a whole batch before the server sees any of it, and sleeps until all is answered.
//! So each batch is exact, and no idle CPU has to be woken. Who may not have real-time
//! priorities goes without, and gets exact batches from a server that is SCHED_IDLE.

use crate::Outcome;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::process::{Command, Stdio};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    Beside,
    OnTop,
}

pub struct Seats {
    server_cpu: String,
    load_cpu: String,
    pub realtime: bool,
}

impl Seats {
    /// The first and the last CPU that this process may use.
    pub fn find() -> Outcome<Seats> {
        let allowed = sched_getaffinity(Pid::this())?;
        let cpus: Vec<usize> =
            (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
        let (Some(first), Some(last)) = (cpus.first(), cpus.last()) else {
            return Err("there is no CPU".into());
        };
        let realtime = run(&["chrt", "-r", "10", "true"]).is_ok();
        Ok(Seats { server_cpu: first.to_string(), load_cpu: last.to_string(), realtime })
    }

    /// The words in front of a server's command.
    pub fn server(&self, seat: Seat) -> Vec<String> {
        let policy: &[&str] = match (self.realtime, seat) {
            (true, _) => &["chrt", "-r", "10"],
            (false, Seat::OnTop) => &["chrt", "-i", "0"],
            (false, Seat::Beside) => &[],
        };
        [&["taskset", "-c", &self.server_cpu], policy]
            .concat()
            .iter()
            .map(|s| s.to_string())
            .collect()
    }

    /// The words in front of a command that shares the load's CPU, and steps back for it.
    pub fn beside_load(&self) -> Vec<String> {
        ["taskset", "-c", &self.load_cpu, "chrt", "-o", "0"].map(str::to_owned).into()
    }

    /// Seats this process, which is the load.
    pub fn take(&self, seat: Seat) -> Outcome<()> {
        let cpu = if seat == Seat::OnTop { &self.server_cpu } else { &self.load_cpu };
        let pid = Pid::this().to_string();
        run(&["taskset", "-pc", cpu, &pid])?;
        match (self.realtime, seat) {
            (true, Seat::OnTop) => run(&["chrt", "-f", "-p", "50", &pid]),
            (true, Seat::Beside) => run(&["chrt", "-r", "-p", "10", &pid]),
            (false, _) => Ok(()),
        }
    }
}

fn run(words: &[&str]) -> Outcome<()> {
    let mut command = Command::new(words[0]);
    let status = command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{} failed", words.join(" ")).into()) }
}
