//! A pool as the program's global allocator: every `Vec`, `Box` and `String` comes out of one
//! static region, by way of a cache for each thread.
//!
//! `cargo run --features std --example global_allocator`

use std::{collections::BTreeMap, error::Error, mem::MaybeUninit};

use libmempool::{PinnedPool, Pool, PoolConfig, PthreadMutex};

// SAFETY: a static stays where it is, and is never dropped.
#[global_allocator]
static HEAP: PinnedPool<PthreadMutex> = unsafe { PinnedPool::new(Pool::empty()) };

/// Gives the pool its region before the first allocation asks for one.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[used]
static INIT: extern "C" fn() = {
    extern "C" fn init() {
        static mut MEMORY: [MaybeUninit<u8>; 8 << 20] = [MaybeUninit::uninit(); 8 << 20];
        let memory = &raw mut MEMORY;
        // SAFETY: this runs once, before `main`, and nothing else names the memory.
        let region = unsafe { &mut *memory };
        // A refusal shows at the first allocation, as out of memory.
        let _ = HEAP.pool().init_with(const { &PoolConfig::new().preset_classes() }, region);
    }
    init
};

fn main() -> Result<(), Box<dyn Error>> {
    let words: BTreeMap<usize, String> = (0..1000).map(|n| (n, "packet ".repeat(n % 50))).collect();
    println!("{} strings", words.len());
    println!("{}", HEAP.pool().stats());
    HEAP.pool().validate()?;
    drop(words);
    let shouted = std::thread::spawn(|| "packet".to_uppercase()).join();
    println!("{}", shouted.unwrap_or_default());
    println!("live once they are gone: {} bytes", HEAP.pool().stats().live_bytes);
    Ok(())
}
