//! What a handler may do: [`Conn`], the connection at hand, and [`Net`], all of them.
//!
//! A callback only marks and appends. What it writes goes into one output buffer
//! shared by all connections, as a list of segments; [`Net::flush`] sends each
//! segment with one call, and only what the kernel did not take moves into the
//! connection's own buffer. So a message allocates nothing, order per connection
//! holds by construction, and a broadcast is many segments of one buffer.
//!
//! Invariants:
//! 1. `out` and `segments` are empty between turns, and no segment is open.
//! 2. The budget counts the footprints of all connections.
//! 3. A connection whose state changed is in `marked`, once.

use crate::budget::{Budget, RESERVE_EACH};
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::connection::{Connection, Finish, Phase};
use crate::counters::Counters;
use crate::deadlines::{Span, Tick};
use crate::kernel::{Address, Errno, Fd, Kernel, Peer};
use crate::limits::{Limits, Timeouts};
use crate::reaction::{Call, Reaction, reaction};
use crate::slots::{Id, Slots};
use std::collections::{BTreeMap, TryReserveError};
use std::fmt;
use std::time::Duration;

mod files;
mod outbound;

/// Output is sent when so many segments wait, or so many bytes.
const GROUP_SEGMENTS: usize = 32;
const GROUP_BYTES: usize = 64 << 10;
/// A shared buffer that grew beyond this is given back.
const KEEP_BYTES: usize = 1 << 20;
/// Whoever takes no byte for so many milliseconds is the first to go when memory is short.
const STALLED: u32 = 1_000;
/// How often the kernel may be out of memory for one connection in a row.
const MAX_TRIES: u8 = 12;

/// Names a connection for as long as the server runs: an id is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) Id);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.slot, self.0.generation)
    }
}

/// All connections of the server, as its handler may use them.
#[derive(Debug)]
pub struct Net {
    pub(crate) connections: Slots<Connection>,
    pub(crate) marked: Vec<u32>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Counters,
    /// Where each listener listens.
    pub(crate) locals: Vec<Address>,
    /// Milliseconds of the monotonic clock, read once a turn; and when it was first read.
    pub(crate) now_millis: u64,
    pub(crate) start_millis: u64,
    pub(crate) now: Tick,
    /// Somebody asked the server to stop.
    pub(crate) stop: bool,
    /// The server is stopping.
    pub(crate) draining: bool,
    /// How many of the connections we began ourselves.
    pub(crate) outbound: u32,
    /// The files that are being sent, by slot.
    files: BTreeMap<u32, files::FilePart>,
    /// Files to be closed.
    pub(crate) discarded: Vec<Fd>,
    /// The memory that connections hold; `out` is bounded by what is left of it.
    pub(crate) budget: Budget,
    out: Vec<u8>,
    segments: Vec<Segment>,
    open: OpenSegment,
    /// `out` may grow to here without looking further: its capacity, the budget.
    limit: usize,
    /// From here on a connection is full: what is configured, or its share of the budget.
    high_water: usize,
}

/// The segment at the end of `out` that is still being written. Where its connection
/// becomes full is computed once, so that a write compares and copies, and does nothing
/// else.
#[derive(Debug)]
struct OpenSegment {
    slot: u32,
    start: usize,
    /// From here on the connection is full.
    full_at: usize,
}

impl OpenSegment {
    /// Nobody's.
    const NONE: OpenSegment = OpenSegment { slot: u32::MAX, start: usize::MAX, full_at: 0 };
}

/// These bytes of `out` go to `slot`.
#[derive(Clone, Copy, Debug)]
struct Segment {
    slot: u32,
    start: usize,
    end: usize,
}

/// The connection a callback is about.
#[derive(Debug)]
pub struct Conn<'a> {
    pub(crate) net: &'a mut Net,
    pub(crate) slot: u32,
}

