//! The loop: wait, dispatch, settle. The one file to read if only one.
//!
//! One turn: `epoll_wait` reports what is ready. For each event the bytes are
//! received, the handler is called, and what it wrote is gathered. Then come
//! the core descriptors (signals, calls from other threads, the timer, new
//! clients), then connections with work left from the turn before. At the end
//! [`Reactor::settle`] does once what callbacks only marked: sends, updates epoll,
//! shuts down, frees.
//!
//! A turn is bounded by work, not by events alone. When a [quantum](crate::net) of work is done,
//! the rest of the batch waits, the core descriptors are read without asking epoll, and the
//! next turn goes on with the rest. (Another `epoll_wait` would report the same descriptors in
//! the same order, and those at the end would never have their turn.)
//!
//! Invariants:
//! 1. A slot is freed only in `settle`, and never before its staged output was flushed. An
//!    event of the batch that still names it is stale, and its generation shows that.
//! 2. Work is bounded: one `recv` for each connection and turn, so that a greedy
//!    client cannot starve the others; what is left over goes to `work`, and the next
//!    wait does not block.
//! 3. A message costs one `recv`, one `send` and its share of an `epoll_wait`, and
//!    allocates nothing: everything else is in the `#[cold]` paths.

use crate::backoff::Backoff;
use crate::connection::{Attention, Connection};
use crate::crowd::Crowd;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Clock, Event, Kernel, Wait};
use crate::listener::Listener;
use crate::mailbox::{Job, Mailbox};
use crate::net::{CALL, Net, Stop};
use crate::process::Process;
use crate::reaction::Call;
use crate::slots::Id;
use crate::time::Moment;
use std::collections::VecDeque;
use std::sync::Arc;

mod accepting;
mod connecting;
mod freeing;
mod giving_way;
mod hangup;
mod input;
mod input_buffer;
mod introducing;
mod notifying;
mod opening;
mod poll;
mod signals;
mod stopping;
mod timerfd;
mod turn;
mod waking;

pub(crate) use freeing::Owned;
use giving_way::GivingWay;
use input_buffer::InputBuffer;
use poll::Poll;
use signals::Signals;
pub(crate) use stopping::End;
use timerfd::Timer;
use turn::Rest;

/// Events taken at once.
pub(crate) const BATCH: usize = 1_024;
/// Events served before their answers are sent: few enough that all is still in the cache.
const GROUP: usize = 32;
/// What a stopping server still reads of one connection.
const DRAIN_BYTES: u32 = 8 << 20;
/// Up to this many connections, a debug build adds up what they hold after each turn.
const CROWD: usize = 64;

