//! The lock of firmware: one section for all locks, in whatever order they are let go.
#![cfg(feature = "critical-section")]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use common::{Handle, Memory, bytes};
use libmempool::{CriticalSection, Pool};
use lock_api::RawMutex;

/// Two locks are held and let go in this order; nobody else gets into a section before both are free.
fn share_a_section(first_goes_first: bool) {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    ENTERED.store(false, SeqCst);
    let locks = [CriticalSection::INIT, CriticalSection::INIT];
    let [first, second] = &locks;
    first.lock();
    second.lock();
    assert!(!first.try_lock() && !second.try_lock(), "both are held");
    let other = thread::spawn(|| critical_section::with(|_| ENTERED.store(true, SeqCst)));
    let order = if first_goes_first { [first, second] } else { [second, first] };
    // SAFETY: both are held.
    unsafe { order[0].unlock() };
    assert!(order[0].try_lock(), "it was let go");
    // SAFETY: as above.
    unsafe { order[0].unlock() };
    thread::sleep(Duration::from_millis(20));
    assert!(!ENTERED.load(SeqCst), "one lock is still held");
    // SAFETY: the other one is held.
    unsafe { order[1].unlock() };
    other.join().expect("the section has ended");
    assert!(ENTERED.load(SeqCst));
}

#[test]
fn the_section_ends_with_the_last_lock() {
    share_a_section(true);
    share_a_section(false);
}

/// Lets a lock go when a test panics: others would wait for its section.
struct Unlock<'a>(&'a CriticalSection);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        // SAFETY: locked where this is made.
        unsafe { self.0.unlock() };
    }
}

#[test]
#[should_panic(expected = "locked twice")]
fn locking_twice_panics_instead_of_waiting_for_itself() {
    let lock = CriticalSection::INIT;
    lock.lock();
    let _unlock = Unlock(&lock);
    lock.lock();
}

#[test]
fn pools_work_inside_a_section_of_the_callers() {
    let mut memory = Memory::new(64 << 10);
    let pool = Pool::<CriticalSection>::builder().size_classes(&[64]);
    let pool = pool.build(memory.region()).unwrap();
    critical_section::with(|_| {
        let block = pool.alloc(bytes(60)).unwrap();
        Handle::free(&mut &pool, block).unwrap();
        pool.validate().unwrap();
    });
}
