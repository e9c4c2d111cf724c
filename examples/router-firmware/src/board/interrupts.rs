//! Waiting for interrupts without handling any: they stay switched off in the hart, but a pending
//! one ends `wfi`.

use riscv::register::mie;

use super::registers::Register;

const PLIC: usize = 0x0c00_0000;

const fn plic(offset: usize) -> Register<u32> {
    // SAFETY: offsets below are those of the board's PLIC.
    unsafe { Register::at(PLIC + offset) }
}

/// Sources of interrupts that hart 0 is told about, in its machine mode.
const ENABLED: Register<u32> = plic(0x2000);
/// Claims an interrupt when read; completes it when written.
const CLAIM: Register<u32> = plic(0x20_0004);

/// Lets interrupts from these sources, and from the timer, end a wait.
pub fn listen_to(sources: impl Iterator<Item = u32>) {
    let mut enabled = 0;
    for source in sources {
        plic(4 * source as usize).write(1); // its priority
        enabled |= 1 << source;
    }
    ENABLED.write(enabled);
    // SAFETY: interrupts stay off in `mstatus`, so none is ever taken.
    unsafe {
        mie::set_mext();
        mie::set_mtimer();
    }
}

/// Takes note of pending interrupts: `quiet` has their device withdraw them.
pub fn acknowledge(mut quiet: impl FnMut(u32)) {
    loop {
        let source = CLAIM.read();
        if source == 0 {
            return;
        }
        quiet(source);
        CLAIM.write(source);
    }
}

/// Waits for an interrupt.
pub fn wait() {
    riscv::asm::wfi();
}
