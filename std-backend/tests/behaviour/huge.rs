//! Huge pages: what is obtained is reported, whatever this machine has.

use std::fs::exists;

use libmempool_std::{
    HugeObtained, HugePageSize, HugePages, MmapPages, PageError, Protection, page_size,
};

use crate::support::{End, bytes, fill, in_child, read};

const MIB: usize = 1 << 20;

/// More than any machine has, less than its address space: 32 TiB (1 GiB on 32-bit targets).
const TOO_MUCH: usize = usize::MAX >> 19;

#[test]
fn transparent_starts_on_a_huge_page() {
    let mapping = MmapPages::new().huge_pages(HugePages::Transparent).map(4 * MIB).unwrap();
    assert!(mapping.as_ptr().addr().get().is_multiple_of(2 * MIB));
    let report = mapping.report();
    assert_eq!((report.bytes, report.page_size), (4 * MIB, page_size()));
    let supported = exists("/sys/kernel/mm/transparent_hugepage").unwrap();
    assert_eq!(report.huge, HugeObtained::Transparent { advised: supported });
}

#[test]
fn less_than_a_huge_page_is_never_huge() {
    for huge_pages in [HugePages::Transparent, HugePages::Try] {
        let mapping = MmapPages::new().huge_pages(huge_pages).map(MIB).unwrap();
        assert_eq!(mapping.report().huge, HugeObtained::None);
        assert_eq!(mapping.len(), MIB);
    }
}

#[test]
fn try_falls_back_and_says_so() {
    let mapping = MmapPages::new().huge_pages(HugePages::Try).map(4 * MIB).unwrap();
    let report = mapping.report();
    assert_eq!(report.huge_pages, HugePages::Try);
    match report.huge {
        HugeObtained::Explicit(size) => assert_eq!(report.page_size, size.bytes()),
        fallback => {
            assert!(matches!(fallback, HugeObtained::Transparent { .. }));
            assert_eq!(report.page_size, page_size());
            assert!(report.to_string().contains("asked for 4194304 B with huge pages if any"));
        }
    }
}

#[test]
fn try_does_not_round_up_far() {
    // 3 MiB would be a third more in pages of 2 MiB.
    let mapping = MmapPages::new().huge_pages(HugePages::Try).map(3 * MIB).unwrap();
    assert_eq!(mapping.len(), 3 * MIB);
}

#[test]
fn required_huge_pages_are_obtained_or_a_typed_error() {
    let wanted = HugePages::Require(HugePageSize::Mib2);
    match MmapPages::new().huge_pages(wanted).map(3 * MIB) {
        Ok(mapping) => {
            let report = mapping.report();
            assert_eq!((report.bytes, report.page_size), (4 * MIB, 2 * MIB));
            assert_eq!(report.huge, HugeObtained::Explicit(HugePageSize::Mib2));
        }
        Err(error) => {
            assert!(matches!(
                error,
                PageError::HugePagesUnavailable { size: HugePageSize::Mib2, .. }
            ));
            assert!(error.to_string().contains("2 MiB huge pages"), "{error}");
        }
    }
}

#[test]
fn more_huge_pages_than_any_machine_has_are_unavailable() {
    let wanted = HugePages::Require(HugePageSize::Gib1);
    let error = MmapPages::new().huge_pages(wanted).map(TOO_MUCH).unwrap_err();
    assert!(matches!(error, PageError::HugePagesUnavailable { size: HugePageSize::Gib1, .. }));
}

#[test]
fn explicit_huge_pages_are_guarded_warmed_discarded_and_protected() {
    let wanted = HugePages::Require(HugePageSize::Mib2);
    let mapping = match MmapPages::new().huge_pages(wanted).prefault(true).map(4 * MIB) {
        Err(PageError::HugePagesUnavailable { .. }) => {
            eprintln!("skipped: fewer than two free 2 MiB pages (see /proc/sys/vm/nr_hugepages)");
            return;
        }
        outcome => outcome.unwrap(),
    };
    for offset in [-1, mapping.len().cast_signed()] {
        let end = in_child(|| i32::from(read(&mapping, offset)));
        assert_eq!(end, End::Killed(libc::SIGSEGV), "{offset}");
    }

    fill(&mapping, 0xff);
    // SAFETY: The test alone uses the mapping, which has access.
    let discarded = unsafe { mapping.discard(1, 4 * MIB - 1) }.unwrap();
    assert_eq!((discarded.offset, discarded.len), (2 * MIB, 2 * MIB));
    assert!(!discarded.released);
    let contents = bytes(&mapping);
    assert!(contents[..2 * MIB].iter().all(|byte| *byte == 0xff));
    assert!(contents[2 * MIB..].iter().all(|byte| *byte == 0));

    // SAFETY: The test alone uses the mapping.
    let error = unsafe { mapping.protect(0, page_size(), Protection::NoAccess) }.unwrap_err();
    assert!(matches!(error, PageError::Misaligned { .. }));
    // SAFETY: As above.
    unsafe { mapping.protect(0, 2 * MIB, Protection::NoAccess) }.unwrap();
    assert_eq!(in_child(|| i32::from(read(&mapping, 0))), End::Killed(libc::SIGSEGV));
}
