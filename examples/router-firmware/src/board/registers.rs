//! Memory-mapped registers of the board.

/// A register of type `T` at a fixed address.
#[derive(Clone, Copy)]
pub struct Register<T>(*mut T);

impl<T: Copy> Register<T> {
    /// The register at an address.
    ///
    /// # Safety
    /// There is one, of this type, whose reads and writes do not disturb memory that Rust knows of.
    pub const unsafe fn at(address: usize) -> Self {
        Self(core::ptr::without_provenance_mut(address))
    }

    /// Reads it.
    pub fn read(self) -> T {
        // SAFETY: the promise made in `at`.
        unsafe { self.0.read_volatile() }
    }

    /// Writes it.
    pub fn write(self, value: T) {
        // SAFETY: the promise made in `at`.
        unsafe { self.0.write_volatile(value) }
    }
}
