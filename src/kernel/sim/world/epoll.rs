//! epoll sets in the simulated world: what is watched, what is ready, and what a wait reports.

use super::{COUNTER_FULL, Entry, Epoll, Socket, Watch, World, number_of};
use crate::kernel::{EpollOp, Errno, Event, Fd, HUP, IN, OUT, Result, Wait};
use std::collections::VecDeque;

impl World {
    /// The events of a descriptor that epoll would report.
    pub(super) fn poll(&self, number: i32) -> u32 {
        let when = |ready: bool, mask: u32| if ready { mask } else { 0 };
        match self.entry(number) {
            Ok(Entry::Socket(Socket { door: Some(door), .. })) => when(!door.queue.is_empty(), IN),
            Ok(Entry::Socket(_)) => OUT | HUP,
            Ok(Entry::Stream(end)) => self.streams.poll(*end),
            Ok(Entry::Counter(count)) => when(*count > 0, IN) | when(*count < COUNTER_FULL, OUT),
            Ok(Entry::Signals(set)) => when(!self.pending.is_disjoint(set), IN),
            Ok(Entry::Timer { expired, .. }) => when(*expired, IN),
            Ok(Entry::Diag(answer)) => when(answer.is_some(), IN) | OUT,
            Ok(Entry::Epoll(_) | Entry::Terminal | Entry::File(_) | Entry::Directory(_))
            | Ok(Entry::Datagram(_))
            | Err(_) => 0,
        }
    }

    pub(super) fn epoll_mut(&mut self, number: i32) -> Result<&mut Epoll> {
        match self.entry_mut(number)? {
            Entry::Epoll(epoll) => Ok(epoll),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn each_epoll(&mut self, mut act: impl FnMut(&mut Epoll)) {
        for number in std::mem::take(&mut self.epolls) {
            if let Ok(epoll) = self.epoll_mut(number) {
                act(epoll);
                self.epolls.push(number);
            }
        }
    }

    /// Puts the descriptors that were woken on the ready lists of the sets that watch for
    /// what they are ready for now.
    pub(crate) fn deliver(&mut self) {
        for fd in std::mem::take(&mut self.streams.woken) {
            let ready = self.poll(fd);
            self.each_epoll(|epoll| {
                if let Some(watch) = epoll.watched.get_mut(&fd)
                    && watch.wants(ready) != 0
                    && !watch.listed
                {
                    watch.listed = true;
                    epoll.ready.push_back(fd);
                }
            });
        }
    }

    pub(crate) fn epoll_create1(&mut self) -> Result<Fd> {
        let fd = self.install(Entry::Epoll(Epoll::default()))?;
        self.epolls.push(number_of(&fd));
        Ok(fd)
    }

    pub(crate) fn epoll_ctl(
        &mut self,
        epoll: &Fd,
        op: EpollOp,
        fd: &Fd,
        event: Event,
    ) -> Result<()> {
        self.entry(number_of(epoll))?;
        let nested = match self.entry(number_of(fd))? {
            Entry::File(_) => return Err(Errno::EPERM),
            Entry::Directory(_) => return Err(Errno::EBADF), // opened with O_PATH
            entry => matches!(entry, Entry::Epoll(_)),
        };
        let watched = &mut self.epoll_mut(number_of(epoll))?.watched;
        match (op, watched.get_mut(&number_of(fd))) {
            _ if nested => return Err(Errno::EINVAL),
            (EpollOp::Add, Some(_)) => return Err(Errno::EEXIST),
            (EpollOp::Add, None) => {
                watched.insert(number_of(fd), Watch { event, listed: false });
            }
            (EpollOp::Modify, Some(watch)) => watch.event = event,
            (EpollOp::Remove, Some(_)) => drop(watched.remove(&number_of(fd))),
            (EpollOp::Modify | EpollOp::Remove, None) => return Err(Errno::ENOENT),
        }
        self.streams.woken.push(number_of(fd));
        Ok(())
    }

    pub(crate) fn epoll_wait(
        &mut self,
        epoll: &Fd,
        events: &mut [Event],
        wait: Wait,
    ) -> Result<usize> {
        self.epoll_mut(number_of(epoll))?;
        if events.is_empty() {
            return Err(Errno::EINVAL);
        }
        loop {
            let count = self.collect(number_of(epoll), events)?;
            let Entry::Epoll(Epoll { watched, .. }) = self.entry(number_of(epoll))? else {
                return Err(Errno::EINVAL);
            };
            let mut ready = watched.iter().map(|(fd, watch)| watch.wants(self.poll(*fd)));
            debug_assert!(count > 0 || ready.all(|ready| ready == 0), "a wake was forgotten");
            if count > 0 || wait == Wait::No {
                return Ok(count);
            }
            // Linux would send it after 200 ms.
            let keeps_back = |fd: &i32| match self.entry(*fd) {
                Ok(Entry::Stream(end)) => self.streams.waits_for_more(*end),
                _ => false,
            };
            debug_assert!(!watched.keys().any(keeps_back), "after MSG_MORE nothing followed");
            let asked = |fd| watched.get(&fd).is_some_and(|watch| watch.event.mask & IN != 0);
            let next = self.next_event(asked).ok_or(Errno::EINTR)?;
            self.move_clock(next);
        }
    }

    /// One round over the ready list of a set, as `ep_send_events` makes it: descriptors that
    /// are ready are reported and go to the end of the list, others leave it; those for which
    /// the batch has no room stay in front, and come first next time.
    pub(super) fn collect(&mut self, epoll: i32, events: &mut [Event]) -> Result<usize> {
        let mut count = 0;
        let mut reported = VecDeque::new();
        let mut set = std::mem::take(self.epoll_mut(epoll)?);
        // With delays, a listed descriptor may be reported only by the next wait.
        let most = match self.streams.links.draw() {
            0 => events.len(),
            late => 1 + (late % set.ready.len().max(1) as u64) as usize,
        };
        for place in events.iter_mut().take(most) {
            while let Some(fd) = set.ready.pop_front() {
                let ready = self.poll(fd);
                let Some(watch) = set.watched.get_mut(&fd) else {
                    continue;
                };
                let mask = watch.wants(ready);
                if mask != 0 {
                    *place = Event { mask, data: watch.event.data };
                    count += 1;
                    reported.push_back(fd);
                    break;
                }
                watch.listed = false;
            }
        }
        set.ready.append(&mut reported);
        *self.epoll_mut(epoll)? = set;
        Ok(count)
    }

    /// Whether a wait on any set would return an event now.
    pub(crate) fn is_ready(&self) -> bool {
        let sets = self.open().filter_map(|(_, entry)| match entry {
            Entry::Epoll(epoll) => Some(epoll),
            _ => None,
        });
        sets.flat_map(|epoll| &epoll.watched).any(|(fd, watch)| watch.wants(self.poll(*fd)) != 0)
    }

    /// How many descriptors are watched, in all sets.
    pub(crate) fn watched(&self) -> usize {
        let sets = self.open().map(|(_, entry)| match entry {
            Entry::Epoll(epoll) => epoll.watched.len(),
            _ => 0,
        });
        sets.sum()
    }
}
