//! Counts the instructions that a piece of code executes: exactly, and one by one.
//!
//! With the processor's trap flag set, every instruction ends in a `SIGTRAP`, whose handler
//! counts it. (A string instruction, such as `rep movsb`, counts once per element.) It needs no
//! debugger, no privilege and no performance counter, so it works in virtual machines and
//! containers alike. An instruction takes one to twelve microseconds that way.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::{
    hint::black_box,
    io,
    mem::{MaybeUninit, zeroed},
    ptr::null_mut,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

static STEPS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_trap(_: libc::c_int) {
    // Here the flag is clear; the return sets it again.
    STEPS.fetch_add(1, Relaxed);
}

/// The counter. Use it on one thread only.
#[derive(Debug)]
pub struct Steps {
    /// What counting nothing counts.
    idle: u64,
}

impl Steps {
    /// Takes `SIGTRAP` over.
    ///
    /// # Errors
    /// If the system refuses, or the processor is none that this module knows.
    pub fn new() -> io::Result<Self> {
        if cfg!(not(target_arch = "x86_64")) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "counts on x86-64 only"));
        }
        // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { zeroed() };
        action.sa_sigaction = on_trap as *const () as usize;
        // SAFETY: the handler only touches an atomic, and the action is valid.
        if unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut steps = Self { idle: 0 };
        steps.idle = steps.count(|| ()).0;
        Ok(steps)
    }

    /// Runs `work` and counts its instructions.
    #[inline(never)]
    pub fn count<R>(&self, work: impl FnOnce() -> R) -> (u64, R) {
        let mut result = MaybeUninit::uninit();
        STEPS.store(0, Relaxed);
        set_trap_flag();
        black_box(&mut result).write(work());
        clear_trap_flag();
        // SAFETY: written above.
        (STEPS.load(Relaxed).saturating_sub(self.idle), unsafe { result.assume_init() })
    }
}

#[inline(always)]
fn set_trap_flag() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: changes the trap flag alone; `SIGTRAP` has a handler since `Steps::new`.
    unsafe {
        asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq");
    }
}

#[inline(always)]
fn clear_trap_flag() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: changes the trap flag alone.
    unsafe {
        asm!("pushfq", "and qword ptr [rsp], ~0x100", "popfq");
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_counts_once() -> io::Result<()> {
        let steps = Steps::new()?;
        // SAFETY: does nothing, a thousand times.
        let (few, ()) = steps.count(|| unsafe { asm!(".rept 1000", "nop", ".endr") });
        // SAFETY: does nothing, three thousand times.
        let (many, ()) = steps.count(|| unsafe { asm!(".rept 3000", "nop", ".endr") });
        assert_eq!(many - few, 2000);
        // Without optimisation, the call of a closure costs something too.
        assert!((1000..1100).contains(&few), "{few}");
        assert_eq!(steps.count(|| black_box(7)).1, 7);
        Ok(())
    }
}
