//! RISC-V: start-up code, timer, and a fault that says so.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use riscv::{
    interrupt::Interrupt,
    register::{mcause, mepc, mie, mtval, time},
};
use riscv_rt::{TrapFrame, core_interrupt};

/// When hart 0's timer interrupts: the two halves of `mtimecmp`, in the board's CLINT.
const COMPARE: [*mut u32; 2] = [0x0200_4000 as *mut u32, 0x0200_4004 as *mut u32];

fn set_compare(time: u64) {
    let [low, high] = COMPARE;
    // Never early in between: the high half is beyond reach while the low one changes.
    // SAFETY: registers of the board, which this module alone uses.
    unsafe {
        high.write_volatile(u32::MAX);
        low.write_volatile(time as u32);
        high.write_volatile((time >> 32) as u32);
    }
}

fn due() -> u64 {
    // SAFETY: registers of the board; nobody writes to them between the two.
    let [low, high] = COMPARE.map(|half| unsafe { half.read_volatile() });
    u64::from(high) << 32 | u64::from(low)
}

/// Has the timer interrupt once, after so many ticks.
pub fn arm_timer(ticks: u32) {
    /// Whether the hart takes interrupts. Only the first call may see to that: handlers, which call
    /// this too, run without.
    static LISTENING: AtomicBool = AtomicBool::new(false);
    set_compare(time::read64() + u64::from(ticks));
    if !LISTENING.load(Relaxed) {
        LISTENING.store(true, Relaxed);
        // SAFETY: the handler is below, and callers are ready for it.
        unsafe {
            mie::set_mtimer();
            riscv::interrupt::enable();
        }
    }
}

/// Takes back the interrupt that was asked for, if it has not come yet.
pub fn stop_timer() {
    set_compare(u64::MAX);
}

#[core_interrupt(Interrupt::MachineTimer)]
fn machine_timer() {
    let late = time::read64().wrapping_sub(due());
    stop_timer();
    crate::timer::expired(late as u32);
}

#[unsafe(export_name = "ExceptionHandler")]
fn exception(frame: &TrapFrame) -> ! {
    let (cause, at, value) = (mcause::read().code(), mepc::read(), mtval::read());
    panic!("exception {cause} at {at:#x}, value {value:#x}: {frame:?}")
}
