//! A static region and no lock, the way a single-threaded firmware would hold its pool: everything
//! below `main`'s first line would compile without `std`.
//!
//! `cargo run --example static_region`

use core::{alloc::Layout, mem::MaybeUninit};

use libmempool::{AllocError, ConfigError, NoLock, Pool, SizeClass};

const REGION: usize = 16 << 10;

/// Hands out the region, once.
fn take_region() -> Option<&'static mut [MaybeUninit<u8>]> {
    use core::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    static mut MEMORY: [MaybeUninit<u8>; REGION] = [MaybeUninit::uninit(); REGION];
    if TAKEN.load(Ordering::Relaxed) {
        return None;
    }
    TAKEN.store(true, Ordering::Relaxed);
    let memory = &raw mut MEMORY;
    // SAFETY: one thread, and `TAKEN` makes this the only reference.
    Some(unsafe { &mut *memory })
}

fn run() -> Result<(usize, AllocError), ConfigError> {
    let region = take_region().ok_or(ConfigError::AlreadyInitialised)?;
    let pool = Pool::<NoLock>::new(region)?;
    let frames = pool.add_size_class(SizeClass::new(128).reserve(8))?;

    // Exhaust it: a failure is a value that says why, and changes nothing.
    let mut blocks = 0;
    let why = loop {
        match pool.alloc(Layout::new::<[u32; 64]>()) {
            Ok(_) => blocks += 1,
            Err(error) => break error,
        }
    };
    // The class's reserve is still there.
    if let Ok(frame) = pool.alloc_fixed(frames) {
        // SAFETY: the frame is not used any more.
        let freed = unsafe { pool.free_fixed(frames, frame) };
        debug_assert!(freed.is_ok());
    }
    Ok((blocks, why))
}

fn main() -> Result<(), ConfigError> {
    let (blocks, why) = run()?;
    println!("{blocks} blocks of 256 bytes out of {REGION} bytes, then: {why}");
    Ok(())
}
