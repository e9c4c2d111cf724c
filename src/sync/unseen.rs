#![allow(unsafe_code)] // atomics anywhere in memory
//! Atomics whose loads and stores AddressSanitizer does not see: instructions that it cannot add its checks to.

use core::{arch::asm, cell::UnsafeCell, sync::atomic::Ordering};

#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!("feature `asan` is for x86-64");

/// An atomic of a type: what its registers are called, as an operand and in an instruction, and what memory is
/// accessed as.
macro_rules! atomic {
    ($name:ident $(<$parameter:ident>)?, $type:ty, $register:ident, $value:literal, $memory:literal) => {
        #[derive(Debug)]
        #[repr(transparent)]
        pub(crate) struct $name$(<$parameter>)?(UnsafeCell<$type>);

        // SAFETY: all accesses are atomic.
        unsafe impl$(<$parameter>)? Sync for $name$(<$parameter>)? {}

        // SAFETY: it is a number, or a pointer that nobody follows but whoever may.
        unsafe impl$(<$parameter>)? Send for $name$(<$parameter>)? {}

        #[allow(dead_code, reason = "not all of them need all of it")]
        impl$(<$parameter>)? $name$(<$parameter>)? {
            pub(crate) const fn new(value: $type) -> Self {
                Self(UnsafeCell::new(value))
            }

            pub(crate) const fn as_ptr(&self) -> *mut $type {
                self.0.get()
            }

            pub(crate) const unsafe fn from_ptr<'a>(at: *mut $type) -> &'a Self {
                // SAFETY: the caller's promise, as of `core`'s atomics.
                unsafe { &*at.cast() }
            }

            #[inline(always)]
            pub(crate) fn load(&self, _order: Ordering) -> $type {
                let value;
                // SAFETY: of an aligned place; this processor's loads are atomic then, and acquire.
                unsafe {
                    asm!(concat!("mov ", $value, ", ", $memory, " ptr [{at}]"),
                        at = in(reg) self.as_ptr(), value = out($register) value,
                        options(nostack, preserves_flags));
                }
                value
            }

            #[inline(always)]
            pub(crate) fn store(&self, value: $type, _order: Ordering) {
                // SAFETY: as above; its stores are atomic and release.
                unsafe {
                    asm!(concat!("mov ", $memory, " ptr [{at}], ", $value),
                        at = in(reg) self.as_ptr(), value = in($register) value,
                        options(nostack, preserves_flags));
                }
            }
        }
    };
}

atomic!(AtomicU8, u8, reg_byte, "{value}", "byte");
atomic!(AtomicU16, u16, reg, "{value:x}", "word");
atomic!(AtomicU32, u32, reg, "{value:e}", "dword");
atomic!(AtomicUsize, usize, reg, "{value}", "qword");
atomic!(AtomicPtr<T>, *mut T, reg, "{value}", "qword");
