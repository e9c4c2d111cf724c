//! A key nobody can guess, for checksums.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

/// 64 unpredictable bits, for a key that must not be guessed from outside.
///
/// They come from the kernel (`getrandom`). The call never blocks and never fails: an appliance
/// that boots before the kernel has gathered enough entropy gets the best bits there are by then,
/// and a kernel without the call gets a mix of the random bytes every process starts with, the
/// clock, an address and a counter. For that reason, and for its size, **it is no key for
/// cryptography**.
///
/// # Complexity
/// One or two system calls.
///
/// ```
/// use libmempool_std::random_key;
/// assert_ne!(random_key(), random_key());
/// ```
#[must_use]
pub fn random_key() -> u64 {
    sys::random_bytes(libc::GRND_NONBLOCK)
        .or_else(|| sys::random_bytes(libc::GRND_INSECURE))
        .map_or_else(key_without_kernel, u64::from_ne_bytes)
}

/// A key where the kernel has no `getrandom`: what differs between processes (their start-up
/// bytes and the layout of their addresses) and within one (the clock and a counter).
fn key_without_kernel() -> u64 {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let [low, high] = start_up_words();
    let address = (&raw const CALLS).addr();
    [low, high, sys::clock_ticks(), address as u64, call as u64]
        .into_iter()
        .fold(0, |key, word| scrambled(key ^ word))
}

fn start_up_words() -> [u64; 2] {
    sys::start_up_random().unwrap_or_default().map(u64::from_ne_bytes)
}

/// The output function of `SplitMix64`, a bijection: every bit of the word changes about half of
/// the result's.
fn scrambled(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::{key_without_kernel, start_up_words};

    #[test]
    fn without_the_kernel_no_key_repeats() {
        let keys: [u64; 64] = core::array::from_fn(|_| key_without_kernel());
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "key {i} repeats");
        }
    }

    #[test]
    fn the_process_started_with_random_bytes() {
        assert_ne!(start_up_words(), [0, 0]);
    }
}
