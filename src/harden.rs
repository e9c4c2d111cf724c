#![allow(unsafe_code)] // fills and checks memory that nobody else has
//! What a pool's flags make of a block's memory: how free memory is filled and what shows that it was
//! written to, and what stands behind an object.
//!
//! ```text
//!         start                    start + size          start + room
//! free:   [ 0xDF 0xDF 0xDF ............................ 0xDF ]
//! live:   [ the object            ][ canary ...... ][ seal   ]
//! ```
//!
//! *Room* is what the heap or a class has for an object. With [`PoolFlags::CANARY`] the object ends
//! where its caller asked for it to end, to the byte; canary bytes follow, and the last words, the
//! *seal*, say how long the object is. Both come from the pool's key and where the room ends. No canary
//! byte is zero, nor the first of a seal, so that a string's end written one byte too far shows too.
//!
//! What stands behind an object is read by [`Pool::validate`](crate::Pool::validate) while other
//! threads may be at it, so it is written and read atomically; but what was behind one may be part of the
//! next in the same room.

use core::convert::Infallible;

use crate::{
    asan,
    error::{Corruption, CorruptionKind, FreeError},
    flags::{POISON_WORD, PoolFlags},
    sync::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    units::{WORD, low_u32, to_usize},
};

/// Bytes of a seal: one that is not zero, three that say how much of the room is not the object's, and
/// a check of those.
const SEAL: usize = 2 * size_of::<u32>();

const SEAL_WORDS: usize = SEAL / WORD;

/// The most that a seal can say: more is the slack of a huge block that has shrunk in its place.
const MAX_SLACK: usize = (1 << 24) - 1;

/// Room up to this is filled word by word: a call that fills it at once would take longer.
const FEW_BYTES: usize = 256;

/// Most canary bytes: what lies between them and the seal was never anybody's.
const CANARY: usize = 64;

/// Beside the public flags, as it too keeps requests from the quick ways.
const PROFILE: PoolFlags = PoolFlags::from_bits_retain(1 << 31);

/// A pool's flags, and the key of its canaries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Harden {
    flags: PoolFlags,
    key: usize,
}

impl Harden {
    /// No flags.
    pub(crate) const NONE: Self = Self::new(PoolFlags::empty(), 0);

    pub(crate) const fn new(flags: PoolFlags, key: usize) -> Self {
        Self { flags, key }
    }

    /// The flags that are set; of a crate without them, none.
    #[inline(always)]
    const fn set(self) -> PoolFlags {
        if cfg!(feature = "flags") { self.flags } else { PoolFlags::empty() }
    }

    /// Whether anything is done with memory that becomes free.
    #[inline(always)]
    pub(crate) const fn treats_free(self) -> bool {
        !self.is_off() || asan::ENABLED
    }

    /// Whether objects and their memory are left as they are. Guards are a matter of where they lie.
    #[inline(always)]
    pub(crate) const fn is_off(self) -> bool {
        self.set().difference(PoolFlags::GUARD).is_empty()
    }

    /// Whether freed memory is poisoned.
    #[inline]
    pub(crate) const fn poisons(self) -> bool {
        self.set().contains(PoolFlags::POISON)
    }

    /// Whether a seal stands behind each object.
    #[inline]
    pub(crate) const fn seals(self) -> bool {
        self.set().contains(PoolFlags::CANARY)
    }

    /// Whether the sizes that are asked for are counted.
    #[inline]
    pub(crate) const fn profiles(self) -> bool {
        self.set().contains(PROFILE)
    }

    /// The same, and the sizes that are asked for are counted.
    #[cfg(feature = "flags")]
    pub(crate) const fn profiling(self) -> Self {
        Self { flags: self.flags.union(PROFILE), ..self }
    }

    /// Whether slots are handed out in random order.
    #[inline]
    pub(crate) const fn shuffles(self) -> bool {
        self.set().contains(PoolFlags::RANDOM)
    }

    /// Whether freed objects wait.
    #[inline]
    pub(crate) const fn quarantines(self) -> bool {
        self.set().contains(PoolFlags::QUARANTINE)
    }

