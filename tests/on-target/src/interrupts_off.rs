//! RISC-V: the critical section of a single hart. The crate `riscv` has one, but its state is a `bool`
//! and Cortex-M's a word: one build for both boards cannot have the two.

use critical_section::RawRestoreState;
use riscv::register::mstatus;

struct InterruptsOff;

critical_section::set_impl!(InterruptsOff);

// SAFETY: there is one hart, and while it takes no interrupts nobody else runs.
unsafe impl critical_section::Impl for InterruptsOff {
    unsafe fn acquire() -> RawRestoreState {
        let were_on = mstatus::read().mie();
        riscv::interrupt::disable();
        were_on.into()
    }

    unsafe fn release(were_on: RawRestoreState) {
        if were_on != 0 {
            // SAFETY: they were on before the section.
            unsafe { riscv::interrupt::enable() };
        }
    }
}
