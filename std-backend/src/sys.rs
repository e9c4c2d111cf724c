//! Each system call that the crate makes for pages, keys and messages, wrapped once: failures
//! become [`PageError`]s, and the conditions of each call are stated where its callers see them.

#![allow(unsafe_code)] // reason: foreign calls

use core::ffi::{CStr, c_int, c_long};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::error::PageError;
use crate::huge::HugePageSize;

const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE_MEMORY: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// The system's small page: the granularity of mappings without explicit huge pages, and of guard
/// pages. Asked for once, then remembered.
///
/// ```
/// assert!(libmempool_std::page_size().is_power_of_two());
/// ```
pub fn page_size() -> usize {
    static CACHED: AtomicUsize = AtomicUsize::new(0);
    match CACHED.load(Ordering::Relaxed) {
        0 => {
            let size = ask_page_size();
            CACHED.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

fn ask_page_size() -> usize {
    // SAFETY: `sysconf` has no conditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// The calling thread's error number.
fn errno() -> i32 {
    // SAFETY: `__errno_location` has no conditions.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: It returned the address of this thread's error number, which is aligned and
    // initialised, lives as long as the thread, and is written by this thread only.
    unsafe { *place }
}

fn last_error(call: &'static str) -> PageError {
    PageError::Os { call, errno: errno() }
}

/// The result of a call that returns zero for success.
fn checked(call: &'static str, returned: c_int) -> Result<(), PageError> {
    if returned == 0 { Ok(()) } else { Err(last_error(call)) }
}

/// The system's words for an error number, in `buffer`.
pub(crate) fn error_message(errno: i32, buffer: &mut [u8; 128]) -> &str {
    // SAFETY: `buffer` is writable for the length given. The call writes a terminated string into
    // it, or nothing.
    let _ = unsafe { libc::strerror_r(errno, buffer.as_mut_ptr().cast(), buffer.len()) };
    let message = CStr::from_bytes_until_nul(buffer).unwrap_or_default();
    message.to_str().unwrap_or("unknown error")
}

/// Takes `len` bytes of address space without access, at an address of the system's choice.
///
/// The memory is not charged to the process before [`allow_access`] makes it writable, so that is
/// where a system that does not overcommit refuses.
/// With `overcommit` it is not charged then either, but page by page when it is touched.
pub(crate) fn reserve(len: usize, overcommit: bool) -> Result<NonNull<u8>, PageError> {
    let flags = PRIVATE_MEMORY | if overcommit { libc::MAP_NORESERVE } else { 0 };
    // SAFETY: Without `MAP_FIXED` a new mapping overlaps nothing that exists.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    mapped(start)
}

/// The pointer that `mmap` returned, or its error.
fn mapped(returned: *mut libc::c_void) -> Result<NonNull<u8>, PageError> {
    if returned == libc::MAP_FAILED {
        return Err(last_error("mmap"));
    }
    NonNull::new(returned.cast()).ok_or(PageError::Os { call: "mmap", errno: libc::EFAULT })
}

/// Maps explicit huge pages at exactly `at`, where nothing may be mapped.
///
/// `MAP_FIXED_NOREPLACE`, not `MAP_FIXED`: the latter unmaps what is there before it knows
/// whether it will succeed, and another thread could map something into the hole.
pub(crate) fn map_huge(
    at: NonNull<u8>,
    len: usize,
    size: HugePageSize,
) -> Result<NonNull<u8>, PageError> {
    let size_flag = size.log2().cast_signed() << libc::MAP_HUGE_SHIFT;
    let flags = PRIVATE_MEMORY | libc::MAP_FIXED_NOREPLACE | libc::MAP_HUGETLB | size_flag;
    // SAFETY: With `MAP_FIXED_NOREPLACE`, and without `MAP_FIXED`, a new mapping overlaps nothing
    // that exists.
    let start = unsafe { libc::mmap(at.as_ptr().cast(), len, READ_WRITE, flags, -1, 0) };
    let start = mapped(start)?;
    if start == at {
        return Ok(start);
    }
    // Linux before 4.17 takes the address for a hint.
    // SAFETY: The mapping was made just now and nobody knows of it.
    let _ = unsafe { unmap(start.as_ptr(), len) };
    Err(PageError::Os { call: "mmap", errno: libc::EEXIST })
}

/// Unmaps `len` bytes; none is a success. A failure (too many mappings to split one) leaves them
/// mapped.
///
/// # Safety
/// The caller owns the pages, and nobody uses them from now on.
pub(crate) unsafe fn unmap(start: *mut u8, len: usize) -> Result<(), PageError> {
    if len == 0 {
        return Ok(());
    }
    // SAFETY: The caller owns the pages and nobody uses them.
    let returned = unsafe { libc::munmap(start.cast(), len) };
    checked("munmap", returned)
}

/// Makes pages readable and writable.
///
/// # Safety
/// The caller owns the pages.
pub(crate) unsafe fn allow_access(start: *mut u8, len: usize) -> Result<(), PageError> {
    // SAFETY: The caller owns the pages; access is only added.
    let returned = unsafe { libc::mprotect(start.cast(), len, READ_WRITE) };
    checked("mprotect", returned)
}

/// Makes pages inaccessible.
///
/// # Safety
/// The caller owns the pages, and nobody accesses them until [`allow_access`].
pub(crate) unsafe fn deny_access(start: *mut u8, len: usize) -> Result<(), PageError> {
    // SAFETY: The caller owns the pages, and nobody accesses them.
    let returned = unsafe { libc::mprotect(start.cast(), len, libc::PROT_NONE) };
    checked("mprotect", returned)
}

/// Makes pages guards, which Linux 6.13 and later can, older ones refuse with `EINVAL`. Their contents are
/// lost.
///
/// # Safety
/// The caller owns the pages, and nobody accesses them until [`remove_guard`].
pub(crate) unsafe fn install_guard(start: *mut u8, len: usize) -> Result<(), PageError> {
    const MADV_GUARD_INSTALL: c_int = 102;
    // SAFETY: The caller owns the pages, and nobody accesses them.
    let returned = unsafe { libc::madvise(start.cast(), len, MADV_GUARD_INSTALL) };
    checked("madvise(MADV_GUARD_INSTALL)", returned)
}

/// Makes guards pages again, which read as zero; others stay as they are.
///
/// # Safety
/// The caller owns the pages.
pub(crate) unsafe fn remove_guard(start: *mut u8, len: usize) -> Result<(), PageError> {
    const MADV_GUARD_REMOVE: c_int = 103;
    // SAFETY: The caller owns the pages; access is only added.
    let returned = unsafe { libc::madvise(start.cast(), len, MADV_GUARD_REMOVE) };
    checked("madvise(MADV_GUARD_REMOVE)", returned)
}

/// Locks pages into memory, which populates them.
pub(crate) fn lock(start: *mut u8, len: usize) -> Result<(), PageError> {
    // SAFETY: Locking changes neither the contents nor the access of any page, so that it is
    // harmless even for pages that are not the caller's.
    let returned = unsafe { libc::mlock(start.cast(), len) };
    checked("mlock", returned)
}

/// Advises the system to use huge pages (or not to); whether it took the advice.
pub(crate) fn advise_huge(start: *mut u8, len: usize, wanted: bool) -> bool {
    let advice = if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // SAFETY: The page size changes neither the contents nor the access of any page, so that the
    // advice is harmless even for pages that are not the caller's.
    unsafe { libc::madvise(start.cast(), len, advice) == 0 }
}

/// Populates pages for writing without changing them. Linux before 5.14 fails with `EINVAL`.
pub(crate) fn populate(start: *mut u8, len: usize) -> Result<(), PageError> {
    // SAFETY: Populating changes neither the contents nor the access of any page, so that it is
    // harmless even for pages that are not the caller's.
    let returned = unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) };
    checked("madvise(MADV_POPULATE_WRITE)", returned)
}

/// Populates the page of one word for writing, as [`populate`] does, on any Linux.
///
/// The kernel itself ORs zero to the word: `FUTEX_WAKE_OP` does so atomically, faults the page in
/// for writing, and reports a page that has no access instead of raising a signal. An atomic
/// operation of ours would race, by the language's rules, with threads that use the word
/// non-atomically, and compilers are free to turn an OR with zero into a load or into nothing.
pub(crate) fn touch(word: *mut u32) -> Result<(), PageError> {
    const OR_ZERO: c_int = libc::FUTEX_OP_OR << 28;
    let own: u32 = 0;
    // SAFETY: `own` is a valid word on which nobody waits. The kernel checks the address `word`
    // and leaves its value as it is, at one instant, so that no thread can tell the call from
    // one that does nothing. It may wake one waiter on `word`; whoever waits on a futex must bear
    // waking without cause.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_futex,
            &raw const own,
            libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG,
            0 as c_int,
            ptr::null::<libc::timespec>(),
            word,
            OR_ZERO,
        )
    };
    if returned < 0 { Err(last_error("futex")) } else { Ok(()) }
}