    /// Whether there are guards, where there can be.
    pub(crate) const fn guards(self) -> bool {
        self.set().contains(PoolFlags::GUARD)
    }

    /// Whether an object whose room and size these are has just that size.
    pub(crate) const fn is_exact(self, room: usize, size: usize) -> bool {
        self.seals() && room - size < MAX_SLACK
    }

    /// Bytes that an object needs beyond its own.
    #[inline]
    pub(crate) const fn overhead(self) -> usize {
        if self.seals() { SEAL } else { 0 }
    }

    /// Makes room that has become free what the flags ask for; an object of `size` bytes was in it.
    ///
    /// # Safety
    /// The room is valid, and nobody uses it.
    #[inline]
    pub(crate) unsafe fn fill_free(self, start: *mut u8, room: usize, size: usize) {
        asan::open(start, room);
        // SAFETY: the caller's promise.
        unsafe { self.write_free(start, room, size) };
        asan::shut(start, room);
    }

    /// Fills it.
    ///
    /// # Safety
    /// As [`fill_free`](Self::fill_free).
    #[inline]
    unsafe fn write_free(self, start: *mut u8, room: usize, size: usize) {
        let word = match (self.poisons(), self.set().contains(PoolFlags::ZERO_ON_FREE)) {
            (true, _) => POISON_WORD,
            (false, true) => 0,
            (false, false) => return,
        };
        // The words that only the object was in, where they are many.
        let at_once = if room > FEW_BYTES { size / WORD } else { 0 };
        if at_once > 0 {
            // SAFETY: the caller's promise.
            unsafe { start.write_bytes(word.to_ne_bytes()[0], at_once * WORD) };
        }
        for index in at_once..room / WORD {
            // SAFETY: as above: within the room.
            unsafe { Part::word(start, index).store(word) };
        }
    }

    /// Whether memory was left alone since it was filled.
    ///
    /// # Safety
    /// As [`check_free`](Self::check_free).
    #[inline(always)]
    pub(crate) unsafe fn is_filled(self, start: *mut u8, room: usize) -> bool {
        // SAFETY: the caller's promise.
        !self.poisons() || asan::opened(start, room, || differs(unsafe { words(start, room) }) == 0)
    }

    /// Looks for a word that was written to since the memory was filled: the first that is not poison,
    /// and not `ours`. `start` is aligned to words, `room` a multiple of them.
    ///
    /// # Safety
    /// The memory is valid, and nobody uses it.
    #[inline]
    pub(crate) unsafe fn check_free(
        self,
        start: *mut u8,
        room: usize,
        ours: impl Fn(*mut u8) -> bool,
    ) -> Result<(), Corruption> {
        if !self.poisons() {
            return Ok(());
        }
        let is_written = |words: &&[usize]| differs(words) != 0;
        asan::opened(start, room, || {
            // SAFETY: the caller's promise.
            unsafe { words(start, room) }
                .chunks(BATCH)
                .filter(is_written)
                .try_for_each(|words| find_written(start, words, &ours))
        })
    }

