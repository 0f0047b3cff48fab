//! The walkthrough in a browser, served by threadbare itself.
//!
//! ```text
//! make book                          at http://127.0.0.1:1235/, for this machine alone
//! make book ADDR=192.168.1.5:8080    elsewhere: a browser must ask for it by this name
//! ```
//!
//! The markdown of docs/ is the one source. It is rendered once, at the start: [`pages`] follows
//! the links from docs/README.md to what is served, and nothing else is; the address of a page is
//! its path in the repository. [`markdown`] makes HTML of a page. That is the renderer.
//!
//! The server is the rest. [`site`] is the handler: requests in, answers out. The kernel below
//! it is narrated, and [`live`] keeps what it narrates: the calls that delivered a page, and
//! what a [`rude`] client caused. A test counts its lines: at most 300.

#[path = "../../programs/lanes.rs"]
mod lanes;
mod live;
mod markdown;
mod pages;
mod rude;
mod site;
#[allow(dead_code)] // the window of a terminal
#[path = "../../../src/program/view.rs"]
mod view;

use live::{Log, locked};
use pages::Pages;
use site::Site;
use std::collections::VecDeque;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use threadbare::kernel::{Linux, Narrated};
use threadbare::{Errno, Error, Server};

const USUAL: &str = "127.0.0.1:1235";

fn main() -> ExitCode {
    if let Err(why) = run(std::env::args().nth(1).filter(|word| !word.is_empty())) {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(asked: Option<String>) -> Result<(), Box<dyn std::error::Error>> {
    let pages = Pages::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../..").as_ref())?;
    let told = pages.count();
    let mut server = match bind(pages.clone(), asked.as_deref().unwrap_or(USUAL)) {
        Err(error) if asked.is_none() && error.errno == Errno::EADDRINUSE => {
            bind(pages, "127.0.0.1:0")?
        }
        bound => bound?,
    };
    let address = server.addresses().first().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(stdout(), "{told} at http://{address}/\nCtrl-C ends it."); // if anybody reads
    let _ = writeln!(stdout(), "{}", server.run()?);
    Ok(())
}

fn bind(pages: Arc<Pages>, address: &str) -> Result<Server<Site, Narrated<Linux>>, Error> {
    let log = Arc::new(Mutex::new(Log::default()));
    let (told, waits) = (Arc::clone(&log), Arc::clone(&log));
    let kernel = Narrated::new(Linux, move |line| locked(&told).tell(view::now(), line))
        .on_wait(move |_| locked(&waits).fell_asleep = Some(view::now()));
    Server::builder(Site { pages, log, requests: VecDeque::new() })
        .workers(1, 8, || ())
        .kernel(kernel)
        .own_process(true)
        .bind(address)
}
