//! What valgrind's memcheck can be told: client requests, which do nothing outside valgrind, and
//! are not there at all without feature `valgrind` (or on other processors than x86-64).
//!
//! The requests are those of valgrind's `valgrind.h` and `memcheck.h`.

#![allow(unsafe_code)] // reason: the request is a sequence of instructions

use core::{
    ops::Range,
    sync::atomic::{
        AtomicI32, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Whether memcheck can be told anything.
pub const ENABLED: bool = cfg!(all(feature = "valgrind", target_arch = "x86_64"));

const CREATE_POOL: usize = 0x1303;
const DESTROY_POOL: usize = 0x1304;
const POOL_ALLOC: usize = 0x1305;
const POOL_FREE: usize = 0x1306;
const POOL_CHANGE: usize = 0x1309;
const CHANGE_ERROR_DISABLEMENT: usize = 0x1801;
const MEMCHECK: usize = (b'M' as usize) << 24 | (b'C' as usize) << 16;
const MAKE_NO_ACCESS: usize = MEMCHECK;
const MAKE_DEFINED: usize = MEMCHECK + 2;

/// Makes a request.
#[cfg(all(feature = "valgrind", target_arch = "x86_64"))]
fn request(code: usize, arguments: [usize; 4]) {
    let [first, second, third, fourth] = arguments;
    let block = [code, first, second, third, fourth, 0];
    // SAFETY: The rotations add up to two whole turns and the exchange changes nothing, so that the
    // processor runs them without effect; valgrind takes them for a request whose block `rax`
    // points to, reads that, and answers in `rdx`.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") block.as_ptr(),
            inout("rdx") 0_usize => _,
            options(nostack),
        );
    }
}

#[cfg(not(all(feature = "valgrind", target_arch = "x86_64")))]
#[inline(always)]
fn request(_code: usize, _arguments: [usize; 4]) {}

/// While it lives, memcheck reports nothing that this thread does: a pool reads and writes memory
/// that its users may not.
#[must_use]
pub struct Quiet(());

impl Quiet {
    /// May be nested.
    #[inline(always)]
    pub fn new() -> Self {
        request(CHANGE_ERROR_DISABLEMENT, [1, 0, 0, 0]);
        Self(())
    }
}

impl Default for Quiet {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Quiet {
    #[inline(always)]
    fn drop(&mut self) {
        request(CHANGE_ERROR_DISABLEMENT, [usize::MAX, 0, 0, 0]);
    }
}

/// Held while a pool changes and memcheck is told so: otherwise another thread might get a block
/// between its free and the word about it. Not to be nested.
#[must_use]
pub struct InStep(());

/// The process that a thread holds it in, or 0. What a child inherits from another thread is not its
/// own, and may be overwritten.
static HOLDER: AtomicI32 = AtomicI32::new(0);

/// Threads that wait for it: whoever gives it up lets them run, as memcheck has one thread run at a time and a
/// thread that takes it again and again would always be the one. (In a child it may count some that are lost.)
static WAITING: AtomicU32 = AtomicU32::new(0);

impl InStep {
    /// Waits until no other thread has it.
    #[inline(always)]
    pub fn new() -> Self {
        if ENABLED {
            Self::take();
        }
        Self(())
    }

    fn take() {
        // SAFETY: the call has no conditions.
        let process = unsafe { libc::getpid() };
        let try_take = || {
            let holder = HOLDER.load(Relaxed);
            holder != process && HOLDER.compare_exchange(holder, process, Acquire, Relaxed).is_ok()
        };
        if try_take() {
            return;
        }
        WAITING.fetch_add(1, Relaxed);
        while !try_take() {
            let_others_run();
        }
        WAITING.fetch_sub(1, Relaxed);
    }
}

impl Default for InStep {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for InStep {
    #[inline(always)]
    fn drop(&mut self) {
        if ENABLED {
            HOLDER.store(0, Release);
            if WAITING.load(Relaxed) > 0 {
                let_others_run();
            }
        }
    }
}

fn let_others_run() {
    // SAFETY: the call has no conditions.
    unsafe { libc::sched_yield() };
}

/// There is a pool, told from others by an address, whose memory nobody may touch before it has
/// been allocated.
#[inline(always)]
pub fn pool_created(pool: usize, memory: Range<usize>) {
    request(CREATE_POOL, [pool, 0, 0, 0]);
    request(MAKE_NO_ACCESS, [memory.start, memory.len(), 0, 0]);
}

/// A pool is gone, with all its blocks; its memory may be touched again.
#[inline(always)]
pub fn pool_destroyed(pool: usize, memory: Range<usize>) {
    request(DESTROY_POOL, [pool, 0, 0, 0]);
    request(MAKE_DEFINED, [memory.start, memory.len(), 0, 0]);
}

/// A pool handed out a block, of which the first bytes have known contents.
#[inline(always)]
pub fn allocated(pool: usize, block: usize, bytes: usize, defined: usize) {
    request(POOL_ALLOC, [pool, block, bytes, 0]);
    request(MAKE_DEFINED, [block, defined, 0, 0]);
}

/// A pool got a block back.
#[inline(always)]
pub fn freed(pool: usize, block: usize) {
    request(POOL_FREE, [pool, block, 0, 0]);
}

/// A block changed its size or place; the first bytes have known contents.
#[inline(always)]
pub fn moved(pool: usize, from: usize, to: usize, bytes: usize, defined: usize) {
    freed(pool, from);
    allocated(pool, to, bytes, defined);
}

/// Whoever has a block learned how large it really is, and may use all of it.
#[inline(always)]
pub fn measured(pool: usize, block: usize, bytes: usize) {
    request(POOL_CHANGE, [pool, block, block, bytes]);
    request(MAKE_DEFINED, [block, bytes, 0, 0]);
}