    /// Prepares room for an object of `size` bytes that goes out.
    ///
    /// # Safety
    /// The room is valid for at least `size` bytes and the overhead, it ends on a word, and nobody
    /// uses it.
    #[inline]
    pub(crate) unsafe fn hand_out(self, start: *mut u8, room: usize, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.resize(start, room, 0, size) };
    }

    /// Zeroes the room from an offset on, where that is wanted.
    ///
    /// # Safety
    /// As [`hand_out`](Self::hand_out), of this part of the room.
    #[inline]
    unsafe fn zero(self, start: *mut u8, from: usize, room: usize) {
        if self.set().contains(PoolFlags::ZERO_ON_ALLOC) {
            let (start, bytes) =
                (start.wrapping_add(from), room.saturating_sub(self.overhead() + from));
            // SAFETY: the caller's promise.
            asan::opened(start, bytes, || unsafe { start.write_bytes(0, bytes) });
        }
    }

    /// Prepares an object that has grown or shrunk from `old` to `size` bytes where it is.
    ///
    /// # Safety
    /// As [`hand_out`](Self::hand_out), but that the object up to the smaller size is in use.
    #[inline]
    pub(crate) unsafe fn resize(self, start: *mut u8, room: usize, old: usize, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.zero(start, old, room) };
        // SAFETY: as above.
        unsafe { self.seal(start, room, size) };
    }

    /// A number to start random ones from, for a cache at an address; not 0.
    pub(crate) fn seed(self, addr: usize) -> usize {
        mix(self.key ^ addr) | 1
    }

    /// Writes what stands behind an object of `size` bytes.
    ///
    /// # Safety
    /// As [`hand_out`](Self::hand_out); the object itself may be in use.
    #[inline]
    pub(crate) unsafe fn seal(self, start: *mut u8, room: usize, size: usize) {
        // A damaged class may say anything; what is sealed then, or not, does not pass for an object.
        if !self.seals() || room < SEAL {
            return;
        }
        let slack = room.saturating_sub(size).min(MAX_SLACK);
        let end = start.wrapping_add(room);
        let secret = self.secret(end.addr());
        let Ok(()) = each_canary(start, room - slack, room, |part| -> Result<(), Infallible> {
            // SAFETY: within the room.
            unsafe { part.store(secret | ONES) };
            Ok(())
        });
        for (place, word) in seal_at(end).zip(seal_of(secret, slack)) {
            // SAFETY: one of the last words of the room, which ends on a word.
            unsafe { AtomicUsize::from_ptr(place) }.store(word, Relaxed);
        }
    }

    /// Checks what stands behind an object, and returns the object's size.
    ///
    /// # Safety
    /// The room is valid and ends on a word. Nobody changes what stands behind the object but by
    /// mistake.
    #[inline(always)]
    pub(crate) unsafe fn check_seal(
        self,
        start: *mut u8,
        room: usize,
    ) -> Result<usize, Corruption> {
        // SAFETY: the caller's promise.
        if self.seals() { unsafe { self.sealed_size(start, room) } } else { Ok(room) }
    }

    /// As [`check_seal`](Self::check_seal), where there are seals.
    ///
    /// # Safety
    /// As there.
    unsafe fn sealed_size(self, start: *mut u8, room: usize) -> Result<usize, Corruption> {
        // SAFETY: the caller's promise.
        let size = unsafe { self.object_size(start, room) };
        size.map_err(|addr| Corruption { addr, kind: CorruptionKind::Overrun })
    }

    /// The size of the object in some room if nothing behind it was written to, for the quick way.
    ///
    /// # Safety
    /// As [`check_seal`](Self::check_seal).
    #[inline(always)]
    pub(crate) unsafe fn intact_size(self, start: *mut u8, room: usize) -> Option<usize> {
        // SAFETY: the caller's promise.
        if self.seals() { unsafe { self.object_size(start, room) }.ok() } else { Some(room) }
    }

    /// The size of the object in sealed room, or the address of a byte that somebody wrote to.
    ///
    /// # Safety
    /// As [`check_seal`](Self::check_seal).
    #[inline(always)]
    unsafe fn object_size(self, start: *mut u8, room: usize) -> Result<usize, usize> {
        let end = start.wrapping_add(room);
        let secret = self.secret(end.addr());
        let mut seal = [0; SEAL_WORDS];
        for (word, place) in seal.iter_mut().zip(seal_at(end)) {
            // SAFETY: one of the last words of the room, which ends on a word.
            *word = unsafe { AtomicUsize::from_ptr(place) }.load(Relaxed);
        }
        let slack = slack_of(secret, seal[0]);
        let fits = (SEAL..=room).contains(&slack);
        if !fits || seal_of(secret, slack) != seal {
            return Err(end.addr() - SEAL);
        }
        let size = room - slack;
        each_canary(start, size, room, |part| {
            // SAFETY: within the room.
            let differs = unsafe { part.load() } ^ part.of(secret | ONES);
            if differs == 0 { Ok(()) } else { Err(part.addr() + first_byte_of(differs)) }
        })?;
        Ok(size)
    }

    /// As [`check_seal`](Self::check_seal), for a call that was given the object's address.
    ///
    /// # Safety
    /// As [`check_seal`](Self::check_seal).
    #[inline]
    pub(crate) unsafe fn size_of(self, start: *mut u8, room: usize) -> Result<usize, FreeError> {
        // SAFETY: the caller's promise.
        let size = unsafe { self.check_seal(start, room) };
        size.map_err(|found| FreeError::Overrun { addr: start.addr(), at: found.addr })
    }

    /// What only the pool knows of the room that ends at an address.
    #[inline]
    fn secret(self, end: usize) -> usize {
        spread(self.key ^ end)
    }
}

