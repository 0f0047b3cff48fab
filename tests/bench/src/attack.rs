//! What attacks on the memory of threadbare cost: the memory of the process beside the number,
//! who is cut and why, who is served meanwhile, and what stays. ATTACK='half lines' in the environment
//! is only those whose row contains this.

use crate::report::Table;
use crate::server::Running;
use crate::statistics::round;
use crate::{Bench, Outcome};
use attacks::{ATTACKS, Attack, Damage, PATIENT, POLITE, Victim};
use serde_json::json;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

#[path = "../../support/attacks.rs"]
mod attacks;

pub fn attacks(bench: &Bench) -> Outcome<Table> {
    let title = "Attacks on memory: the most that the process takes above idle, and what the \
                 server counts, as parts of --max-memory; what is left when all have gone, and \
                 after how much CPU time; clients cut, and connections that ended by the server's \
                 own count; lines of 64 KiB, of 20, that got through from another address and from \
                 the attackers' own";
    let columns =
        ["attack", "memory", "counted", "left_mib", "after_s", "cut", "ended", "other", "same"];
    let mut table = Table::new("attacks", title, &columns);
    let wanted = std::env::var("ATTACK").unwrap_or_default();
    for attack in &ATTACKS {
        for max_memory in &attack.limits[..if bench.quick { 1 } else { attack.limits.len() }] {
            let (handler, mib) = (attack.words[0], max_memory >> 20);
            let row = format!("{} ({handler}, {mib}M)", attack.name);
            if !row.contains(&wanted) {
                continue;
            }
            match suffer(bench, attack, *max_memory) {
                Err(error) => table.note(format!("{row}: {error}")),
                Ok(damage) => {
                    let part = |bytes: u64| json!(round(bytes as f64 / *max_memory as f64));
                    let cut = damage.cut.iter();
                    let cut = cut.map(|(kind, cut, of)| format!("{cut} of {of} {kind}"));
                    let cut = cut.collect::<Vec<_>>().join(", ");
                    let left = round(damage.left as f64 / f64::from(1 << 20));
                    let polite = match handler {
                        "greet" => damage.polite.map(|count| json!(count)),
                        _ => [json!(null), json!(null)],
                    };
                    println!("{row}: {damage:?}");
                    let mut cells = vec![json!(row), part(damage.peak), part(damage.counted)];
                    let after = json!(damage.back.as_secs_f64());
                    let ended = json!(damage.closed);
                    cells.extend([json!(left), after, json!(cut), ended].into_iter().chain(polite));
                    table.rows.push(cells);
                }
            }
        }
    }
    table.note(format!("a line has {POLITE} clients at once, each waits 20 s at most"));
    Ok(table)
}

fn suffer(bench: &Bench, attack: &Attack, max_memory: usize) -> Outcome<Damage> {
    let ours = bench.servers.iter().find(|server| server.is_ours()).ok_or("no threadbare")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let log = bench.scratch.join("attack.log");
    let exec = format!("exec \"$0\" \"$@\" 2>'{}'", log.display());
    let (limit, address) = (max_memory.to_string(), format!("127.0.0.1:{port}"));
    let words = ["sh", "-c", &exec, ours.path(), "-l", &address];
    let words = [&words[..], attack.words, &["--max-memory", &limit], &PATIENT[..]].concat();
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let running = Running::start("threadbare", &words, port, true)?;
    let victim = Victim {
        pid: running.pid.as_raw(),
        address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        max_memory,
        log: &|| fs::read_to_string(&log).unwrap_or_default(),
    };
    Ok(attack.run(&victim, attack.words[0] == "greet")?)
}
