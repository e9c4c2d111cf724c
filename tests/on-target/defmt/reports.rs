//! Errors, statistics and flags as `defmt` sends them: one frame each, with what Rust's `Debug` says of
//! the same value behind a bar. The host's test `defmt` compares the two.
#![no_std]
#![no_main]

use core::{alloc::Layout, ptr::NonNull};

use defmt::{Debug2Format, println};
use defmt_semihosting as _;
use libmempool::{ClassId, Fault, NoLock, Pool, PoolConfig, PoolFlags, SizeClass};
use libmempool_on_target::{
    Region,
    blocks::{Chain, layout},
};

#[cfg(target_arch = "arm")]
use cortex_m_rt::entry;
#[cfg(target_arch = "riscv32")]
use riscv_rt::entry;

static REGION: Region<3072> = Region::new();
static SECOND: Region<256> = Region::new();

static CONFIG: PoolConfig = PoolConfig::new()
    .size_class(SizeClass::new(24).limit(2))
    .flags(PoolFlags::CANARY)
    .on_fault(|fault: Fault, _| report(&fault), 0);

fn report<T: defmt::Format + core::fmt::Debug>(value: &T) {
    println!("{} | {}", value, Debug2Format(value));
}

#[entry]
fn main() -> ! {
    let flags = [PoolFlags::empty(), PoolFlags::POISON, PoolFlags::HARDENED];
    flags.iter().for_each(|flags| println!("{} | flags", flags));

    let pool = Pool::<NoLock>::empty();
    let block = Layout::new::<[u8; 100]>();
    report(&pool.alloc(block).unwrap_err());
    report(&pool.init(&mut SECOND.take()[..8]).unwrap_err());
    pool.init_with(&CONFIG, REGION.take()).unwrap();
    report(&pool.add_size_class(SizeClass::new(8).limit(0)).unwrap_err());

    report(&pool.alloc(layout(0, 1)).unwrap_err());
    report(&pool.alloc(layout(1 << 20, 1)).unwrap_err());
    report(&pool.alloc_fixed(ClassId::new(7)).unwrap_err());
    // SAFETY: the slots are fresh, and 24 bytes long.
    let (slots, error) = unsafe { Chain::exhaust(|| pool.alloc_fixed(ClassId::new(0))) };
    report(&error);
    report(&pool.stats());
    report(&pool.class_stats(ClassId::new(0)).unwrap());
    misuse(&pool, slots);
    report(&pool.stats());
    semihosting::process::exit(0)
}

/// Frees what must not be freed: the pool reports each itself, as a fault, before the call returns.
fn misuse(pool: &Pool<'static>, mut slots: Chain) {
    let class = ClassId::new(0);
    let block = pool.alloc(layout(100, 4)).unwrap();
    let (slot, other) = (slots.next().unwrap(), slots.next().unwrap());
    let past_its_end = block.map_addr(|addr| addr.checked_add(100).unwrap());
    // SAFETY: what is refused is not freed, what is freed is not used any more, and what is written to
    // stays in the region.
    unsafe {
        report(&pool.free(NonNull::dangling()).unwrap_err());
        report(&pool.free_fixed(class, block).unwrap_err());
        report(&pool.free_fixed(ClassId::new(3), slot).unwrap_err());
        pool.free(slot).unwrap();
        report(&pool.realloc(slot, layout(24, 4), 8).unwrap_err());
        report(&pool.local_cache().free_bulk(class, &[other, other]).unwrap_err());
        let was = past_its_end.replace(0);
        report(&pool.validate().unwrap_err());
        report(&pool.free(block).unwrap_err());
        past_its_end.write(was);
        pool.free(block).unwrap();
    }
}