/// Gives the memory of pages back to the system; they read as zero from now on. Locked pages are
/// refused with `EINVAL`.
///
/// # Safety
/// The caller owns the pages, they are private anonymous memory, and nobody relies on their
/// contents.
pub(crate) unsafe fn give_back(start: *mut u8, len: usize) -> Result<(), PageError> {
    // SAFETY: The caller owns the pages, and nobody relies on their contents.
    let returned = unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
    checked("madvise(MADV_DONTNEED)", returned)
}

/// Eight random bytes from the kernel, or `None` where `flags` are unknown to it or it has none.
pub(crate) fn random_bytes(flags: libc::c_uint) -> Option<[u8; 8]> {
    let mut bytes = [0_u8; 8];
    // SAFETY: `bytes` is writable for the length given. (`syscall`, since older C libraries have
    // no function for this call.)
    let returned =
        unsafe { libc::syscall(libc::SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), flags) };
    (returned == 8 as c_long).then_some(bytes)
}

/// The sixteen random bytes that the kernel gave the process when it started, if it did.
pub(crate) fn start_up_random() -> Option<[[u8; 8]; 2]> {
    // SAFETY: `getauxval` has no conditions.
    let address = unsafe { libc::getauxval(libc::AT_RANDOM) };
    let address = usize::try_from(address).ok()?;
    let bytes = NonNull::new(ptr::with_exposed_provenance_mut::<[[u8; 8]; 2]>(address))?;
    // SAFETY: A non-zero `AT_RANDOM` is the address of sixteen bytes that the kernel wrote above
    // the main stack, which stay there unchanged for the life of the process. Bytes need no
    // alignment.
    Some(unsafe { bytes.read() })
}

/// Nanoseconds of the monotonic clock, of which only the low bits matter here.
pub(crate) fn clock_ticks() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a writable `timespec`.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    #[allow(clippy::useless_conversion, reason = "some targets have 32-bit fields here")]
    let [seconds, nanoseconds] = [i64::from(now.tv_sec), i64::from(now.tv_nsec)];
    let seconds = seconds.cast_unsigned().wrapping_mul(1_000_000_000);
    seconds.wrapping_add(nanoseconds.cast_unsigned())
}
