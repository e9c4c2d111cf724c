//! The board's timer, as a source of interrupts.

use core::cell::Cell;

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

/// What the board's interrupt handler calls.
pub(crate) fn expired() {
    if let Some(handler) = critical_section::with(|token| HANDLER.borrow(token).take()) {
        handler();
    }
}
