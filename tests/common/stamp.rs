//! Contents that tell which block they belong to.

use std::{ptr::NonNull, sync::LazyLock};

use super::Rng;

/// Where stamps start in the pattern.
const STARTS: u64 = 4093;
/// Bytes that are written or compared at once.
const CHUNK: usize = 16 << 10;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng::new(7);
    let words = CHUNK / 8 + 512;
    (0..words).flat_map(|_| rng.next().to_le_bytes()).collect()
});

/// What the chunk at `offset` of a block with this stamp contains.
fn chunk(stamp: u64, offset: usize, len: usize) -> &'static [u8] {
    let mixed = Rng::new(stamp).next().wrapping_add(u64::try_from(offset).expect("64-bit offset"));
    let start = usize::try_from(mixed % STARTS).expect("a small number");
    &PATTERN[start..start + len]
}

fn chunks(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(CHUNK).map(move |offset| (offset, CHUNK.min(len - offset)))
}

/// Fills a block.
pub fn write(block: NonNull<u8>, len: usize, stamp: u64) {
    for (offset, part) in chunks(len) {
        let from = chunk(stamp, offset, part);
        // SAFETY: the caller owns a live block of `len` bytes.
        unsafe { block.add(offset).copy_from_nonoverlapping(NonNull::from(from).cast(), part) };
    }
}

/// Panics unless the first `len` bytes of a block are as [`write`] left them.
#[track_caller]
pub fn verify(block: NonNull<u8>, len: usize, stamp: u64) {
    for (offset, part) in chunks(len) {
        let found = bytes_of(block, offset, part);
        assert!(found == chunk(stamp, offset, part), "contents lost in {block:?} + {offset}");
    }
}

/// Panics unless the first `len` bytes of a block are `byte`.
#[track_caller]
pub fn verify_filled(block: NonNull<u8>, len: usize, byte: u8) {
    let expected = vec![byte; CHUNK.min(len)];
    for (offset, part) in chunks(len) {
        let found = bytes_of(block, offset, part);
        assert!(found == &expected[..part], "{block:?} + {offset} is not all {byte:#x}");
    }
}

fn bytes_of<'a>(block: NonNull<u8>, offset: usize, len: usize) -> &'a [u8] {
    // SAFETY: the caller owns a live block that is long enough, and has written it.
    unsafe { std::slice::from_raw_parts(block.as_ptr().add(offset), len) }
}
