//! Sizes, reports, errors of `map`, and ownership.

use std::thread;

use libmempool_std::{HugeObtained, HugePages, Mapping, MmapPages, PageError, page_size};

use crate::support::{PASSED, address_space, bytes, exit_code, fill, in_child, resident};

#[test]
fn sizes_are_rounded_up_to_pages_and_zeroed() {
    let page = page_size();
    for (asked, obtained) in [(1, page), (page, page), (page + 1, 2 * page), (5 * page, 5 * page)] {
        let mapping = MmapPages::new().map(asked).unwrap();
        assert_eq!(mapping.len(), obtained);
        assert!(mapping.as_ptr().addr().get().is_multiple_of(page));
        assert!(bytes(&mapping).iter().all(|byte| *byte == 0));
        let report = mapping.report();
        assert_eq!((report.requested, report.bytes), (asked, obtained));
    }
}

#[test]
fn no_bytes_and_too_many_are_typed_errors() {
    for huge_pages in [HugePages::Never, HugePages::Transparent, HugePages::Try] {
        let pages = MmapPages::new().huge_pages(huge_pages);
        assert_eq!(pages.map(0).unwrap_err(), PageError::ZeroSize);
        for requested in [usize::MAX, usize::MAX / 2 + 1, usize::MAX / 2] {
            assert_eq!(pages.map(requested).unwrap_err(), PageError::TooLarge { requested });
        }
    }
}

#[test]
fn a_plain_mapping_reports_what_it_is() {
    let mapping = MmapPages::new().huge_pages(HugePages::Never).map(10).unwrap();
    let report = mapping.report();
    assert_eq!(report.huge, HugeObtained::None);
    assert_eq!(report.page_size, page_size());
    assert!(!report.prefaulted && !report.locked && report.guards);
    let page = page_size();
    assert_eq!(
        report.to_string(),
        format!(
            "asked for 10 B with small pages only, obtained {page} B in {page} B pages, not huge, \
             between guard pages"
        )
    );
}

#[test]
fn pages_are_resident_only_if_prefaulted() {
    let lazy = MmapPages::new().huge_pages(HugePages::Never);
    let mapping = lazy.map(8 * page_size()).unwrap();
    assert!(!mapping.report().prefaulted);
    assert_eq!(resident(&mapping), [false; 8]);

    let mapping = lazy.prefault(true).map(8 * page_size()).unwrap();
    assert!(mapping.report().prefaulted);
    assert_eq!(resident(&mapping), [true; 8]);
}

#[test]
fn locked_pages_are_resident_and_reported() {
    match MmapPages::new().lock_memory(true).map(4 * page_size()) {
        Ok(mapping) => {
            assert!(mapping.report().locked && mapping.report().prefaulted);
            assert_eq!(resident(&mapping), [true; 4]);
        }
        Err(error) => eprintln!("skipped: this process may not lock four pages: {error}"),
    }
}

#[test]
fn dropping_returns_all_address_space() {
    let end = in_child(|| {
        let before = address_space();
        for huge_pages in [HugePages::Never, HugePages::Transparent, HugePages::Try] {
            for guards in [true, false] {
                let pages = MmapPages::new().huge_pages(huge_pages).guard_pages(guards);
                if pages.map(5 << 20).is_err() || address_space() != before {
                    return 1;
                }
            }
        }
        0
    });
    assert_eq!(end, PASSED);
}

#[test]
fn raw_parts_keep_the_memory_until_they_are_taken_back() {
    let end = in_child(|| {
        let before = address_space();
        let Ok(mapping) = MmapPages::new().map(page_size()) else {
            return 1;
        };
        let base = mapping.as_ptr();
        let raw = mapping.into_raw();
        let kept = address_space() > before;
        // SAFETY: `raw` comes from `into_raw` and is used once.
        let mapping = unsafe { Mapping::from_raw(raw) };
        let same = mapping.as_ptr() == base && raw.as_ptr() == base && raw.len() == mapping.len();
        drop(mapping);
        exit_code(kept && same && address_space() == before)
    });
    assert_eq!(end, PASSED);
}

#[test]
fn a_mapping_can_be_used_and_dropped_by_another_thread() {
    let mapping = MmapPages::new().map(page_size()).unwrap();
    thread::spawn(move || {
        fill(&mapping, 9);
        assert!(bytes(&mapping).iter().all(|byte| *byte == 9));
    })
    .join()
    .unwrap();
}

#[test]
fn errors_say_what_to_do_and_carry_the_systems_words() {
    let error = PageError::Os { call: "mlock", errno: libc::ENOMEM };
    let message = error.to_string();
    assert!(message.starts_with("mlock failed: "), "{message}");
    assert!(message.ends_with(" (os error 12)"), "{message}");
    let system = std::io::Error::from_raw_os_error(libc::ENOMEM).to_string();
    assert!(message.contains(&system), "{message}");
    let unknown = PageError::Os { call: "mmap", errno: 99_999 }.to_string();
    assert!(unknown.contains("99999"), "{unknown}");
}