pub(crate) struct Reactor<H: ConnectionHandler, K: Kernel> {
    pub(crate) handler: H,
    pub(crate) kernel: K,
    pub(crate) net: Net,
    /// The second column of the table of connections.
    pub(crate) sessions: Vec<Option<H::Session>>,
    pub(crate) poll: Poll,
    pub(crate) mailbox: Arc<Mailbox<H>>,
    pub(crate) listeners: Vec<Listener>,
    /// The listener whose turn is next.
    pub(crate) next_listener: u32,
    /// Is on while no client is accepted, because descriptors or memory are short.
    pub(crate) backoff: Backoff,
    pub(crate) giving_way: GivingWay,
    pub(crate) crowd: Crowd,
    /// Clients behind a front that are not named yet.
    pub(crate) unnamed: u32,
    pub(crate) timer: Timer,
    /// The one input buffer, and the one batch of events.
    pub(crate) input: InputBuffer,
    pub(crate) events: Vec<Event>,
    /// Core descriptors that are ready in this turn, and for what.
    pub(crate) woken: Vec<(u32, u32)>,
    /// The rest of a batch that is not served yet: the first entries of `events`.
    pub(crate) rest: Rest,
    /// Calls from other threads that are not made yet.
    pub(crate) jobs: VecDeque<Job<H>>,
    /// Connections that have something to do without an event.
    pub(crate) work: Vec<u32>,
    /// Connections that are gone, and freed when it is their turn.
    pub(crate) leaving: VecDeque<u32>,
    /// Whether nothing is left to do without an event.
    pub(crate) is_idle: bool,
    pub(crate) turn: u64,
    pub(crate) end: End,
    pub(crate) reported_at: Option<Moment>,
    /// What belongs to the process as a whole, if this server owns it.
    pub(crate) process: Option<Process>,
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// One turn of the loop. Returns whether there is to be another.
    pub(crate) fn turn(&mut self) -> Result<bool, Error> {
        let ready = self.wait()?;
        let mut events = std::mem::take(&mut self.events);
        let mut groups = events.get(..ready).unwrap_or_default().chunks(GROUP);
        'batch: while let Some(group) = groups.next() {
            let mut group = group.iter();
            while let Some(event) = group.next() {
                match Id::from_u64(event.data) {
                    Id { generation: 0, slot } => self.woken.push((slot, event.mask)),
                    id => self.serve(id, event.mask),
                }
                if self.flush_if_due() {
                    let left = group.len() + groups.map(<[Event]>::len).sum::<usize>();
                    self.break_off(ready, left, &mut events);
                    break 'batch;
                }
            }
            self.net.flush_answers(&mut self.kernel, GROUP);
        }
        self.flush();
        self.events = events;
        if self.is_settled() {
            return Ok(true); // messages and nothing else: the common turn ends here
        }
        self.serve_others(ready)
    }

    /// The rest of a turn in which there is more to do than to answer messages.
    #[inline(never)]
    fn serve_others(&mut self, ready: usize) -> Result<bool, Error> {
        if !self.woken.is_empty() {
            self.serve_core(ready);
        }
        self.run_jobs();
        if self.net.stop == Stop::Wanted {
            self.begin_drain();
        }
        if !self.work.is_empty() {
            self.step_on();
        }
        self.settle();
        if self.has_ended() {
            return Ok(false);
        }
        self.net.begin_quantum(); // of the next turn
        self.note_idle();
        self.set_timer()?;
        Ok(true)
    }

    /// A step for each connection that needs no event. Those that are left when the quantum is
    /// spent are marked, and so come to the list again.
    fn step_on(&mut self) {
        self.net.begin_quantum();
        let mut work = std::mem::take(&mut self.work);
        let mut slots = work.drain(..);
        for slot in slots.by_ref() {
            self.net.spend(CALL);
            self.step(slot);
            if self.flush_if_due() {
                break;
            }
        }
        slots.rev().for_each(|slot| self.net.table.mark(slot)); // the last marked is the first
        self.work = work;
    }

    /// Whether nothing has happened in this turn that asks for more than answers.
    fn is_settled(&self) -> bool {
        let nothing_marked = self.net.table.is_settled() && self.woken.is_empty();
        nothing_marked && self.is_idle && self.net.stop == Stop::No
    }

    /// Notes whether the next turn may wait.
    pub(crate) fn note_idle(&mut self) {
        let is_served = self.jobs.is_empty() && self.work.is_empty() && self.leaving.is_empty();
        let wants_no_more = !self.net.has_dials() && self.net.stop != Stop::Wanted;
        self.is_idle = self.rest.end_turn() && is_served && wants_no_more;
    }

    fn wait(&mut self) -> Result<usize, Error> {
        let ready = match self.is_idle {
            true => self.poll.wait(&mut self.kernel, &mut self.events, Wait::Forever)?,
            false => self.next_events()?,
        };
        self.net.begin_turn(self.kernel.clock_gettime(Clock::Monotonic));
        self.turn += 1;
        Ok(ready)
    }

    // ---- the hot path --------------------------------------------------------------

    /// An event of a connection. The common case, bytes and nothing else going on, is
    /// all here; the rest is in `serve_busy`.
    #[inline]
    fn serve(&mut self, id: Id, mask: u32) {
        let answer = self.net.table.next_answer();
        let found = self.net.table.find_quiet(id);
        let Some((mut connection, is_quiet)) = found else { return }; // a stale event
        if mask != kernel::IN || !is_quiet {
            return self.serve_busy(id.slot, mask);
        }
        match self.kernel.recv(&connection.fd, &mut self.input) {
            Ok(n @ 1..) => {
                connection.heard(n, self.net.now, answer);
                self.net.table.open_answer(id.slot);
                self.offer_fresh(id.slot, n);
                self.net.table.close_answer();
            }
            Ok(_) => self.ended(id.slot),
            Err(errno) => self.received(id.slot, Err(errno), false),
        }
    }

    // ---- settle ----------------------------------------------------------------------

    /// Does what was marked, until nothing is: what it does may mark more.
    fn settle(&mut self) {
        self.flush();
        self.net.begin_quantum();
        for _ in 0..self.leaving.len() {
            let slot = self.leaving.pop_front();
            slot.into_iter().for_each(|slot| self.reconcile(slot)); // which may put it back
        }
        self.net.keep_budget();
        self.dial();
        self.settle_marked();
        if self.net.relieve() {
            self.settle_marked();
        }
        if self.net.take_decline() {
            self.process.iter().for_each(Process::return_memory);
        }
        self.settle_listeners();
        debug_assert!(self.net.table.len() > CROWD || self.net.table.is_counted(), "miscounted");
    }

    /// What is written to a connection is sent before its turn. What is written to others
    /// meanwhile waits for more: thousands may leave at once, and a handler may send each leave
    /// to the rest.
    fn settle_marked(&mut self) {
        loop {
            if let Some(slot) = self.net.table.next_marked() {
                self.reconcile(slot);
                self.flush_if_due();
            } else if self.net.is_flushed() {
                return;
            } else {
                self.flush();
            }
        }
    }

    /// Settles a connection that was just accepted, at once: most have no more to settle than
    /// their idle deadline. If its handler has begun something, it is marked.
    pub(super) fn settle_new(&mut self, slot: u32) {
        let Reactor { net, timer, .. } = self;
        if net.is_draining() {
            return net.table.mark(slot);
        }
        let Some(mut connection) = net.table.tally(slot) else { return };
        if connection.make_quiet()
            && let Some(span) = net.timeouts.usual.idle
        {
            timer.deadlines.look_by(slot, net.now.after(span).look(net.now));
        }
    }

    /// Brings the kernel's settings in line with the connection's state. It stays marked
    /// meanwhile, so that what happens here does not put it on the list again.
    fn reconcile(&mut self, slot: u32) {
        self.net.begin_file(&mut self.kernel, slot);
        let (owes, starves) = self.net.verdict(slot);
        let (now, stop) = (self.net.now, self.net.stop);
        let Reactor { kernel, net, poll, timer, work, leaving, .. } = self;
        let data = net.table.id(slot).to_u64();
        let Some(mut connection) = net.table.edit(slot) else { return };
        connection.state.settle(owes, starves, now);
        if connection.is_flushed()
            && connection.flushed(now)
            && let Err(errno) = kernel.shutdown(&connection.fd)
        {
            connection.failed(Call::Shutdown, errno, &mut net.counters);
        }
        if !connection.state.is_gone() {
            let interest = connection.interest();
            let Connection { fd, registered, .. } = &mut *connection;
            if let Err((call, errno)) = poll.rewatch(kernel, fd, registered, interest, data) {
                connection.failed(call, errno, &mut net.counters);
            }
        }
        if connection.state.is_gone() {
            drop(connection);
            if net.is_spent() {
                return leaving.push_back(slot); // its handler may send its end to thousands
            }
            return self.free(slot);
        }
        if let Some(at) = connection.deadline(net.timeouts.of(slot), now) {
            timer.deadlines.look_by(slot, at.look(now));
        }
        if connection.has_work(stop.may_end(&connection, net.timeouts.of(slot), now)) {
            work.push(slot);
        }
        debug_assert_eq!(connection.contradiction(), None, "{}", *connection);
        // While stopping, the bytes read are counted, which the hot path does not do.
        let is_quiet = stop != Stop::Draining && connection.is_quiet();
        connection.settled(if is_quiet { Attention::Quiet } else { Attention::Busy });
        debug_assert!(net.table.is_measured(), "the limit is not what the budget leaves");
    }
}