impl Conn<'_> {
    /// Its name, to be used later or by others.
    pub fn id(&self) -> ConnId {
        ConnId(self.net.connections.id(self.slot))
    }

    /// The other end.
    pub fn peer(&self) -> Peer {
        self.net.connections.get(self.slot).map_or(Peer::Unix, |connection| connection.peer)
    }

    /// The listener it came through: for a listener on all addresses, that address.
    pub fn local(&self) -> Option<&Address> {
        let connection = self.net.connections.get(self.slot)?;
        self.net.locals.get(usize::from(connection.listener))
    }

    /// Sends `bytes`, in order, as fast as the peer takes them. Never blocks; what
    /// the peer does not take at once waits in memory, see [`Conn::is_full`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.net.stage(self.slot, bytes);
    }

    /// Bytes written that the kernel has not yet taken.
    pub fn queued(&self) -> usize {
        let open = &self.net.open;
        let open = if open.slot == self.slot { self.net.out.len() - open.start } else { 0 };
        self.net.connections.get(self.slot).map_or(0, Connection::queued) + open
    }

    /// Whether output stands above the high water mark: time to stop consuming
    /// input. `on_drain` says when it has fallen below the low one.
    #[inline]
    pub fn is_full(&self) -> bool {
        if self.net.open.slot == self.slot {
            return self.net.out.len() >= self.net.open.full_at;
        }
        self.net.connections.get(self.slot).is_some_and(|connection| connection.full)
    }

    /// Ends the connection when everything written has been sent: FIN, and what the
    /// peer still sends is thrown away. No more input is offered.
    pub fn close(&mut self) {
        let Some(connection) = self.net.connections.get_mut(self.slot) else { return };
        let why = if connection.eof { CloseReason::PeerClosed } else { CloseReason::Handler };
        self.net.close_slot(self.slot, why);
    }

    /// Ends our direction only: FIN when everything written has been sent, and what the
    /// peer sends is still offered. Nothing more can be written. When the peer has ended
    /// too, the connection closes by itself.
    pub fn finish(&mut self) {
        self.net.change(self.slot, |connection| {
            if connection.phase == Phase::Open && connection.finish == Finish::No {
                connection.finish = Finish::Wanted;
            }
        });
    }

    /// Offers input though output stands above the high water mark, for a handler that does
    /// not answer it here but elsewhere, as a proxy does. It has to [`pause`](Conn::pause)
    /// this connection when that one is full.
    pub fn duplex(&mut self, duplex: bool) {
        self.net.change(self.slot, |connection| connection.duplex = duplex);
    }

    /// While held, a connection is not ended by a stop of the server: it is read and
    /// served until the handler closes it, or the drain deadline cuts it off.
    pub fn hold(&mut self, hold: bool) {
        self.net.change(self.slot, |connection| connection.held = hold);
    }

    /// Ends the connection now, with a reset; what was written may be lost.
    pub fn abort(&mut self) {
        self.net.change(self.slot, |connection| connection.abort(CloseReason::Handler));
    }

    /// Takes no more input until [`resume`](Conn::resume): nothing is offered, and
    /// soon TCP lets the peer wait.
    pub fn pause(&mut self) {
        self.net.change(self.slot, |connection| connection.paused = true);
    }

    /// Ends a pause; what was not consumed is offered again.
    pub fn resume(&mut self) {
        let now = self.net.now;
        self.net.change(self.slot, |connection| {
            connection.reoffer |= connection.paused;
            connection.paused = false;
            connection.rest_since = now;
        });
    }

    /// Calls `on_timer` once after `delay`, or never; replaces the time set before.
    pub fn set_timer(&mut self, delay: Option<Duration>) {
        let at = delay.map(|delay| self.net.now.after(Span::at_least(delay)));
        self.net.change(self.slot, |connection| {
            connection.timed = at.is_some();
            connection.timer = at.unwrap_or(connection.timer);
        });
    }

    /// All connections, this one included.
    pub fn net(&mut self) -> &mut Net {
        self.net
    }
}

