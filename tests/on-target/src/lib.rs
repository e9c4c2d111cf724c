//! What every image needs: the start-up code of its target, a panic handler that reports to the
//! host, memory to hand over, a timer that interrupts, random numbers, and blocks that
//! show who wrote to them.
#![no_std]

use core::{
    cell::{Cell, UnsafeCell},
    mem::MaybeUninit,
    panic::PanicInfo,
};

use critical_section::Mutex;

pub mod blocks;
#[cfg_attr(target_arch = "arm", path = "arm.rs")]
#[cfg_attr(target_arch = "riscv32", path = "riscv.rs")]
mod board;
#[cfg(target_arch = "riscv32")]
mod interrupts_off;
pub mod random;
pub mod timer;

/// Whether the board has megabytes of memory, not a few KiB.
pub const LARGE_BOARD: bool = cfg!(all(target_has_atomic = "32", not(feature = "small-board")));

/// Memory of an image, handed over once.
#[repr(C, align(8))]
pub struct Region<const BYTES: usize> {
    memory: UnsafeCell<[MaybeUninit<u8>; BYTES]>,
    taken: Mutex<Cell<bool>>,
}

// SAFETY: `taken` lets one caller have the memory, and is touched in critical sections only.
unsafe impl<const BYTES: usize> Sync for Region<BYTES> {}

impl<const BYTES: usize> Region<BYTES> {
    /// For a `static`.
    #[expect(clippy::new_without_default, reason = "a region is of use in a static only")]
    pub const fn new() -> Self {
        let memory = UnsafeCell::new([MaybeUninit::uninit(); BYTES]);
        Self { memory, taken: Mutex::new(Cell::new(false)) }
    }

    /// The memory.
    ///
    /// # Panics
    /// The second time.
    #[expect(clippy::mut_from_ref, reason = "`taken` makes it exclusive")]
    pub fn take(&'static self) -> &'static mut [MaybeUninit<u8>] {
        let taken = critical_section::with(|token| self.taken.borrow(token).replace(true));
        assert!(!taken, "a region can be taken once");
        // SAFETY: nobody else has it, and it is static.
        unsafe { &mut *self.memory.get() }
    }
}

/// Says what went wrong, and ends the test as failed.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    semihosting::eprintln!("{info}");
    semihosting::process::abort()
}
