#![allow(unsafe_code)] // atomics anywhere in memory
//! Atomics that [loom](https://docs.rs/loom) knows of, and that lie in memory as the processor's do.
//!
//! Loom's own are objects with a history; a pool's lie in memory that comes and goes, is filled with zeros,
//! and is looked at as bytes. So there is a table: for each address that is used, an atomic of loom's. What is
//! stored goes to both, so that a plain write to the memory is noticed: it begins a new history.

use std::{
    cell::{Cell, UnsafeCell},
    collections::HashMap,
    println,
    sync::{Arc, Mutex, MutexGuard},
    vec::Vec,
};

pub(crate) use loom::sync::atomic::Ordering;
use loom::{model::Builder, sync::atomic::AtomicU64};

/// How many addresses may be used in one execution.
const PLACES: usize = 512;

std::thread_local! {
    /// Whether accesses are modelled; else they are the processor's. All threads of a model are one of these.
    static IS_ON: Cell<bool> = const { Cell::new(false) };
}

loom::lazy_static! {
    static ref TABLE: Mutex<Table> = Mutex::new(Table::new());
}

/// Runs something in every order up to so many preemptions, or `LOOM_MAX_PREEMPTIONS`, and says how often that was.
pub fn explore(preemptions: Option<usize>, execution: impl Fn() + Sync + Send + 'static) {
    let count = Arc::new(core::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.max_branches = builder.max_branches.max(100_000);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        execution();
    });
    println!("{} executions", count.load(Ordering::Relaxed));
}

/// Models all accesses during some work, which starts threads and waits for them. What is done before it is
/// what they find. To be called once in each execution of a model.
pub fn modelled<R>(work: impl FnOnce() -> R) -> R {
    // Before there are threads, lest one of them use what another one has made.
    drop(table());
    IS_ON.set(true);
    let result = work();
    IS_ON.set(false);
    result
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().expect("nobody panics with the table")
}

/// A history: values are one more than what is stored, and 0 is what was there first.
#[derive(Clone)]
struct History {
    values: Arc<AtomicU64>,
    first: u64,
    last: u64,
}

struct Table {
    histories: HashMap<usize, History>,
    spare: Vec<Arc<AtomicU64>>,
}

impl Table {
    fn new() -> Self {
        let spare = (0..PLACES).map(|_| Arc::new(AtomicU64::new(0))).collect();
        Self { histories: HashMap::new(), spare }
    }

    /// The history of an address where this value is now.
    fn history(&mut self, addr: usize, now: u64) -> &mut History {
        let Self { histories, spare } = self;
        let new = || {
            let values = spare.pop().expect("more addresses are used than was thought");
            History { values, first: now, last: now }
        };
        if histories.get(&addr).is_some_and(|history| history.last != now) {
            histories.remove(&addr);
        }
        histories.entry(addr).or_insert_with(new)
    }
}

fn load(addr: usize, now: u64, order: Ordering) -> u64 {
    if !IS_ON.get() {
        return now;
    }
    let History { values, first, .. } = table().history(addr, now).clone();
    values.load(order).checked_sub(1).unwrap_or(first)
}

fn store(addr: usize, now: u64, value: u64, order: Ordering) {
    if !IS_ON.get() {
        return;
    }
    let values = table().history(addr, now).values.clone();
    values.store(value.wrapping_add(1), order);
    if let Some(history) = table().histories.get_mut(&addr) {
        history.last = value;
    }
}

pub(crate) fn fence(order: Ordering) {
    if IS_ON.get() { loom::sync::atomic::fence(order) } else { core::sync::atomic::fence(order) }
}

pub(crate) fn spin_loop() {
    if IS_ON.get() { loom::hint::spin_loop() } else { core::hint::spin_loop() }
}

/// An atomic of a type, which is as a number.
macro_rules! atomic {
    ($name:ident $(<$parameter:ident>)?, $value:ty, $to:expr, $from:expr) => {
        #[derive(Debug)]
        #[repr(transparent)]
        pub(crate) struct $name$(<$parameter>)?(UnsafeCell<$value>);

        // SAFETY: threads of a model run one at a time.
        unsafe impl$(<$parameter>)? Sync for $name$(<$parameter>)? {}

        #[allow(dead_code, reason = "not all of them need all of it")]
        impl$(<$parameter>)? $name$(<$parameter>)? {
            pub(crate) const fn new(value: $value) -> Self {
                Self(UnsafeCell::new(value))
            }

            pub(crate) const fn as_ptr(&self) -> *mut $value {
                self.0.get()
            }

            pub(crate) const unsafe fn from_ptr<'a>(at: *mut $value) -> &'a Self {
                // SAFETY: the caller's promise, as of the processor's atomics.
                unsafe { &*at.cast() }
            }

            fn now(&self) -> u64 {
                // SAFETY: threads of a model run one at a time.
                $to(unsafe { self.as_ptr().read() })
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                $from(load(self.as_ptr().addr(), self.now(), order))
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                store(self.as_ptr().addr(), self.now(), $to(value), order);
                // SAFETY: threads of a model run one at a time.
                unsafe { self.as_ptr().write(value) };
            }
        }
    };
}

atomic!(AtomicU8, u8, u64::from, |value| u8::try_from(value).expect("what was stored"));
atomic!(AtomicU16, u16, u64::from, |value| u16::try_from(value).expect("what was stored"));
atomic!(AtomicU32, u32, u64::from, |value| u32::try_from(value).expect("what was stored"));
atomic!(AtomicUsize, usize, |value| value as u64, |value| {
    usize::try_from(value).expect("what was stored")
});
atomic!(AtomicPtr<T>, *mut T, pointer_to_number, number_to_pointer);

fn pointer_to_number<T>(pointer: *mut T) -> u64 {
    pointer.expose_provenance() as u64
}

fn number_to_pointer<T>(number: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(usize::try_from(number).expect("an address"))
}
