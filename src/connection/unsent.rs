//! Output of a connection that the kernel has not taken.

use crate::buffer::Buffer;
use crate::time::Moment;

/// Output that the kernel has not taken: bytes, behind them a part of a file, and behind that
/// bytes again.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    pub(crate) bytes: Buffer,
    /// If there is a file: what comes behind it. (In a box, because a file is rare.)
    pub(crate) file: Option<Box<Buffer>>,
}

impl Unsent {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.file.is_none()
    }

    /// How many bytes wait, those of a file not counted.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.file.as_ref().map_or(0, |behind| behind.len())
    }

    pub(crate) fn footprint(&self) -> usize {
        self.bytes.footprint() + self.file.as_ref().map_or(0, |behind| behind.footprint())
    }

    /// The file is sent: what stood behind it is next.
    pub(crate) fn file_sent(&mut self, now: Moment) -> Option<()> {
        let behind = self.file.take().unwrap_or_default();
        if self.bytes.is_empty() {
            self.bytes = *behind;
            self.bytes.touch(now);
            return Some(());
        }
        self.bytes.push_all(behind.len(), behind.pieces(), now)
    }
}
