//! The board's timer, as a source of interrupts.

use core::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use critical_section::Mutex;

use crate::board;

/// What an interrupt calls.
pub type Handler = fn();

static HANDLER: Mutex<Cell<Option<Handler>>> = Mutex::new(Cell::new(None));

/// Calls `handler` from an interrupt, once, after so many ticks of the board's timer (at least 2). The
/// handler may ask for the next one.
pub fn interrupt_after(ticks: u32, handler: Handler) {
    critical_section::with(|token| HANDLER.borrow(token).set(Some(handler)));
    board::arm_timer(ticks);
}

/// Takes back the interrupt that was asked for; says whether it had not come yet.
pub fn cancel() -> bool {
    critical_section::with(|token| {
        board::stop_timer();
        HANDLER.borrow(token).take().is_some()
    })
}

static LATENESS: AtomicU32 = AtomicU32::new(0);

/// For the handler: ticks from when the interrupt was due until it came. Not to be relied on if it was
/// due before [`interrupt_after`] returned.
pub fn lateness() -> u32 {
    LATENESS.load(Relaxed)
}

/// What the board's interrupt handler calls, so many ticks after the interrupt was due.
pub(crate) fn expired(late: u32) {
    LATENESS.store(late, Relaxed);
    if let Some(handler) = critical_section::with(|token| HANDLER.borrow(token).take()) {
        handler();
    }
}
