//! Counts instructions: under QEMU with `-icount shift=10` each takes 1024 ns, and the board's timer
//! ticks every 40 ns, so that a difference of ticks gives the number of instructions exactly.

use core::{
    arch::asm,
    hint::black_box,
    sync::atomic::{Ordering::SeqCst, compiler_fence},
};

use cortex_m::{
    Peripherals,
    peripheral::{SYST, syst::SystClkSource},
};

const NS_PER_INSTRUCTION: u32 = 1024;
const NS_PER_TICK: u32 = 40;

/// Instructions in so many ticks.
pub const fn instructions(ticks: u32) -> u32 {
    (ticks * NS_PER_TICK + NS_PER_INSTRUCTION / 2) / NS_PER_INSTRUCTION
}

/// A counter that runs.
pub struct Counter {
    /// What counting itself costs.
    overhead: u32,
}

impl Counter {
    /// Starts the timer, and tries it.
    ///
    /// # Panics
    /// If it does not count instructions.
    pub fn start() -> Self {
        // SAFETY: nothing else in the image uses the timer.
        let mut timer = unsafe { Peripherals::steal() }.SYST;
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload((1 << 24) - 1);
        timer.clear_current();
        timer.enable_counter();
        let mut counter = Self { overhead: 0 };
        counter.overhead = counter.count(|| ()).1;
        for _ in 0..100 {
            assert_eq!(counter.count(|| ()).1, 0);
            let loop_of_101 = counter.count(|| {
                // SAFETY: changes nothing but a register of its own.
                unsafe {
                    asm!("movs {0}, #50", "2: subs {0}, #1", "bne 2b", out(reg) _, options(nomem));
                }
            });
            assert_eq!(loop_of_101.1, 101, "this needs QEMU with -icount shift=10");
        }
        counter
    }

    /// Does some work, and counts its instructions.
    #[inline(always)]
    pub fn count<R>(&self, work: impl FnOnce() -> R) -> (R, u32) {
        compiler_fence(SeqCst);
        let before = SYST::get_current();
        let result = black_box(work());
        let after = SYST::get_current();
        compiler_fence(SeqCst);
        // It counts down, in 24 bits.
        let ticks = before.wrapping_sub(after) & 0xff_ffff;
        (result, instructions(ticks) - self.overhead)
    }
}
