//! The process's limits: errors are typed, and nothing stays mapped.

use libmempool_std::{HugePageSize, HugePages, MmapPages, PageError};

use crate::support::{
    PASSED, SKIPPED, address_space, exit_code, expect_passed_or_skipped, in_child, limit,
};

const MIB: usize = 1 << 20;

/// Gives up the right to lock memory beyond the limit, which root has.
fn become_nobody() -> bool {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: `geteuid` has no conditions.
    if unsafe { libc::geteuid() } != 0 {
        return true;
    }
    // SAFETY: `setuid` has no conditions. (`syscall`, since the function of the C library would
    // tell the threads of this process, which a forked child has none of.)
    unsafe { libc::syscall(libc::SYS_setuid, NOBODY) == 0 }
}

#[test]
fn the_address_space_limit_is_a_typed_error() {
    let end = in_child(|| {
        let before = address_space();
        if !limit(libc::RLIMIT_AS, before + 64 * MIB) {
            return SKIPPED;
        }
        let expected = PageError::Os { call: "mmap", errno: libc::ENOMEM };
        for huge_pages in [HugePages::Never, HugePages::Transparent, HugePages::Try] {
            let outcome = MmapPages::new().huge_pages(huge_pages).map(1024 * MIB);
            if outcome.err() != Some(expected) || address_space() != before {
                return 1;
            }
        }
        exit_code(MmapPages::new().map(MIB).is_ok())
    });
    expect_passed_or_skipped(end, "the address space cannot be limited");
}

#[test]
fn locking_beyond_the_limit_fails_and_unmaps_everything() {
    let end = in_child(|| {
        if !limit(libc::RLIMIT_MEMLOCK, 64 << 10) || !become_nobody() {
            return SKIPPED;
        }
        let before = address_space();
        let outcome = MmapPages::new().lock_memory(true).map(MIB);
        let refused = matches!(outcome, Err(PageError::Os { call: "mlock", .. }));
        exit_code(refused && address_space() == before)
    });
    expect_passed_or_skipped(end, "this process cannot give up CAP_IPC_LOCK");
}

#[test]
fn huge_pages_that_are_refused_leave_nothing_mapped() {
    let end = in_child(|| {
        let before = address_space();
        let wanted = HugePages::Require(HugePageSize::Gib1);
        let refused = MmapPages::new().huge_pages(wanted).map(usize::MAX >> 19).is_err();
        exit_code(refused && address_space() == before)
    });
    assert_eq!(end, PASSED);
}
