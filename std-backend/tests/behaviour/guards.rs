//! Guard pages fault, and where there are none nothing is reserved for them.

use libmempool_std::{HugePages, MmapPages, page_size};

use crate::support::{End, PASSED, exit_code, in_child, page, read, small_pages, write};

const SEGFAULT: End = End::Killed(libc::SIGSEGV);

#[test]
fn the_first_and_last_byte_can_be_used() {
    let mapping = small_pages(3);
    let end = in_child(|| {
        write(&mapping, 0, 1);
        write(&mapping, page(3) - 1, 2);
        exit_code(read(&mapping, 0) == 1 && read(&mapping, page(3) - 1) == 2)
    });
    assert_eq!(end, PASSED);
}

#[test]
fn running_off_either_end_faults() {
    let mapping = small_pages(3);
    for offset in [-1, -page(1), page(3), page(4) - 1] {
        let reading = in_child(|| i32::from(read(&mapping, offset)));
        assert_eq!(reading, SEGFAULT, "read at {offset}");
        let writing = in_child(|| {
            write(&mapping, offset, 1);
            0
        });
        assert_eq!(writing, SEGFAULT, "write at {offset}");
    }
}

#[test]
fn aligned_mappings_have_guards_right_at_their_ends_too() {
    let size = (2 << 20) + page_size();
    let mapping = MmapPages::new().huge_pages(HugePages::Transparent).map(size).unwrap();
    assert_eq!(mapping.len(), size);
    for offset in [-1, size.cast_signed()] {
        assert_eq!(in_child(|| i32::from(read(&mapping, offset))), SEGFAULT, "{offset}");
    }
}

#[test]
fn guards_are_reported_and_cost_two_pages_of_address_space() {
    let cost = |guards: bool| {
        in_child(|| {
            let before = crate::support::address_space();
            let mapping = MmapPages::new().guard_pages(guards).map(4 * page_size());
            let pages = (crate::support::address_space() - before) / page_size();
            match mapping {
                Ok(mapping) if mapping.report().guards == guards => pages.try_into().unwrap_or(99),
                _ => 99,
            }
        })
    };
    assert_eq!(cost(true), End::Exited(6));
    assert_eq!(cost(false), End::Exited(4));
}
