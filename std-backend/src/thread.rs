//! What a thread has of its own, and what happens when it ends or the process forks.

#![allow(unsafe_code)] // reason: foreign calls, and the thread pointer is read in assembly

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::error::PageError;

/// Defines a function that returns the address of a value that each thread has for itself, all
/// bytes of it zero when the thread starts.
///
/// Unlike `std::thread_local!` it needs one instruction or two in a shared library as well: on
/// x86-64 the value lies in the thread's static block, at an offset that the loader fills in once
/// (the *initial-exec* model of Drepper, 2005, "ELF Handling For Thread-Local Storage"), where the
/// default model for libraries makes a call each time. The loader keeps little room for libraries
/// that are loaded later, so keep the value small. Elsewhere it is `thread_local!`.
///
/// `$symbol` names the value for the linker: one name per program. The memory is the thread's:
/// the pointer is valid until the thread ends, in its last destructors too.
///
/// # Safety
/// All bytes zero must be a valid `$type`. `$symbol` is used once in a program. The function itself
/// is safe to call.
///
/// ```
/// use core::cell::Cell;
///
/// libmempool_std::zeroed_thread_local! {
///     // SAFETY: zero is a valid integer; the name is used here only.
///     unsafe fn calls() -> Cell<u64>, "doc_example_calls"
/// }
///
/// fn count() -> u64 {
///     // SAFETY: the value lives as long as the thread.
///     let calls = unsafe { calls().as_ref() };
///     calls.set(calls.get() + 1);
///     calls.get()
/// }
///
/// fn main() {
///     assert_eq!((count(), count()), (1, 2));
///     assert_eq!(std::thread::spawn(count).join().unwrap(), 1);
/// }
/// ```
#[macro_export]
#[cfg(all(target_arch = "x86_64", not(any(libmempool_portable_tls, miri))))]
macro_rules! zeroed_thread_local {
    ($(#[$attribute:meta])* $visibility:vis unsafe fn $name:ident() -> $type:ty, $symbol:literal) => {
        ::core::arch::global_asm!(
            concat!(".pushsection .tbss.", $symbol, ",\"awT\",@nobits"),
            ".balign {align}",
            concat!(".hidden ", $symbol),
            concat!(".globl ", $symbol),
            concat!(".type ", $symbol, ",@object"),
            concat!(".size ", $symbol, ", {size}"),
            concat!($symbol, ": .zero {size}"),
            ".popsection",
            size = const ::core::mem::size_of::<$type>(),
            align = const ::core::mem::align_of::<$type>(),
        );

        $(#[$attribute])*
        #[inline(always)]
        $visibility fn $name() -> ::core::ptr::NonNull<$type> {
            const { assert!(!::core::mem::needs_drop::<$type>()) };
            let address: *mut $type;
            // SAFETY: The System V ABI for x86-64: the thread pointer lies at `fs:0`, and the
            // value at the offset from it that the table entry holds. Only flags and the output
            // change, and for one thread the answer is always the same.
            unsafe {
                ::core::arch::asm!(
                    "mov {address}, qword ptr fs:[0]",
                    concat!("add {address}, qword ptr [rip + ", $symbol, "@GOTTPOFF]"),
                    address = out(reg) address,
                    options(pure, nomem, nostack),
                );
            }
            // SAFETY: The thread's block is not at address 0.
            unsafe { ::core::ptr::NonNull::new_unchecked(address) }
        }
    };
}

/// See the version for x86-64.
#[macro_export]
#[cfg(not(all(target_arch = "x86_64", not(any(libmempool_portable_tls, miri)))))]
macro_rules! zeroed_thread_local {
    ($(#[$attribute:meta])* $visibility:vis unsafe fn $name:ident() -> $type:ty, $symbol:literal) => {
        $(#[$attribute])*
        #[inline]
        $visibility fn $name() -> ::core::ptr::NonNull<$type> {
            const { assert!(!::core::mem::needs_drop::<$type>()) };
            ::std::thread_local! {
                // SAFETY: The caller of the macro says that zero bytes are a value.
                static VALUE: $type = const { unsafe { ::core::mem::zeroed() } };
            }
            // Without a destructor it is there as long as the thread.
            VALUE.with(|value| ::core::ptr::NonNull::from(value))
        }
    };
}

/// Calls a function when threads that asked for it end.
///
/// It takes one of the process's POSIX keys (there are 1024), which is never given back: the
/// library that the function is in has to stay loaded.
pub struct ThreadExit {
    /// The key plus one; 0 before there is one.
    key: AtomicU64,
    callback: unsafe extern "C" fn(*mut c_void),
}

impl ThreadExit {
    /// Nothing happens before [`arm`](Self::arm). The function is called on the thread that ends;
    /// its argument means nothing.
    #[must_use]
    pub const fn new(callback: unsafe extern "C" fn(*mut c_void)) -> Self {
        Self { key: AtomicU64::new(0), callback }
    }

    /// Has the function called when the calling thread ends, once; from within the function it may
    /// be armed again.
    ///
    /// # Errors
    /// [`PageError::Os`] if the process is out of keys or memory: the function is not called then.
    pub fn arm(&self) -> Result<(), PageError> {
        let key = self.key()?;
        let anything = core::ptr::from_ref(self).cast::<c_void>();
        // SAFETY: `key` is a key of this process.
        posix("pthread_setspecific", unsafe { libc::pthread_setspecific(key, anything) })
    }

    fn key(&self) -> Result<libc::pthread_key_t, PageError> {
        let known = self.key.load(Ordering::Acquire);
        if known != 0 {
            return Ok(key_of(known));
        }
        let mut key = 0;
        // SAFETY: `key` is writable; the callback takes what destructors of keys are given.
        let created = unsafe { libc::pthread_key_create(&raw mut key, Some(self.callback)) };
        posix("pthread_key_create", created)?;
        let mine = u64::from(key) + 1;
        match self.key.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(key),
            Err(theirs) => {
                // SAFETY: the key was made above, and no thread has a value for it.
                let _ = unsafe { libc::pthread_key_delete(key) };
                Ok(key_of(theirs))
            }
        }
    }
}

fn key_of(stored: u64) -> libc::pthread_key_t {
    libc::pthread_key_t::try_from(stored - 1).unwrap_or(libc::pthread_key_t::MAX)
}

/// Has functions called around every later `fork` of the process: `prepare` before it, then
/// `parent` in the parent and `child` in the child, all on the thread that forks.
///
/// # Safety
/// The functions may run at any time and on any thread, and stay loaded. `child` runs in a process
/// where the other threads are gone, and so can only use what is safe after a fork.
///
/// # Errors
/// [`PageError::Os`] if there is no memory to remember them.
pub unsafe fn at_fork(
    prepare: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> Result<(), PageError> {
    // SAFETY: The caller's promise.
    let returned = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    posix("pthread_atfork", returned)
}

/// The result of a call that returns its error number.
fn posix(call: &'static str, returned: c_int) -> Result<(), PageError> {
    if returned == 0 { Ok(()) } else { Err(PageError::Os { call, errno: returned }) }
}
