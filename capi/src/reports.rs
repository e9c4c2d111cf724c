//! What a call came by, until it is over and the program can be told.
#![allow(unsafe_code)] // the thread's own list

use core::{cell::Cell, mem::MaybeUninit};

use libmempool::{ClassId, Fault};

use crate::error::Failure;

/// What a program is told of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    /// A pointer that was refused, or damage.
    Fault(Failure),
    /// A class has this many slots left, fewer than its low watermark.
    Low(ClassId, usize),
}

/// Reports of one call that are remembered; of more, the last is.
const MOST: usize = 8;

/// A thread's reports, the first `len` of which are written.
struct Reports {
    len: Cell<usize>,
    list: [Cell<MaybeUninit<Report>>; MOST],
}

libmempool_std::zeroed_thread_local! {
    // SAFETY: zero is an empty list; the name, with this version in it, is used here only.
    unsafe fn reports() -> Reports, "libmempool_capi_0_1_reports"
}

/// Notes something that the call that this thread is in came by.
#[cold]
fn note(report: Report) {
    // SAFETY: the list lives as long as the thread.
    let reports = unsafe { reports().as_ref() };
    let len = reports.len.get();
    reports.list[len.min(MOST - 1)].set(MaybeUninit::new(report));
    reports.len.set((len + 1).min(MOST));
}

/// What pools call with their faults.
pub(crate) fn note_fault(fault: Fault, _: usize) {
    noted(fault);
}

/// Notes a fault that is a call's failure.
pub(crate) fn noted(fault: impl Into<Failure>) -> Failure {
    let failure = fault.into();
    note(Report::Fault(failure));
    failure
}

/// What pools call when a class runs low.
pub(crate) fn note_low(class: ClassId, left: usize) {
    note(Report::Low(class, left));
}

/// Whether there is anything to be told.
#[inline(always)]
pub(crate) fn are_there() -> bool {
    // SAFETY: as in `note`.
    unsafe { reports().as_ref() }.len.get() > 0
}

/// Takes what the call that is over came by, in order.
pub(crate) fn take() -> impl Iterator<Item = Report> {
    // SAFETY: as in `note`.
    let reports = unsafe { reports().as_ref() };
    let len = reports.len.replace(0);
    let list = reports.list.each_ref().map(Cell::get);
    // SAFETY: so many have been written.
    list.into_iter().take(len).map(|report| unsafe { report.assume_init() })
}
