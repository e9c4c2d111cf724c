//! Warming, discarding and protecting ranges of a mapping.

use libmempool_std::{Discarded, Mapping, MmapPages, PageError, Protection, page_size};

use crate::support::{
    End, PASSED, bytes, exit_code, fill, in_child, page, read, resident, small_pages, write,
};

/// Discards a range of a mapping that the test alone uses, and that has access.
fn discard(mapping: &Mapping, offset: usize, len: usize) -> Result<Discarded, PageError> {
    // SAFETY: As stated.
    unsafe { mapping.discard(offset, len) }
}

/// Protects a range of a mapping that the test alone uses.
fn protect(
    mapping: &Mapping,
    offset: usize,
    len: usize,
    protection: Protection,
) -> Result<(), PageError> {
    // SAFETY: As stated; where a test accesses protected pages, it expects the signal.
    unsafe { mapping.protect(offset, len, protection) }
}

/// Which pages of the mapping hold nothing but `value`.
fn pages_of(mapping: &Mapping, value: u8) -> Vec<bool> {
    let of_value = |page: &[u8]| page.iter().all(|byte| *byte == value);
    bytes(mapping).chunks(page_size()).map(of_value).collect()
}

#[test]
fn prefault_makes_every_page_resident_that_the_range_touches() {
    let mapping = small_pages(6);
    mapping.prefault(page_size() + 1, page_size()).unwrap();
    assert_eq!(resident(&mapping), [false, true, true, false, false, false]);
    mapping.prefault(page_size() * 5 - 1, 2).unwrap();
    assert_eq!(resident(&mapping), [false, true, true, false, true, true]);
}

#[test]
fn prefault_changes_no_contents() {
    let mapping = small_pages(4);
    fill(&mapping, 0xa5);
    mapping.prefault(0, mapping.len()).unwrap();
    assert_eq!(pages_of(&mapping, 0xa5), [true; 4]);
}

#[test]
fn discard_zeroes_whole_pages_inside_the_range_only() {
    let mapping = small_pages(4);
    fill(&mapping, 0xff);
    let page = page_size();
    let discarded = discard(&mapping, 1, 3 * page).unwrap();
    assert_eq!((discarded.offset, discarded.len), (page, 2 * page));
    assert!(discarded.released);
    assert_eq!(resident(&mapping), [true, false, false, true]);
    assert_eq!(pages_of(&mapping, 0xff), [true, false, false, true]);
    assert_eq!(pages_of(&mapping, 0), [false, true, true, false]);
}

#[test]
fn discarding_less_than_a_page_does_nothing() {
    let mapping = small_pages(2);
    fill(&mapping, 0xff);
    for (offset, len) in [(0, 0), (0, page_size() - 1), (1, page_size()), (mapping.len(), 0)] {
        let discarded = discard(&mapping, offset, len).unwrap();
        assert_eq!((discarded.len, discarded.released), (0, false));
    }
    assert_eq!(pages_of(&mapping, 0xff), [true; 2]);
}

#[test]
fn discard_zeroes_locked_pages_and_keeps_them_resident() {
    let Ok(mapping) = MmapPages::new().lock_memory(true).map(2 * page_size()) else {
        eprintln!("skipped: this process may not lock two pages");
        return;
    };
    fill(&mapping, 0xff);
    assert!(!discard(&mapping, 0, mapping.len()).unwrap().released);
    assert_eq!(pages_of(&mapping, 0), [true; 2]);
    assert_eq!(resident(&mapping), [true; 2]);
}

#[test]
fn discard_zeroes_pages_that_the_program_locked_itself() {
    let mapping = small_pages(2);
    // SAFETY: Locking changes nothing that the test or the mapping relies on.
    let locked = unsafe { libc::mlock(mapping.as_ptr().as_ptr().cast(), mapping.len()) };
    if locked != 0 {
        eprintln!("skipped: this process may not lock two pages");
        return;
    }
    fill(&mapping, 0xff);
    assert!(!discard(&mapping, 0, mapping.len()).unwrap().released);
    assert_eq!(pages_of(&mapping, 0), [true; 2]);
}

#[test]
fn protected_pages_fault_and_keep_their_contents() {
    let mapping = small_pages(3);
    fill(&mapping, 7);
    protect(&mapping, page_size(), page_size(), Protection::NoAccess).unwrap();
    let faulting = in_child(|| i32::from(read(&mapping, page(1))));
    assert_eq!(faulting, End::Killed(libc::SIGSEGV));
    let beside =
        in_child(|| exit_code(read(&mapping, page(1) - 1) == 7 && read(&mapping, page(2)) == 7));
    assert_eq!(beside, PASSED);

    protect(&mapping, page_size(), page_size(), Protection::ReadWrite).unwrap();
    assert_eq!(pages_of(&mapping, 7), [true; 3]);
    write(&mapping, page(1), 8);
}

#[test]
fn protect_wants_whole_pages() {
    let mapping = small_pages(2);
    let page_size = page_size();
    for (offset, len) in [(1, page_size), (0, page_size - 1), (1, 0), (page_size, 1)] {
        let error = protect(&mapping, offset, len, Protection::NoAccess).unwrap_err();
        assert_eq!(error, PageError::Misaligned { offset, len, page_size });
    }
    protect(&mapping, page_size, 0, Protection::NoAccess).unwrap();
    write(&mapping, page(1), 1);
}

#[test]
fn prefaulting_a_protected_page_is_an_error_not_a_signal() {
    let mapping = small_pages(2);
    protect(&mapping, 0, page_size(), Protection::NoAccess).unwrap();
    let error = mapping.prefault(0, mapping.len()).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EFAULT));
}

#[test]
fn ranges_outside_the_mapping_are_refused() {
    let mapping = small_pages(2);
    let mapping_len = mapping.len();
    let outside = [
        (0, mapping_len + 1),
        (mapping_len, 1),
        (mapping_len + 1, 0),
        (1, usize::MAX),
        (usize::MAX, 1),
    ];
    for (offset, len) in outside {
        let expected = PageError::OutOfRange { offset, len, mapping_len };
        assert_eq!(mapping.prefault(offset, len), Err(expected));
        assert_eq!(discard(&mapping, offset, len), Err(expected));
        assert_eq!(protect(&mapping, offset, len, Protection::NoAccess), Err(expected));
    }
    assert_eq!(mapping.prefault(mapping_len, 0), Ok(()));
}
