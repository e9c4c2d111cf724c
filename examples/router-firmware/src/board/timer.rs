//! The timer: ten million ticks a second since the board started.

use router::Millis;

use super::registers::Register;

const TICKS_PER_MILLI: u64 = 10_000;

// SAFETY: the two halves of hart 0's `mtimecmp`, in the board's CLINT.
const COMPARE: [Register<u32>; 2] =
    unsafe { [Register::at(0x0200_4000), Register::at(0x0200_4004)] };

/// Milliseconds since the board started.
pub fn now() -> Millis {
    riscv::register::time::read64() / TICKS_PER_MILLI
}

/// Sets the time at which a wait ends.
pub fn wake_at(time: Millis) {
    let ticks = time * TICKS_PER_MILLI;
    // Never early in between: the high half is beyond reach while the low one changes.
    COMPARE[1].write(u32::MAX);
    COMPARE[0].write((ticks & u64::from(u32::MAX)) as u32);
    COMPARE[1].write((ticks >> 32) as u32);
}