/// With these bits no byte of a word is zero.
const ONES: usize = usize::from_ne_bytes([1; WORD]);

/// A seal: how much of the room is not the object's, with a first byte in memory that is not zero, and a check
/// of it. In words, as everything else there is written.
#[inline]
fn seal_of(secret: usize, slack: usize) -> [usize; SEAL_WORDS] {
    let stored = (low_u32(slack) ^ low_u32(secret)) << 8 | low_u32(secret) >> 24 | 1;
    let check = low_u32((secret ^ slack).wrapping_mul(FACTOR) >> (usize::BITS - u32::BITS));
    let mut bytes = [0; SEAL];
    let (numbers, _) = bytes.as_chunks_mut();
    (numbers[0], numbers[1]) = (stored.to_le_bytes(), check.to_ne_bytes());
    let (words, _) = bytes.as_chunks();
    core::array::from_fn(|index| usize::from_ne_bytes(words[index]))
}

/// The slack that a seal's first word says.
#[inline]
fn slack_of(secret: usize, first: usize) -> usize {
    let stored = first.to_ne_bytes().first_chunk().map_or(0, |&stored| u32::from_le_bytes(stored));
    to_usize(stored >> 8 ^ low_u32(secret)) & MAX_SLACK
}

/// Where the words of a seal are in room that ends there.
#[inline]
fn seal_at(end: *mut u8) -> impl Iterator<Item = *mut usize> {
    (0..SEAL_WORDS).map(move |index| end.cast::<usize>().wrapping_sub(SEAL_WORDS - index))
}

/// Spreads the bits of a word over those above them: the golden ratio's fraction, odd.
#[expect(clippy::cast_possible_truncation, reason = "32-bit targets use the low half")]
const FACTOR: usize = 0x9E37_79B9_7F4A_7C15_u64 as usize;

/// Spreads the bits of a word, over its low half too.
#[inline]
const fn spread(word: usize) -> usize {
    let word = word.wrapping_mul(FACTOR);
    word ^ word >> (usize::BITS / 2)
}

/// Memory as words.
///
/// # Safety
/// It is valid and aligned to words, and nobody else uses it.
#[inline]
unsafe fn words<'m>(start: *mut u8, bytes: usize) -> &'m [usize] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start.cast::<usize>(), bytes / WORD) }
}

/// Words that are compared with poison at once (as a vector), and after how many to look at the outcome.
const RUN: usize = 8;
const BATCH: usize = 512;

/// The bits in which words are not poison.
#[inline(always)]
fn differs(words: &[usize]) -> usize {
    let (runs, rest) = words.as_chunks::<RUN>();
    // Each lane by itself.
    let mut differs = [0; RUN];
    for run in runs {
        for (differs, word) in differs.iter_mut().zip(run) {
            *differs |= word ^ POISON_WORD;
        }
    }
    let rest = rest.iter().fold(0, |all, word| all | word ^ POISON_WORD);
    differs.iter().fold(rest, |all, lane| all | lane)
}

