//! Cortex-M: start-up code, critical section, timer, and a fault that says so.

use cortex_m::{Peripherals, peripheral::SYST, peripheral::syst::SystClkSource};
use cortex_m_rt::{ExceptionFrame, exception};

fn timer() -> SYST {
    // SAFETY: this module alone uses it.
    unsafe { Peripherals::steal() }.SYST
}

/// The most that the timer counts down from.
const LONGEST: u32 = (1 << 24) - 1;

/// Has the timer interrupt once, after so many ticks (2 to 2^24).
pub fn arm_timer(ticks: u32) {
    let mut timer = timer();
    timer.disable_counter();
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(ticks - 1);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();
    // The next round, which says how late the interrupt comes, is the longest; but the timer has to
    // take up this one first, which it does within a tick.
    SYST::get_current();
    SYST::get_current();
    timer.set_reload(LONGEST);
}

/// Takes back the interrupt that was asked for, if it has not come yet.
pub fn stop_timer() {
    timer().disable_counter();
    cortex_m::peripheral::SCB::clear_pendst();
}

#[exception]
fn SysTick() {
    let late = LONGEST - SYST::get_current();
    timer().disable_counter();
    crate::timer::expired(late);
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("hard fault (perhaps the stack has run out): {frame:?}")
}
