//! Children, and what the kernel knows of this process's memory.

use std::fs::File;
use std::io::Read;

use libmempool_std::{HugePages, Mapping, MmapPages, page_size};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed(i32),
}

pub const PASSED: End = End::Exited(0);
pub const FAILED: i32 = 1;
/// What a child exits with that cannot set the scene on this machine.
pub const SKIPPED: i32 = 77;

/// Runs `child` in a fork and waits for its end. Other tests' threads do not exist there and may
/// have held any lock, so it must neither allocate nor panic.
pub fn in_child(child: impl FnOnce() -> i32) -> End {
    // SAFETY: The child keeps to what may be done after a fork of a threaded program, as asked.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        // The harness's handler for stack overflows, and core dumps, are not for children.
        // SAFETY: The default action is valid for the signal.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        limit(libc::RLIMIT_CORE, 0);
        let code = child();
        // SAFETY: `_exit` has no conditions.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable; the child is ours and is waited for once.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waitpid");
    if libc::WIFSIGNALED(status) {
        End::Killed(libc::WTERMSIG(status))
    } else {
        End::Exited(libc::WEXITSTATUS(status))
    }
}

/// `SKIPPED` becomes a printed line; everything else than `PASSED` fails the test.
pub fn expect_passed_or_skipped(end: End, why_skipped: &str) {
    if end == End::Exited(SKIPPED) {
        eprintln!("skipped: {why_skipped}");
    } else {
        assert_eq!(end, PASSED);
    }
}

/// 0 for a process's exit code if `passed`.
pub fn exit_code(passed: bool) -> i32 {
    if passed { 0 } else { FAILED }
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

/// Lowers a limit of this process.
pub fn limit(resource: Resource, value: usize) -> bool {
    let Ok(value) = value.try_into() else {
        return false;
    };
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is readable.
    unsafe { libc::setrlimit(resource, &raw const limit) == 0 }
}

/// The process's address space in bytes. Does not allocate.
pub fn address_space() -> usize {
    let mut buffer = [0; 128];
    let read = File::open("/proc/self/statm").and_then(|mut file| file.read(&mut buffer));
    let text = std::str::from_utf8(&buffer[..read.unwrap_or(0)]).unwrap_or("");
    let pages = text.split(' ').next().and_then(|first| first.parse().ok());
    pages.unwrap_or(0_usize) * page_size()
}

/// A mapping of small pages.
pub fn small_pages(count: usize) -> Mapping {
    MmapPages::new().huge_pages(HugePages::Never).map(count * page_size()).unwrap()
}

/// Which small pages of the mapping are resident.
pub fn resident(mapping: &Mapping) -> Vec<bool> {
    let mut pages = vec![0_u8; mapping.len() / page_size()];
    // SAFETY: The range is mapped, and `pages` has a byte for each of its pages.
    let returned = unsafe {
        libc::mincore(mapping.as_ptr().as_ptr().cast(), mapping.len(), pages.as_mut_ptr().cast())
    };
    assert_eq!(returned, 0, "mincore");
    pages.iter().map(|flags| flags & 1 == 1).collect()
}

/// The byte at an offset; below or above the mapping too.
fn byte_at(mapping: &Mapping, offset: isize) -> *mut u8 {
    mapping.as_ptr().as_ptr().wrapping_offset(offset)
}

/// Reads a byte; tests fault with it on purpose, in children.
pub fn read(mapping: &Mapping, offset: isize) -> u8 {
    // SAFETY: The byte is the mapping's and readable, or the test expects the signal.
    unsafe { byte_at(mapping, offset).read_volatile() }
}

/// Writes a byte; tests fault with it on purpose, in children.
pub fn write(mapping: &Mapping, offset: isize, value: u8) {
    // SAFETY: The byte is the mapping's and writable, or the test expects the signal.
    unsafe { byte_at(mapping, offset).write_volatile(value) };
}

/// Sets every byte.
pub fn fill(mapping: &Mapping, value: u8) {
    // SAFETY: All bytes are the mapping's and writable, and nobody else uses them.
    unsafe { mapping.as_ptr().write_bytes(value, mapping.len()) };
}

/// All bytes.
pub fn bytes(mapping: &Mapping) -> Vec<u8> {
    let len = mapping.len();
    // SAFETY: All bytes are the mapping's, initialised (with zeros) and readable, and nobody
    // writes them meanwhile.
    unsafe { std::slice::from_raw_parts(mapping.as_ptr().as_ptr(), len) }.to_vec()
}

/// A page offset as the signed offset that `read` and `write` take.
pub fn page(count: isize) -> isize {
    count * page_size().cast_signed()
}
