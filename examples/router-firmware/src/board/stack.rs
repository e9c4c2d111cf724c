//! The stack: nothing stops it from growing beyond its end, so what is left of it is watched.

use core::{hint::black_box, ptr};

unsafe extern "C" {
    /// The stack's lowest and highest address, from the linker.
    static __estack: u32;
    static __sstack: u32;
}

/// What unused words of it hold.
const UNUSED: u32 = 0x5ac3_a53c;

/// Bytes between the deepest word in use and what is painted: this function's own.
const MARGIN: usize = 128;

fn bottom() -> *mut u32 {
    (&raw const __estack).cast_mut()
}

/// Its size in bytes.
pub fn size() -> usize {
    (&raw const __sstack).addr() - bottom().addr()
}

/// Marks all of it below the caller as unused.
#[inline(never)]
pub fn paint() {
    let here = 0_u32;
    let deepest = ptr::from_ref(black_box(&here)).addr();
    let mut word = bottom();
    while word.addr() + MARGIN < deepest {
        // SAFETY: a word of the stack, below everything that is in use.
        unsafe { word.write_volatile(UNUSED) };
        word = word.wrapping_add(1);
    }
}

/// The most bytes that were ever in use; all of it means that it was too small.
pub fn used() -> usize {
    let mut word = bottom();
    // SAFETY: words of the stack, which are plain memory; the highest are in use.
    while unsafe { word.read_volatile() } == UNUSED {
        word = word.wrapping_add(1);
    }
    size() - (word.addr() - bottom().addr())
}
