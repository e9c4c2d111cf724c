//! Which core a thread runs on.

use std::{mem::zeroed, sync::OnceLock};

/// The cores that this process may use, as it was started.
pub fn all() -> &'static [usize] {
    static CORES: OnceLock<Vec<usize>> = OnceLock::new();
    CORES.get_or_init(|| {
        // SAFETY: a set of zeroes is empty, and the size is its own.
        unsafe {
            let mut set: libc::cpu_set_t = zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
            let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
            (0..limit).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
        }
    })
}

/// The core that measures.
pub fn first() -> usize {
    all().first().copied().unwrap_or(0)
}

/// Has the calling thread run on one core: the nth of [`all`], beginning again after the last.
pub fn pin(nth: usize) {
    let Some(&core) = all().get(nth % all().len().max(1)) else { return };
    // SAFETY: a set of zeroes is empty, and the size is its own.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
