//! The start and end of an image without any text formatting, and a region for it.

use core::{cell::UnsafeCell, mem::MaybeUninit, panic::PanicInfo};

#[cfg(target_arch = "arm")]
use {cortex_m::asm::wfi, cortex_m_rt::entry};
#[cfg(target_arch = "riscv32")]
use {riscv::asm::wfi, riscv_rt::entry};

#[cfg(target_arch = "riscv32")]
#[path = "../src/interrupts_off.rs"]
mod interrupts_off;

/// Bytes of the region: 16 KiB, but on the smallest board.
pub const BYTES: usize = if cfg!(target_has_atomic = "32") { 16 << 10 } else { 4 << 10 };

#[repr(align(8))]
struct Region([MaybeUninit<u8>; BYTES]);

static mut REGION: Region = Region([MaybeUninit::uninit(); BYTES]);

/// An allocator in a static, as firmware would have it; `image` alone uses it.
#[allow(dead_code, reason = "some images have none")]
pub struct Static<T>(pub UnsafeCell<T>);

// SAFETY: nothing else runs.
unsafe impl<T> Sync for Static<T> {}

#[entry]
fn main() -> ! {
    let region = &raw mut REGION;
    // SAFETY: `main` runs once, and nothing else touches it.
    let region = unsafe { &mut *region };
    crate::image(&mut region.0);
    loop {
        wfi();
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        wfi();
    }
}
