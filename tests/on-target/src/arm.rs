//! Cortex-M: start-up code, critical section, timer, and a fault that says so.

use cortex_m::{Peripherals, peripheral::SYST, peripheral::syst::SystClkSource};
use cortex_m_rt::{ExceptionFrame, exception};

fn timer() -> SYST {
    // SAFETY: this module alone uses it.
    unsafe { Peripherals::steal() }.SYST
}

/// Has the timer interrupt once, after so many ticks (2 to 2^24).
pub fn arm_timer(ticks: u32) {
    let mut timer = timer();
    timer.disable_counter();
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(ticks - 1);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();
}

/// Takes back the interrupt that was asked for, if it has not come yet.
pub fn stop_timer() {
    timer().disable_counter();
    cortex_m::peripheral::SCB::clear_pendst();
}

#[exception]
fn SysTick() {
    timer().disable_counter();
    crate::timer::expired();
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("hard fault (perhaps the stack has run out): {frame:?}")
}
