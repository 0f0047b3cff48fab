//! The system's allocator, for tests: it counts what each thread asks of it, and fails when it is
//! to.

#![allow(unsafe_code, dead_code)] // each program uses its own part of it

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Counting;

thread_local! {
    /// How often this thread has allocated. (Without a destructor it needs no memory itself.)
    pub(crate) static MADE: Cell<u64> = const { Cell::new(0) };
    /// How many bytes it holds, and the most that it has held.
    pub(crate) static HELD: Cell<i64> = const { Cell::new(0) };
    /// The memory that they take, with the allocator's own headers.
    pub(crate) static CHUNKS: Cell<i64> = const { Cell::new(0) };
    pub(crate) static PEAK: Cell<i64> = const { Cell::new(0) };
    /// After how many more allocations one fails; never, if it is [`NEVER`].
    pub(crate) static FAILS: Cell<u64> = const { Cell::new(NEVER) };
    /// Whether all that follow fail too, until this is set anew; and how many have failed.
    pub(crate) static LASTS: Cell<bool> = const { Cell::new(false) };
    pub(crate) static FAILED: Cell<u64> = const { Cell::new(0) };
    /// The size class of what it has just given back, if that was the last thing it did.
    static FREED: Cell<usize> = const { Cell::new(0) };
}

pub(crate) const NEVER: u64 = u64::MAX;

/// Whether the place of the allocation that fails is printed.
pub(crate) static TRACED: AtomicBool = AtomicBool::new(false);

/// The sizes that `malloc` does not tell apart.
fn class(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16).max(32)
}

/// Whether this allocation is the one that fails. What a thread has just given back it gets again:
/// that cannot fail, and does not count.
fn fails(bytes: usize) -> bool {
    let (left, freed) = (FAILS.get(), FREED.replace(0));
    if left == NEVER || freed == class(bytes) {
        return false;
    }
    FAILS.set(left.checked_sub(1).unwrap_or(NEVER));
    if left == 0 {
        if TRACED.load(Ordering::Relaxed) {
            println!("{}", Backtrace::force_capture()); // which allocates, too
        }
        FAILED.set(FAILED.get() + 1);
        FAILS.set(if LASTS.get() { 0 } else { NEVER });
    }
    left == 0
}

/// The thread holds `bytes` more,
fn hold(bytes: usize) {
    HELD.set(HELD.get() + bytes as i64);
    CHUNKS.set(CHUNKS.get() + class(bytes) as i64);
    PEAK.set(PEAK.get().max(HELD.get()));
}

/// and as many fewer.
fn release(bytes: usize) {
    HELD.set(HELD.get() - bytes as i64);
    CHUNKS.set(CHUNKS.get() - class(bytes) as i64);
}

// SAFETY: every method hands its arguments to the system's allocator and returns what that
// returns, or null, which an allocator may; counting does not allocate, and the trace is printed
// when nothing fails any more.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return null_mut();
        }
        MADE.set(MADE.get() + 1);
        hold(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        release(layout.size());
        FREED.set(class(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if fails(size) {
            return null_mut();
        }
        MADE.set(MADE.get() + 1);
        release(layout.size());
        hold(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
