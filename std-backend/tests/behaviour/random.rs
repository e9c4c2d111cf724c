//! Keys differ.

use std::collections::HashSet;

use libmempool_std::random_key;

#[test]
fn keys_differ_and_use_all_bits() {
    let keys: HashSet<u64> = (0..256).map(|_| random_key()).collect();
    assert_eq!(keys.len(), 256);
    // A given bit is the same in 256 random keys once in 2^255 runs.
    assert_eq!(keys.iter().fold(0, |seen, key| seen | key), u64::MAX);
    assert_eq!(keys.iter().fold(u64::MAX, |seen, key| seen & key), 0);
}
