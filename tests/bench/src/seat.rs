//! Who runs on which CPU, and who goes first.
//!
//! Side by side, server and load have a CPU each, both SCHED_RR, so that other work on the
//! machine does not disturb; and something spins on each CPU, SCHED_IDLE, so that it never
//! sleeps: to wake a virtual one takes longer than all that is measured. On top, the load shares the server's CPU and is SCHED_FIFO: it
//! sends a whole batch before the server sees any of it, and sleeps until all is answered.
//! So each batch is exact, and no idle CPU has to be woken. Who may not have real-time
//! priorities goes without, and gets exact batches from a server that is SCHED_IDLE.

use crate::Outcome;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::io::Read;
use std::process::{Child, Command, Stdio};

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
    pub fn beside_load(&self) -> [&str; 6] {
        ["taskset", "-c", &self.load_cpu, "chrt", "-o", "0"]
    }

    /// Seats this process, which is the load, and those that keep its CPUs awake.
    pub fn take(&self, seat: Seat) -> Outcome<Vec<Helper>> {
        let cpu = if seat == Seat::OnTop { &self.server_cpu } else { &self.load_cpu };
        let pid = Pid::this().to_string();
        run(&["taskset", "-pc", cpu, &pid])?;
        match (self.realtime, seat) {
            (true, Seat::OnTop) => run(&["chrt", "-f", "-p", "50", &pid])?,
            (true, Seat::Beside) => run(&["chrt", "-r", "-p", "10", &pid])?,
            (false, _) => {}
        }
        let cpus = [&self.server_cpu, &self.load_cpu];
        let awake = cpus.iter().filter(|_| self.realtime && seat == Seat::Beside);
        awake
            .map(|cpu| Helper::start(&["taskset", "-c", cpu, "chrt", "-i", "0"], &["spin"]))
            .collect()
    }
}

/// Another process of this program. It ends when this is dropped.
#[must_use]
pub struct Helper(pub Child);

impl Helper {
    /// Starts it behind the words that seat it, with words of its own.
    pub fn start(seat: &[&str], words: &[&str]) -> Outcome<Helper> {
        let mut command = Command::new(seat[0]);
        command.args(&seat[1..]).arg(std::env::current_exe()?).args(words);
        Ok(Helper(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What keeps a CPU awake, for as long as there is somebody at the other end of its pipe.
pub fn spin() -> ! {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0)
    });
    loop {
        std::hint::spin_loop();
    }
}

fn run(words: &[&str]) -> Outcome<()> {
    let mut command = Command::new(words[0]);
    let status = command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{} failed", words.join(" ")).into()) }
}
