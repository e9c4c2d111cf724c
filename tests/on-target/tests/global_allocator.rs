//! A pool as the global allocator: the standard collections work on it.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{boxed::Box, collections::BTreeMap, string::String, vec, vec::Vec};

use libmempool::{CriticalSection, Pool};
use libmempool_on_target::Region;

static REGION: Region<{ 6 << 10 }> = Region::new();

#[global_allocator]
static HEAP: Pool<CriticalSection> = Pool::empty();

#[embedded_test::tests]
mod tests {
    use super::*;

    #[init]
    fn init() {
        HEAP.init(REGION.take()).unwrap();
    }

    #[test]
    fn boxes_and_vectors_come_from_the_pool() {
        let boxed = Box::new([1u32, 2, 3]);
        assert!(HEAP.contains(boxed.as_ptr().cast()));
        let mut numbers = Vec::new();
        for n in 0..200u32 {
            numbers.push(n);
        }
        assert!(HEAP.contains(numbers.as_ptr().cast()));
        assert_eq!(numbers.iter().sum::<u32>(), 199 * 200 / 2);
        assert_eq!(vec![0u64; 50], [0; 50]);
        assert_eq!(boxed.iter().sum::<u32>(), 6);
        HEAP.validate().unwrap();
        drop((boxed, numbers));
        assert_eq!((HEAP.stats().live_objects, HEAP.stats().bad_frees), (0, 0));
    }

    #[test]
    fn maps_and_strings_give_everything_back() {
        let mut routes = BTreeMap::new();
        for n in 0..20u8 {
            let mut name = String::from("eth");
            name.push(char::from(b'a' + n));
            routes.insert(n, name);
        }
        routes.retain(|n, _| n % 2 == 0);
        assert_eq!(routes.len(), 10);
        assert_eq!(routes[&2], "ethc");
        HEAP.validate().unwrap();
        drop(routes);
        assert_eq!(HEAP.stats().live_objects, 0);
        assert_eq!(HEAP.stats().free_blocks, 1);
    }

    #[test]
    fn exhaustion_reaches_try_reserve() {
        let mut bytes = Vec::<u8>::new();
        assert!(bytes.try_reserve(1 << 20).is_err());
        bytes.try_reserve(1000).unwrap();
        assert_eq!(HEAP.stats().failures, 1);
    }

    #[test]
    #[should_panic]
    fn a_box_too_many_aborts() {
        let _kept: Vec<Box<[u8; 512]>> = (0..32).map(|_| Box::new([0; 512])).collect();
    }
}
