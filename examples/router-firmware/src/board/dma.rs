//! Memory for the cards' queues: from the pool like everything else. The board has no IOMMU and
//! caches that see what devices write, so addresses are what they are.

use core::{alloc::Layout, ptr::NonNull};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::MEMORY;

/// The pool, as the driver wants to see it.
pub struct PoolDma;

fn pages(count: usize) -> Option<Layout> {
    Layout::from_size_align(count.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: the pool's blocks are valid, aligned as their layout asks, zeroed, and nobody else's;
// physical and virtual addresses are the same.
unsafe impl Hal for PoolDma {
    fn dma_alloc(count: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        match pages(count).map(|layout| MEMORY.alloc_zeroed(layout)) {
            Some(Ok(block)) => (physical(block), block),
            // The driver takes this address for a failure.
            _ => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_address: PhysAddr, block: NonNull<u8>, _count: usize) -> i32 {
        // SAFETY: the driver's promise.
        match unsafe { MEMORY.free(block) } {
            Ok(()) => 0,
            Err(_) => -1,
        }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _size: usize) -> NonNull<u8> {
        let pointer = core::ptr::with_exposed_provenance_mut(address as usize);
        NonNull::new(pointer).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        physical(buffer.cast())
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn physical(block: NonNull<u8>) -> PhysAddr {
    block.as_ptr().expose_provenance() as PhysAddr
}
