//! The pthread mutex as a raw mutex of `lock_api`.

#![allow(unsafe_code)] // reason: foreign calls, and `RawMutex` is an unsafe trait

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::fmt;

use lock_api::{GuardNoSend, RawMutex};

/// glibc's adaptive kind spins for a moment before it sleeps. The critical sections of a pool are
/// some ten nanoseconds long, far shorter than going to sleep, so the lock is mostly free again.
/// (Two threads that contend for such a section: 113 ns a round, against 122 ns for the plain
/// kind. Without contention they are equal.)
#[cfg(all(target_env = "gnu", not(miri)))]
const UNLOCKED: libc::pthread_mutex_t = libc::PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;

/// musl's only kind of this sort, which spins a little too; and what Miri knows.
#[cfg(not(all(target_env = "gnu", not(miri))))]
const UNLOCKED: libc::pthread_mutex_t = libc::PTHREAD_MUTEX_INITIALIZER;

/// A mutex of the C library: threads that wait for it sleep in the kernel.
///
/// Use it through [`lock_api::Mutex`]. It needs no initialisation at run time, no destruction and
/// no memory beside itself, so it can guard the global allocator. It is not recursive: a thread
/// that locks it twice waits for ever. It is not fair, is not inherited usefully across `fork`
/// while another thread holds it, and knows no poisoning.
///
/// ```
/// use libmempool_std::PthreadMutex;
///
/// static COUNTER: lock_api::Mutex<PthreadMutex, u64> = lock_api::Mutex::new(0);
///
/// let held = COUNTER.lock();
/// assert!(COUNTER.try_lock().is_none());
/// drop(held);
/// *COUNTER.lock() += 1;
/// assert_eq!(*COUNTER.lock(), 1);
/// ```
///
/// # Invariant
/// (M1) `inner` holds an initialised, plain (not recursive, not error-checking, not robust, not
/// priority-inheriting) mutex: [`INIT`](RawMutex::INIT) made it so, and only the
/// `pthread_mutex_*` calls below touch it.
///
/// (M2) It moves only while no thread is inside one of those calls, since each borrows it. That
/// it may move then is a fact of glibc and musl, the targets to which the crate is restricted:
/// between calls a mutex of this kind, locked or not, is a few integers that refer neither to its
/// address nor to memory elsewhere, and mean the same wherever they are copied to. For the same
/// reason it needs no `pthread_mutex_destroy`.
pub struct PthreadMutex {
    inner: UnsafeCell<libc::pthread_mutex_t>,
}

// SAFETY: By M2 what moves to another thread is plain data.
unsafe impl Send for PthreadMutex {}

// SAFETY: Through `&self` the mutex is used only by `pthread_mutex_*`, which any threads may call
// at once on one mutex.
unsafe impl Sync for PthreadMutex {}

impl PthreadMutex {
    /// An unlocked mutex.
    ///
    /// ```
    /// use lock_api::RawMutex;
    /// static LOCK: libmempool_std::PthreadMutex = libmempool_std::PthreadMutex::new();
    /// assert!(LOCK.try_lock());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { inner: UnsafeCell::new(UNLOCKED) }
    }
}

impl Default for PthreadMutex {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PthreadMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PthreadMutex").finish_non_exhaustive()
    }
}

// SAFETY: By M1 the mutex is valid and of a kind whose `pthread_mutex_lock` returns only when it
// has been acquired, and whose `pthread_mutex_trylock` returns zero only then; until the holder's
// `pthread_mutex_unlock` no other thread, nor the holder itself, acquires it.
unsafe impl RawMutex for PthreadMutex {
    const INIT: Self = Self::new();

    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        // SAFETY: By M1 an initialised mutex, which by M2 stays where it is during the call.
        let returned = unsafe { libc::pthread_mutex_lock(self.inner.get()) };
        expect_success(returned);
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // SAFETY: By M1 an initialised mutex, which by M2 stays where it is during the call.
        let returned = unsafe { libc::pthread_mutex_trylock(self.inner.get()) };
        returned == 0
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: By M1 an initialised mutex, which by M2 stays where it is during the call. That
        // the calling thread holds it is the caller's duty (the guard cannot leave its thread).
        let returned = unsafe { libc::pthread_mutex_unlock(self.inner.get()) };
        expect_success(returned);
    }
}

/// The calls cannot fail for a mutex of this kind (M1): their errors are for recursive,
/// error-checking, robust and priority-protected ones.
#[inline]
fn expect_success(returned: c_int) {
    debug_assert_eq!(returned, 0, "pthread mutex");
}