/// The first word that is neither poison nor ours. `start` points into the memory of `words`.
#[cold]
fn find_written(
    start: *mut u8,
    words: &[usize],
    ours: impl Fn(*mut u8) -> bool,
) -> Result<(), Corruption> {
    for word in words {
        let at = start.with_addr(core::ptr::from_ref(word).addr());
        let differs = word ^ POISON_WORD;
        if differs != 0 && !ours(at) {
            let addr = at.addr() + first_byte_of(differs);
            return Err(Corruption { addr, kind: CorruptionKind::FreedMemory });
        }
    }
    Ok(())
}

/// Which byte in memory is the first that is not zero.
fn first_byte_of(word: usize) -> usize {
    word.to_ne_bytes().iter().position(|&byte| byte != 0).unwrap_or(0)
}

/// An aligned word of memory, or a byte of one.
enum Part {
    Word(*mut usize),
    Byte(*mut u8),
}

impl Part {
    /// A word of memory that is aligned to words.
    #[inline(always)]
    fn word(start: *mut u8, index: usize) -> Self {
        Self::Word(start.cast::<usize>().wrapping_add(index))
    }

    fn addr(&self) -> usize {
        match self {
            Self::Word(word) => word.addr(),
            Self::Byte(byte) => byte.addr(),
        }
    }

    /// What this part of the word that it lies in is.
    #[inline]
    fn of(&self, word: usize) -> usize {
        match self {
            Self::Word(_) => word,
            Self::Byte(byte) => word.to_ne_bytes()[byte.addr() % WORD].into(),
        }
    }

    /// # Safety
    /// The part is valid.
    #[inline]
    unsafe fn load(&self) -> usize {
        // SAFETY: the caller's promise; words are aligned.
        unsafe {
            match self {
                Self::Word(word) => AtomicUsize::from_ptr(*word).load(Relaxed),
                Self::Byte(byte) => AtomicU8::from_ptr(*byte).load(Relaxed).into(),
            }
        }
    }

    /// Stores what this part of a word is.
    ///
    /// # Safety
    /// The part is valid.
    #[inline]
    unsafe fn store(&self, word: usize) {
        // SAFETY: the caller's promise; words are aligned.
        unsafe {
            match self {
                Self::Word(at) => AtomicUsize::from_ptr(*at).store(word, Relaxed),
                Self::Byte(byte) => {
                    let value = word.to_ne_bytes()[byte.addr() % WORD];
                    AtomicU8::from_ptr(*byte).store(value, Relaxed);
                }
            }
        }
    }
}

/// Does something with the canary bytes of an object of `size` bytes, in words as far as it can be, up to the
/// first failure. The room is aligned to words, and a multiple of them.
#[inline(always)]
fn each_canary<E>(
    start: *mut u8,
    size: usize,
    room: usize,
    mut work: impl FnMut(Part) -> Result<(), E>,
) -> Result<(), E> {
    let first = size.div_ceil(WORD);
    for offset in size..first * WORD {
        work(Part::Byte(start.wrapping_add(offset)))?;
    }
    let is_canary = |index: &usize| index + SEAL_WORDS < room / WORD;
    for index in (first..first + CANARY / WORD).take_while(is_canary) {
        work(Part::word(start, index))?;
    }
    Ok(())
}