impl Net {
    /// Sends `bytes` to a connection; `false` if it is gone or going.
    ///
    /// To send the same bytes to many, send them to one after the other: they are
    /// kept in memory once.
    pub fn send(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        let slot = id.0.slot;
        self.connections.find(id.0).is_some()
            && (self.stage_again(slot, bytes) || self.stage(slot, bytes))
    }

    /// A connection by its id, with all that can be done to it.
    pub fn conn(&mut self, id: ConnId) -> Option<Conn<'_>> {
        self.connections.find(id.0)?;
        Some(Conn { net: self, slot: id.0.slot })
    }

    /// Ends a connection as [`Conn::close`] does; `false` if it is gone.
    pub fn close(&mut self, id: ConnId) -> bool {
        self.conn(id).map(|mut conn| conn.close()).is_some()
    }

    /// The ids of all connections in service.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        let in_service = self.connections.iter().filter(|(_, c)| c.phase == Phase::Open);
        in_service.map(|(slot, _)| ConnId(self.connections.id(slot)))
    }

    /// Time since the server was built, read once a turn of the loop.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now_millis - self.start_millis)
    }

    /// Stops the server as SIGTERM does: it finishes what it has received.
    pub fn stop(&mut self) {
        self.stop = true;
    }

    pub(crate) fn new(limits: Limits, now_nanos: u64) -> Result<Net, TryReserveError> {
        let now_millis = now_nanos / 1_000_000;
        let mut out = Vec::new();
        out.try_reserve_exact(2 * GROUP_BYTES)?;
        let mut net = Net {
            connections: Slots::with_capacity(limits.slots())?,
            marked: Vec::new(),
            timeouts: Timeouts::of(&limits),
            budget: Budget::new(limits.max_memory),
            limits,
            counters: Counters::default(),
            locals: Vec::new(),
            now_millis,
            start_millis: now_millis,
            now: Tick::from_millis(now_millis),
            stop: false,
            draining: false,
            outbound: 0,
            files: BTreeMap::new(),
            discarded: Vec::new(),
            out,
            segments: Vec::new(),
            open: OpenSegment::NONE,
            limit: 0,
            high_water: 0,
        };
        net.measure();
        Ok(net)
    }

    /// Computes what is looked at often and changes seldom: whenever the budget, or the
    /// capacity of `out`, may have changed.
    fn measure(&mut self) {
        self.limit = self.out.capacity().min(self.budget.left());
        self.high_water = self.limits.high_water.min(self.budget.share());
    }

    pub(crate) fn begin_turn(&mut self, nanos: u64) {
        self.now_millis = nanos / 1_000_000;
        self.now = Tick::from_millis(self.now_millis);
    }

    /// Puts a connection on the list of those to be settled.
    pub(crate) fn mark(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot)
            && !connection.marked
        {
            (connection.marked, connection.quiet) = (true, false);
            self.marked.push(slot);
        }
    }

    /// Changes a connection: the one door, which keeps the budget and the marks right.
    pub(crate) fn change<R>(
        &mut self,
        slot: u32,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        self.close_segment(); // it may close for writing, and `queued` must be right
        let connection = self.connections.get_mut(slot)?;
        let before = connection.footprint();
        let result = change(connection);
        self.budget.take(connection.footprint());
        self.budget.give_back(before);
        self.measure();
        self.mark(slot);
        Some(result)
    }

    pub(crate) fn close_slot(&mut self, slot: u32, why: CloseReason) {
        self.change(slot, |connection| connection.close(why));
    }

    /// Appends `bytes` to the shared output for `slot`; `false` if it takes none any more.
    #[inline]
    fn stage(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let fits = self.open.slot == slot && self.out.len() + bytes.len() <= self.limit;
        if !fits && !self.open_segment(slot, bytes.len()) {
            return false;
        }
        self.out.extend_from_slice(bytes);
        true
    }

    /// Begins a segment for a connection that is quiet, and so owes nothing.
    #[inline]
    pub(crate) fn open_fresh(&mut self, slot: u32) {
        self.close_segment();
        let start = self.out.len();
        self.open = OpenSegment { slot, start, full_at: start + self.high_water.max(1) };
    }

    /// Begins a segment for `slot` with room for `more` bytes at least; `false` if the
    /// connection takes none.
    fn open_segment(&mut self, slot: u32, more: usize) -> bool {
        self.close_segment();
        let staged = self.out.len() + more;
        if staged > self.budget.left() && !self.make_room(staged) {
            self.change(slot, |connection| connection.abort(CloseReason::MemoryBudget));
        }
        let high_water = self.high_water;
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        if connection.phase == Phase::Open && connection.file {
            self.wrote_behind_a_file(slot);
            return false;
        }
        if !connection.takes_output() || self.out.try_reserve(more).is_err() {
            return false;
        }
        let start = self.out.len();
        let to_high_water = high_water.saturating_sub(connection.queued()).max(1);
        let full_at = if connection.full { 0 } else { start + to_high_water };
        self.open = OpenSegment { slot, start, full_at };
        self.measure();
        true
    }

    /// There is no place for the bytes, and an answer without them is no answer.
    #[cold]
    fn wrote_behind_a_file(&mut self, slot: u32) {
        self.counters.bugs += 1;
        log::error!("bug: the handler wrote while a file was being sent");
        self.change(slot, |connection| connection.abort(CloseReason::Handler));
    }

    /// Ends the open segment, and accounts for it.
    #[inline]
    fn close_segment(&mut self) {
        let OpenSegment { slot, start, full_at } = self.open;
        self.open.slot = OpenSegment::NONE.slot;
        let end = self.out.len();
        if slot == OpenSegment::NONE.slot || end == start {
            return;
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.staged += end - start;
            self.segments.push(Segment { slot, start, end });
            if end >= full_at {
                self.became_full(slot);
            }
        }
    }

    /// The handler may have been told so, and waits for `on_drain`, even if the kernel
    /// then takes everything at once.
    #[cold]
    fn became_full(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.full = true;
        }
        self.mark(slot);
    }

    /// If these are the bytes that were staged last, they need not be staged again.
    fn stage_again(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.close_segment();
        let Some(&Segment { start, end, .. }) = self.segments.last() else { return false };
        let high_water = self.high_water;
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        if self.out.get(start..end) != Some(bytes) || !connection.takes_output() {
            return false;
        }
        connection.staged += bytes.len();
        self.segments.push(Segment { slot, start, end });
        if connection.owes(high_water) {
            self.became_full(slot);
        }
        true
    }

    /// Whether enough is staged to be sent before the batch goes on.
    #[inline]
    fn is_group(&self) -> bool {
        self.segments.len() + 1 >= GROUP_SEGMENTS || self.out.len() >= GROUP_BYTES
    }

    /// Sends what is staged if it is enough for a group.
    #[inline]
    pub(crate) fn flush_group<K: Kernel>(&mut self, kernel: &mut K) {
        if self.is_group() {
            self.flush(kernel);
        }
    }

    /// Lends out the unconsumed input of a connection, to be given back.
    pub(crate) fn take_input(&mut self, slot: u32) -> Buffer {
        let taken = self.change(slot, |connection| std::mem::take(&mut connection.input));
        taken.unwrap_or_default()
    }

    /// Gives it back, unless the connection takes no input any more.
    pub(crate) fn put_input(&mut self, slot: u32, input: Buffer) {
        self.change(slot, |connection| {
            if connection.takes_input() {
                connection.input = input;
            }
        });
    }

    /// Sends what is staged: one `send` a segment.
    pub(crate) fn flush<K: Kernel>(&mut self, kernel: &mut K) {
        self.close_segment();
        let mut out = std::mem::take(&mut self.out);
        let mut segments = std::mem::take(&mut self.segments);
        for segment in &segments {
            if let Some(bytes) = out.get(segment.start..segment.end) {
                self.transmit(kernel, segment.slot, bytes);
            }
        }
        out.clear();
        out.shrink_to(KEEP_BYTES);
        segments.clear();
        (self.out, self.segments) = (out, segments);
        self.measure();
    }

    /// Sends a segment, or keeps what the kernel does not take.
    #[inline]
    fn transmit<K: Kernel>(&mut self, kernel: &mut K, slot: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.staged -= bytes.len();
        let mut taken = 0;
        if connection.output.is_empty() && !connection.later {
            if matches!(connection.phase, Phase::Broken | Phase::Gone) {
                return;
            }
            match kernel.send(&connection.fd, bytes) {
                Ok(n) => {
                    connection.sent += n as u64;
                    connection.last = self.now;
                    if n == bytes.len() {
                        return;
                    }
                    taken = n;
                }
                Err(errno) => self.failed(slot, Call::Send, errno),
            }
        }
        self.keep_output(slot, bytes.get(taken..).unwrap_or_default());
    }

    /// Sends from the connection's own output.
    pub(crate) fn send_waiting<K: Kernel>(&mut self, kernel: &mut K, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.later {
            return;
        }
        if connection.output.is_empty() {
            return self.send_file(kernel, slot);
        }
        match kernel.send(&connection.fd, connection.output.as_slice()) {
            Ok(n) => {
                self.change(slot, |connection| connection.output.consume(n));
                self.moved(slot, n);
            }
            Err(errno) => self.failed(slot, Call::Send, errno),
        }
    }

    /// The kernel took `n` bytes that had waited.
    fn moved(&mut self, slot: u32, n: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.sent += n as u64;
        if n > 0 {
            connection.tries = 0;
            connection.last = now;
            connection.stalled_since = now;
        }
    }

    /// Keeps output that the kernel did not take.
    #[cold]
    fn keep_output(&mut self, slot: u32, bytes: &[u8]) {
        let (now, max_output) = (self.now, self.limits.max_output);
        let spare = self.budget.spare();
        self.change(slot, |connection| {
            if matches!(connection.phase, Phase::Broken | Phase::Gone) {
                return;
            }
            if !connection.is_sending() {
                connection.stalled_since = now;
            }
            if connection.output.push(bytes, spare).is_err() {
                connection.abort(CloseReason::MemoryBudget);
            } else if connection.output.len() > max_output {
                connection.abort(CloseReason::OutputLimit);
            }
        });
    }

    /// Does to a connection what the table says of a failed call.
    #[cold]
    pub(crate) fn failed(&mut self, slot: u32, call: Call, errno: Errno) {
        let now = self.now;
        let reason = CloseReason::of(call, errno);
        match reaction(call, errno) {
            // An interrupted call is made again at the next event, which is there already.
            Reaction::Wait | Reaction::Retry | Reaction::Ignore | Reaction::Degrade => {}
            Reaction::Later | Reaction::Pause => {
                self.change(slot, |connection| {
                    connection.tries += 1;
                    connection.later = true;
                    connection.retry_at = now.after(Span::millis(5 << connection.tries.min(8)));
                    if connection.tries > MAX_TRIES {
                        connection.abort(CloseReason::Server { call, errno });
                    }
                });
            }
            Reaction::DropConnection => {
                self.change(slot, |connection| {
                    // If it lives, a cut answer must not look like a whole one.
                    connection.reset |= reason != CloseReason::PeerReset;
                    let read_out = call == Call::Recv && !connection.reoffer;
                    if read_out && connection.phase == Phase::Open {
                        connection.gone(reason);
                    } else {
                        connection.broken(reason);
                    }
                });
            }
            Reaction::FailStartup | Reaction::FailRuntime | Reaction::Bug => {
                self.counters.bugs += 1;
                log::error!("bug: {call} on a connection: {errno}");
                self.change(slot, |c| c.abort(CloseReason::Server { call, errno }));
            }
        }
    }

    // ---- the memory budget ------------------------------------------------------

    /// Whether a connection owes so much, or memory is so short, that it must not be read.
    pub(crate) fn is_over(&mut self, slot: u32) -> bool {
        let high_water = self.high_water;
        let Some(connection) = self.connections.get(slot) else { return false };
        // Once full, it is full until it has fallen to the low water mark, half of the high one.
        let mark = if connection.full { high_water / 2 } else { high_water };
        let owes = connection.owes(mark) || connection.file;
        let (full, rest) = (connection.full, connection.input.len());
        if full && !owes && self.budget.allowance(rest) == 0 {
            self.make_way();
        }
        let over = owes || full && self.budget.allowance(rest) == 0;
        if over && high_water < self.limits.high_water {
            self.budget.squeeze();
        }
        over
    }

    /// Holds a connection back until memory is free again.
    #[cold]
    pub(crate) fn hold_back(&mut self, slot: u32) {
        self.budget.squeeze();
        self.change(slot, |connection| (connection.full, connection.starved) = (true, true));
        self.make_way();
    }

    /// Somebody who owes nothing is held back for want of memory. If it is incomplete
    /// messages that fill it, or output that has eaten up the reserve too (which only
    /// grows so far if nobody asks for it: a broadcast), waiting might help nobody:
    /// then the largest message is ended, or the worst debtor.
    #[cold]
    fn make_way(&mut self) {
        let inputs: usize = self.connections.iter().map(|(_, c)| c.input.footprint()).sum();
        let in_the_way = match inputs > self.budget.used() / 2 {
            true => self.largest(|connection| connection.input.footprint()),
            false if self.budget.share() == 0 => self.worst(),
            false => None,
        };
        if let Some(slot) = in_the_way {
            self.change(slot, |connection| connection.abort(CloseReason::MemoryBudget));
        }
    }

    /// Marks those held back for want of memory, if enough has become free; whether it has.
    pub(crate) fn relieve(&mut self) -> bool {
        let due = self.budget.take_relief();
        if due {
            let held = self.slots_where(|connection| connection.full);
            held.into_iter().for_each(|slot| self.mark(slot));
        }
        due
    }

    /// Ends the worst debtors until `more` bytes fit; whether they do.
    #[cold]
    fn make_room(&mut self, more: usize) -> bool {
        while !self.budget.has_room_for(more) {
            if more > self.limits.max_memory {
                return false; // nobody's end would help
            }
            let Some(slot) = self.worst() else { return false };
            self.change(slot, |connection| connection.abort(CloseReason::MemoryBudget));
        }
        true
    }

    /// Enforces the budget after a batch: what grew although nobody reads is cut.
    pub(crate) fn keep_budget(&mut self) {
        self.make_room(0);
    }

    pub(crate) fn slots_where(&self, is: impl Fn(&Connection) -> bool) -> Vec<u32> {
        self.connections.iter().filter(|(_, c)| is(c)).map(|(slot, _)| slot).collect()
    }

    /// Who holds the most; of those who have taken nothing for a while, if there are any.
    fn worst(&self) -> Option<u32> {
        let is_stalled = |c: &Connection| {
            c.output.len() > RESERVE_EACH && self.now.since(c.stalled_since) >= STALLED
        };
        let stalled = self.largest(|c| if is_stalled(c) { c.footprint() } else { 0 });
        stalled.or_else(|| self.largest(Connection::footprint))
    }

    fn largest(&self, size: impl Fn(&Connection) -> usize) -> Option<u32> {
        // Who holds next to nothing is not to blame.
        let held = self.connections.iter().filter(|(_, c)| size(c) > RESERVE_EACH);
        held.max_by_key(|(_, connection)| size(connection)).map(|(slot, _)| slot)
    }
}
