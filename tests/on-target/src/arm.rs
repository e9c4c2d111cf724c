//! Cortex-M: start-up code, critical section, and a fault that says so.

use cortex_m as _; // the critical section of a single core
use cortex_m_rt::{ExceptionFrame, exception};

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("hard fault (perhaps the stack has run out): {frame:?}")
}
