//! A pause: what was asked for in vain is not asked for again for a while.
//!
//! Out of descriptors or memory, a call that fails goes on failing, and the event that led to
//! it stays. So nothing is tried for 10 ms, then for twice as long each time, up to a second;
//! or until something has been given back, whichever comes first. One pause is for all who
//! want the same, so that none of them waits longer than the others.
//!
//! Invariant: the next pause is as short as the first only after something was had.

use crate::time::{Moment, Span};

/// The first and the longest pause, in milliseconds.
const SPANS: (u64, u64) = (10, 1_000);
/// At the limit one pause follows the other: one line in this time says it all.
const NEWS: Span = Span::millis(60_000);

#[derive(Debug, Default)]
pub(crate) struct Pause {
    /// When it is over, while it lasts.
    until: Option<Moment>,
    /// Milliseconds of the last one, if nothing was had since.
    last: u64,
    /// When it was last logged that clients wait.
    told_at: Option<Moment>,
}

impl Pause {
    /// Something was asked for in vain; when to ask again.
    pub(crate) fn begin(&mut self, now: Moment) -> Moment {
        self.last = (self.last * 2).clamp(SPANS.0, SPANS.1);
        *self.until.insert(now.after(Span::millis(self.last)))
    }

    /// When it is over, if there is one.
    pub(crate) fn until(&self) -> Option<Moment> {
        self.until
    }

    pub(crate) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// It is time to ask again.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }

    /// What was asked for was had.
    pub(crate) fn forget(&mut self) {
        self.last = 0;
    }

    /// Whether to log that clients wait.
    pub(crate) fn is_news(&mut self, now: Moment) -> bool {
        let news = self.told_at.is_none_or(|told| now.since(told) >= NEWS);
        if news {
            self.told_at = Some(now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_news() {
        let mut pause = Pause::default();
        let moments = [0, 1, 59_999, 60_000, 119_999, 120_001].map(Moment::from_millis);
        let told = moments.map(|at| pause.is_news(at));
        assert_eq!(told, [true, false, false, true, false, true]);
    }

    #[test]
    fn pauses_grow_until_something_is_had() {
        let mut pause = Pause::default();
        let now = Moment::from_millis(7);
        let begin = |pause: &mut Pause| pause.begin(now).since(now).as_millis();
        let pauses = [(); 9].map(|()| {
            pause.end();
            begin(&mut pause)
        });
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!(begin(&mut pause), 1_000); // though there is one already
        assert_eq!(pause.until(), Some(now.after(Span::millis(1_000))));
        pause.end();
        assert_eq!((pause.until(), pause.is_on()), (None, false));
        pause.forget();
        assert_eq!((begin(&mut pause), pause.is_on()), (10, true));
    }
}
