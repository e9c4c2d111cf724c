//! What a call came by, until it is over and the corruption handler can be told.
#![allow(unsafe_code)] // the thread's own list

use core::cell::Cell;

use libmempool::Fault;

use crate::error::Failure;

/// Faults of one call that are remembered; of more, the last is.
const MOST: usize = 8;

/// A thread's faults. A new thread's are all zero: none.
struct Faults {
    len: Cell<usize>,
    list: [Cell<Option<Failure>>; MOST],
}

libmempool_std::zeroed_thread_local! {
    // SAFETY: zero is an empty list, of which nothing is read; the name, with this version in it, is used here
    // only.
    unsafe fn faults() -> Faults, "libmempool_capi_0_1_faults"
}

/// What pools call: notes a fault of the call that this thread is in.
#[cold]
pub(crate) fn note(fault: Fault, _: usize) {
    noted(fault);
}

/// Notes a fault that is a call's failure.
#[cold]
pub(crate) fn noted(fault: impl Into<Failure>) -> Failure {
    let failure = fault.into();
    // SAFETY: the list lives as long as the thread.
    let faults = unsafe { faults().as_ref() };
    let len = faults.len.get();
    faults.list[len.min(MOST - 1)].set(Some(failure));
    faults.len.set((len + 1).min(MOST));
    failure
}

/// Whether there is anything to be told.
#[inline(always)]
pub(crate) fn are_there() -> bool {
    // SAFETY: as in `noted`.
    unsafe { faults().as_ref() }.len.get() > 0
}

/// Takes what the call that is over came by, in order.
pub(crate) fn take() -> impl Iterator<Item = Failure> {
    // SAFETY: as in `noted`.
    let faults = unsafe { faults().as_ref() };
    let len = faults.len.replace(0);
    let taken: [Option<Failure>; MOST] =
        core::array::from_fn(|index| if index < len { faults.list[index].take() } else { None });
    taken.into_iter().flatten()
}
