//! A server in a simulated world, for the tests that need one.
#![allow(dead_code, unreachable_pub)] // each test program uses its own part of it

pub mod case;
pub mod diary;
pub mod dice;
pub mod journal;
pub mod judge;
pub mod parts;
pub mod play;
pub mod stage;
pub mod sweep;
pub mod whim;

use journal::Journal;
use std::time::Duration;
use threadbare::kernel::sim::{Client, Simulated};
use threadbare::{
    Address, Builder, ConnectionHandler, Error, Limits, Server, Signal, Summary, ToAddresses,
};

pub struct World<H: ConnectionHandler> {
    pub sim: Simulated,
    pub server: Server<H, Simulated>,
    pub running: bool,
    /// What `turn` failed with.
    pub failure: Option<Error>,
    pub turns: u64,
    /// What faults struck, if anybody wants to know.
    pub journal: Option<Journal>,
    /// Is called with each place at which a connection stands between two turns.
    pub watch: Option<Box<dyn FnMut(&'static str)>>,
}

impl<H: ConnectionHandler> World<H> {
    pub fn new(handler: H, limits: Limits) -> World<H> {
        World::on(Simulated::new(1), handler, limits).unwrap()
    }

    pub fn on(sim: Simulated, handler: H, limits: Limits) -> Result<World<H>, Error> {
        World::at("127.0.0.1:80", sim, handler, limits)
    }

    pub fn at(
        address: impl ToAddresses,
        sim: Simulated,
        handler: H,
        limits: Limits,
    ) -> Result<World<H>, Error> {
        let builder = Server::builder(handler).kernel(sim.clone()).limits(limits);
        World::of(builder, address, sim)
    }

    /// Of a server that is described already.
    pub fn of(
        builder: Builder<H, Simulated>,
        address: impl ToAddresses,
        sim: Simulated,
    ) -> Result<World<H>, Error> {
        let mut server = builder.own_process(true).bind(address)?;
        server.turn()?; // the first: from now on it hears signals
        Ok(World {
            sim,
            server,
            running: true,
            failure: None,
            turns: 0,
            journal: None,
            watch: None,
        })
    }

    pub fn address(&self) -> Address {
        self.server.addresses()[0].clone()
    }

    pub fn client(&self) -> Client {
        self.sim.connect(&self.address()).unwrap()
    }

    /// One turn. What makes the loop fail ends the server, as it would end the program.
    pub fn turn(&mut self) {
        self.turns += 1;
        if let Some(journal) = &mut self.journal {
            journal.before(&self.server);
        }
        self.running = self.server.turn().unwrap_or_else(|error| {
            self.failure = Some(error);
            false
        });
        let (counted, held) = self.server.memory();
        assert_eq!(counted, held, "the memory in use is miscounted");
        if let Some(journal) = &mut self.journal {
            journal.after(&self.sim);
        }
        if let Some(watch) = &mut self.watch {
            self.server.places().for_each(|(_, [_, place])| watch(place));
        }
    }

    /// Lets the server do all it can do without time passing. Bounded: it must come to rest.
    pub fn rest(&mut self) {
        for _ in 0..10_000 {
            if !self.running || !self.sim.is_ready() && self.server.is_idle() {
                return;
            }
            self.turn();
        }
        panic!("the server spins");
    }

    /// Lets time pass, as much as it takes until it brings nothing or `limit` is reached.
    pub fn pass(&mut self, limit: Duration) {
        let end = self.sim.now() + limit.as_nanos() as u64;
        self.rest();
        while self.running
            && let Some(at) = self.sim.next_event()
            && at <= end
        {
            self.sleep_until(at);
        }
        self.sleep_until(end);
    }

    fn sleep_until(&mut self, at: u64) {
        self.sim.advance(Duration::from_nanos(at.saturating_sub(self.sim.now())));
        self.rest();
    }

    /// Says something and returns the answer.
    pub fn ask(&mut self, client: &mut Client, words: &[u8]) -> Vec<u8> {
        assert_eq!(client.send(words), words.len());
        self.rest();
        client.recv()
    }

    /// Stops the server as SIGTERM does, however long that takes, and checks that it
    /// leaves nothing behind.
    pub fn stop(mut self) -> Summary {
        assert!(self.sim.signal(Signal::SIGTERM));
        self.end()
    }

    pub fn end(&mut self) -> Summary {
        self.pass(Duration::from_secs(3_600));
        assert!(!self.running, "it did not stop");
        let summary = self.server.finish().unwrap();
        let closed: u64 = summary.counters.closed.iter().sum();
        let begun = summary.counters.accepted + summary.counters.connected;
        assert_eq!(begun, closed, "{summary}");
        assert_eq!(summary.counters.bugs, 0, "{summary}");
        summary
    }
}

/// Names the case if it panics, wherever that is.
pub struct Report<'a>(pub &'a str);

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case: {}", self.0);
        }
    }
}