/// Spreads every bit of a word over all of them (the finaliser of `MurmurHash3`, Appleby 2011).
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "32-bit targets use the low half")]
const fn mix(word: usize) -> usize {
    const FIRST: usize = 0xFF51_AFD7_ED55_8CCD_u64 as usize;
    const SECOND: usize = 0xC4CE_B9FE_1A85_EC53_u64 as usize;
    let half = usize::BITS / 2;
    let word = (word ^ word >> half).wrapping_mul(FIRST);
    let word = (word ^ word >> half).wrapping_mul(SECOND);
    word ^ word >> half
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::POISON_BYTE;

    const ALL: Harden = Harden::new(PoolFlags::CANARY.union(PoolFlags::POISON), 0x5EED);

    #[repr(align(8))]
    struct Room([u8; 160]);

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn a_seal_tells_the_size_and_every_changed_byte() {
        for size in 0..=152 {
            let mut memory = Room([0; 160]);
            let start = memory.0.as_mut_ptr();
            // SAFETY: the array is the room.
            unsafe { ALL.hand_out(start, 160, size) };
            // SAFETY: as above.
            assert_eq!(unsafe { ALL.check_seal(start, 160) }, Ok(size));
            let guarded = (size..(size + CANARY).min(152)).chain(152..160);
            for offset in guarded {
                for change in [0xFF, 1, 0x80] {
                    // SAFETY: within the array.
                    unsafe { *start.add(offset) ^= change };
                    // SAFETY: as above.
                    let checked = unsafe { ALL.check_seal(start, 160) };
                    assert!(checked.is_err(), "{size} {offset} {change}");
                    // SAFETY: within the array.
                    unsafe { *start.add(offset) ^= change };
                }
            }
        }
    }

    #[test]
    fn an_object_larger_than_its_room_is_none() {
        let mut memory = Room([0; 160]);
        let start = memory.0.as_mut_ptr();
        for size in [64 - SEAL + 1, 64, 65, 160, usize::MAX] {
            // SAFETY: within the array.
            unsafe { ALL.seal(start, 64, size) };
            // SAFETY: as above.
            assert!(unsafe { ALL.check_seal(start, 64) }.is_err(), "{size}");
            assert!(memory.0[64..].iter().all(|&byte| byte == 0), "nothing is written behind it");
        }
    }

    #[test]
    fn nothing_is_written_around_room_that_is_too_small() {
        let all = Harden::new(PoolFlags::all(), 0x5EED);
        for room in [0, SEAL - 1] {
            for size in [0, room, usize::MAX] {
                let mut memory = Room([1; 160]);
                // SAFETY: within the array.
                unsafe { all.hand_out(memory.0.as_mut_ptr().wrapping_add(64), room, size) };
                assert!(memory.0.iter().all(|&byte| byte == 1), "{room} {size}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn what_follows_an_object_is_not_zero() {
        for key in 0..2000 {
            let harden = Harden::new(PoolFlags::CANARY, key);
            for size in [0, 100, 151, 152] {
                let mut memory = Room([0; 160]);
                // SAFETY: the array is the room.
                unsafe { harden.hand_out(memory.0.as_mut_ptr(), 160, size) };
                assert_ne!(memory.0[size], 0, "{key} {size}");
                let canaries = size..(size + CANARY).min(152);
                assert!(memory.0[canaries].iter().all(|&byte| byte != 0), "{key} {size}");
            }
        }
    }

    #[test]
    fn a_write_to_free_memory_is_found_where_it_is() {
        let mut memory = Room([0; 160]);
        let start = memory.0.as_mut_ptr();
        // SAFETY: the array is the room.
        unsafe { ALL.fill_free(start, 160, 100) };
        for offset in 0..160 {
            // SAFETY: within the array.
            unsafe { *start.add(offset) = 0 };
            // SAFETY: the array is the room.
            let checked = unsafe { ALL.check_free(start, 160, |_| false) };
            let addr = start.addr() + offset;
            assert_eq!(checked, Err(Corruption { addr, kind: CorruptionKind::FreedMemory }));
            // SAFETY: within the array.
            unsafe { *start.add(offset) = POISON_BYTE };
        }
        // SAFETY: the array is the room.
        assert_eq!(unsafe { ALL.check_free(start, 160, |_| false) }, Ok(()));
    }

    #[test]
    fn free_memory_that_was_overwritten_as_a_whole_is_found() {
        for room in (WORD..=160).step_by(WORD) {
            let mut memory = Room([0; 160]);
            let start = memory.0.as_mut_ptr();
            // SAFETY: within the array.
            let is_filled = || unsafe { ALL.is_filled(start, room) };
            assert!(!is_filled(), "{room}");
            // SAFETY: as above.
            let checked = unsafe { ALL.check_free(start, room, |_| false) };
            let kind = CorruptionKind::FreedMemory;
            assert_eq!(checked, Err(Corruption { addr: start.addr(), kind }));
            // SAFETY: as above.
            unsafe { ALL.fill_free(start, room, room) };
            assert!(is_filled(), "{room}");
        }
    }
}
