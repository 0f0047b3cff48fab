//! The walkthrough in a browser, served by threadbare itself.
//!
//! ```text
//! make book                          at http://127.0.0.1:1235/, for this machine alone
//! make book ADDR=192.168.1.5:8080    elsewhere: a browser must ask for it by this name
//! ```
//!
//! The markdown of docs/ is the one source. It is rendered once, at the start, and the address
//! of a page is its path in the repository, so that no link is rewritten: [`pages`] follows the
//! links from docs/README.md and serves what they lead to, and nothing else. [`site`] is the
//! handler: requests in, answers out. The kernel below it is narrated, and [`live`] keeps what it
//! narrates, by connection: the calls that delivered a page, and what a [`rude`] client caused.

#[path = "../../programs/lanes.rs"]
mod lanes;
mod live;
mod pages;
mod rude;
mod site;
#[allow(dead_code)] // the window of a terminal
#[path = "../../../src/program/view.rs"]
mod view;

use live::Log;
use pages::Pages;
use site::Site;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use threadbare::kernel::{Linux, Narrated};
use threadbare::{Errno, Error, Limits, Server, WorkerPool};

const USUAL: &str = "127.0.0.1:1235";

type Narrating = Server<Site, Narrated<Linux>>;

fn main() -> ExitCode {
    let asked = std::env::args().nth(1).filter(|word| !word.is_empty());
    match run(asked.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let pages = Arc::new(Pages::read(root)?);
    let mut server = match bind(&pages, asked.unwrap_or(USUAL)) {
        Err(error) if asked.is_none() && error.errno == Errno::EADDRINUSE => {
            bind(&pages, "127.0.0.1:0")?
        }
        bound => bound?,
    };
    let (pages, sources) = pages.count();
    server.handler().pool.start(1, server.handle())?;
    let address = server.addresses().first().map(ToString::to_string).unwrap_or_default();
    let told =
        format!("{pages} pages and {sources} sources at http://{address}/\nCtrl-C ends it.\n");
    let _ = stdout().write_all(told.as_bytes()); // nobody may be there to read it
    let _ = writeln!(stdout(), "{}", server.run()?);
    Ok(())
}

fn bind(pages: &Arc<Pages>, address: &str) -> Result<Narrating, Error> {
    let log = Arc::new(Mutex::new(Log::default()));
    let (told, waits) = (Arc::clone(&log), Arc::clone(&log));
    let kernel = Narrated::new(Linux, move |line| live::locked(&told).tell(view::now(), line))
        .on_wait(move |_| live::locked(&waits).falls_asleep(view::now()));
    let site = Site::new(Arc::clone(pages), log, WorkerPool::new(8));
    // Ends are for the handler, so that a head that never ends is answered and not just cut.
    let limits = Limits { max_connections: 500, ..Limits::default() };
    Server::builder(site).kernel(kernel).limits(limits).own_process(true).bind(address)
}
