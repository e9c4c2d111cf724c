//! Advice: which size classes the sizes that were asked for call for.

use core::fmt;

use lock_api::RawMutex;

use super::pool::Pool;
use crate::{
    cache::{Engine, SizeCount},
    error::ConfigError,
    page_source::PageSource,
    slab::{SizeTable, least_request},
    units::{to_u8, to_usize},
};

/// Most classes that one [`Advice`] suggests.
pub const MAX_ADVISED: usize = 16;

/// A class that is suggested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct AdvisedClass {
    /// The size to declare: [`SizeClass::new`](crate::SizeClass::new).
    pub size: usize,
    /// Requests, of those that were counted, that it would have served.
    pub requests: usize,
    /// The bytes that those asked for.
    pub bytes: usize,
    /// Bytes that those would have taken less than they did, with all that is around them; more, if
    /// negative.
    pub saved: isize,
}

/// What [`Pool::advise`] suggests. Bytes are those of all requests together: the part of them that is
/// saved is what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Advice {
    classes: [AdvisedClass; MAX_ADVISED],
    len: usize,
    /// Requests that were counted.
    pub requests: usize,
    /// The bytes that they asked for.
    pub bytes: usize,
    /// What they take as the pool is now, with all that is around them.
    pub present_bytes: usize,
    /// What they would take with the classes suggested, and no others.
    pub advised_bytes: usize,
}

impl Advice {
    /// The classes suggested, from the smallest on.
    pub fn classes(&self) -> &[AdvisedClass] {
        &self.classes[..self.len]
    }

    /// Requests that would be left to the heap.
    pub fn left_to_heap(&self) -> usize {
        self.requests - self.classes().iter().map(|class| class.requests).sum::<usize>()
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent =
            |part: usize, of: usize| part.saturating_mul(100).checked_div(of).unwrap_or(0);
        for class in self.classes() {
            writeln!(
                f,
                "class of {:>7} bytes: {:>3} % of the requests, {:>3} % of the bytes, saves {} bytes",
                class.size,
                percent(class.requests, self.requests),
                percent(class.bytes, self.bytes),
                class.saved
            )?;
        }
        write!(
            f,
            "{} requests for {} bytes take {} now, and would take {}; {} would be left to the heap",
            self.requests,
            self.bytes,
            self.present_bytes,
            self.advised_bytes,
            self.left_to_heap()
        )
    }
}

impl<L: RawMutex, P: PageSource> Pool<'_, L, P> {
    /// Starts to count which sizes are asked for, for [`advise`](Self::advise), in a table of 3 to 4 KiB in
    /// the pool's memory. From now on each allocation takes the lock: this is for the laboratory. A cache
    /// that is in use learns of it the next time it takes the lock. A reset forgets what was counted. With the
    /// crate's feature `flags` (a default).
    ///
    /// # Errors
    /// [`ConfigError::OutOfMemory`], [`ConfigError::NotInitialised`].
    pub fn start_profile(&self) -> Result<(), ConfigError> {
        let engine = &mut self.inner.lock().engine;
        engine.store().first_region().ok_or(ConfigError::NotInitialised)?;
        engine.start_profile()
    }

    /// Suggests up to `most` size classes ([`MAX_ADVISED`] at most) for the requests that were counted so
    /// far: those that leave the least memory unused and the fewest requests to the heap. `None` before
    /// [`start_profile`](Self::start_profile).
    ///
    /// A request without a class weighs a quarter more than it takes, for the time that the heap costs;
    /// a class that would save less than 1/256 of all is not suggested. The same requests give the same
    /// advice. O(sizes² x `most`), some million steps at most, under the lock, with 6 KiB of stack.
    ///
    /// ```
    /// # use std::{alloc::Layout, mem::MaybeUninit};
    /// use libmempool::{NoLock, Pool};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// let pool = Pool::<NoLock>::builder()
    ///     .size_classes(&[2048])                     // one class for all packets: a waste?
    ///     .build(&mut memory)?;
    /// pool.start_profile()?;
    /// for packet in 0..1200 {
    ///     // The simple IMIX: 7 of 40 bytes, 4 of 576, 1 of 1500; and their metadata.
    ///     for size in [[40, 576, 40, 40, 576, 40, 1500, 40, 576, 40, 40, 576][packet % 12], 96] {
    ///         let block = pool.alloc(Layout::from_size_align(size, 8)?)?;
    ///         // SAFETY: the block is not used any more.
    ///         unsafe { pool.free(block)? };
    ///     }
    /// }
    /// let advice = pool.advise(8).expect("the pool counts");
    /// let sizes: Vec<_> = advice.classes().iter().map(|class| class.size).collect();
    /// assert_eq!(sizes, [48, 96, 576, 1504]);
    /// assert_eq!(advice.classes()[1].requests, 1200);
    /// println!("{advice}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advise(&self, most: usize) -> Option<Advice> {
        let engine = &self.inner.lock().engine;
        let counts = engine.profile.counts();
        (!counts.is_empty()).then(|| Advisor::new(engine, counts).advise(most.min(MAX_ADVISED)))
    }
}

/// Buckets of sizes.
const SIZES: usize = SizeTable::BUCKETS;

/// A heap's block costs this part more than its bytes, for the time that it takes: as much as the most
/// that a class may leave unused.
const HEAP_PENALTY: u64 = 4;

/// What a class has to save to be worth having, as a part of all.
const PRICE_SHARE: u64 = 256;

struct Advisor<'e> {
    engine: &'e Engine,
    counts: &'e [SizeCount],
    /// The buckets that anything was asked for of.
    used: [u8; SIZES],
    len: usize,
}

/// A class, as far as it matters here.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes from one slot to the next.
    stride: usize,
    /// Those that an object may use.
    size: usize,
}

impl Shape {
    /// Bytes that the requests of a bucket take if this is the next larger class; `None`: that would waste
    /// too much, and the heap serves them.
    fn serves(self, count: SizeCount) -> Option<u64> {
        (count.largest >= least_request(self.size)).then(|| total(count.requests, self.stride))
    }
}

/// For each number of classes, and each size that the last of them can have, the size of the one before.
type Choices = [[u8; SIZES]; MAX_ADVISED];

/// There is no class before.
const NONE: u8 = u8::MAX;

impl<'e> Advisor<'e> {
    fn new(engine: &'e Engine, counts: &'e [SizeCount]) -> Self {
        const { assert!(SIZES < NONE as usize) };
        let (mut used, mut len) = ([0; SIZES], 0);
        for (bucket, count) in counts.iter().take(SIZES).enumerate() {
            if count.requests > 0 {
                used[len] = to_u8(bucket);
                len += 1;
            }
        }
        Self { engine, counts, used, len }
    }

    fn count(&self, index: usize) -> SizeCount {
        self.counts[usize::from(self.used[index])]
    }

    /// The class for the largest objects of a bucket.
    fn class(&self, index: usize) -> Shape {
        let (granule, overhead) = (self.engine.store().granule(), self.engine.harden().overhead());
        let largest = self.count(index).largest;
        let stride = granule.round_up(largest + overhead).unwrap_or(largest);
        Shape { stride, size: if overhead == 0 { stride } else { largest } }
    }

    /// Bytes of the heap that the requests of a bucket take.
    fn in_heap(&self, count: SizeCount) -> u64 {
        let heap = self.engine.store().heap();
        let block = count.largest.checked_add(self.engine.harden().overhead());
        total(count.requests, block.and_then(|size| heap.block_size(size)).unwrap_or(count.largest))
    }

    /// Bytes that the requests of a bucket take as the pool is.
    fn at_present(&self, count: SizeCount) -> u64 {
        let class = self.engine.slabs.class_of(count.largest);
        let class = class.and_then(|id| self.engine.slabs.class(id));
        let shape = class
            .map(|class| Shape { stride: to_usize(class.shape.stride), size: class.shape.size });
        shape.and_then(|shape| shape.serves(count)).unwrap_or_else(|| self.in_heap(count))
    }

    /// What the requests of a bucket weigh if the heap serves them.
    fn weight_in_heap(&self, index: usize) -> u64 {
        let bytes = self.in_heap(self.count(index));
        bytes.saturating_add(bytes / HEAP_PENALTY)
    }

    /// What the requests of a bucket weigh if the next larger class is another bucket's.
    fn weight(&self, index: usize, class: Shape) -> u64 {
        class.serves(self.count(index)).unwrap_or_else(|| self.weight_in_heap(index))
    }

    /// Chooses the classes: of `n` classes the last of which is `j`, the least weight is that of `n - 1`
    /// classes the last of which is some `i < j`, and of what lies between, whose next larger is `j`.
    fn choose(&self, most: usize) -> ([u8; MAX_ADVISED], usize) {
        let all_in_heap = self.heap_from(0);
        let price = all_in_heap / PRICE_SHARE;
        let mut choices: Choices = [[NONE; SIZES]; MAX_ADVISED];
        let (mut before, mut best) = ([u64::MAX; SIZES], (all_in_heap, 0, NONE));
        for (n, choice) in choices.iter_mut().take(most).enumerate() {
            let mut weights = [u64::MAX; SIZES];
            for j in n..self.len {
                let class = self.class(j);
                let mut between = price;
                for i in (0..=j).rev() {
                    between = between.saturating_add(self.weight(i, class));
                    let below = match i.checked_sub(1) {
                        Some(below) if n > 0 => before[below],
                        None if n == 0 => 0,
                        _ => continue,
                    };
                    let weight = below.saturating_add(between);
                    if weight < weights[j] {
                        weights[j] = weight;
                        choice[j] = i.checked_sub(1).map_or(NONE, to_u8);
                    }
                }
                let whole = weights[j].saturating_add(self.heap_from(j + 1));
                if whole < best.0 {
                    best = (whole, n + 1, to_u8(j));
                }
            }
            before = weights;
        }
        let (_, len, mut last) = best;
        let mut chosen = [NONE; MAX_ADVISED];
        for n in (0..len).rev() {
            chosen[n] = last;
            last = choices[n][usize::from(last)];
        }
        (chosen, len)
    }

    /// What everything from a bucket on weighs in the heap.
    fn heap_from(&self, from: usize) -> u64 {
        (from..self.len).map(|index| self.weight_in_heap(index)).fold(0, u64::saturating_add)
    }

    fn advise(&self, most: usize) -> Advice {
        let (chosen, len) = self.choose(most);
        let mut classes = [AdvisedClass::default(); MAX_ADVISED];
        let (mut requests, mut bytes, mut present, mut advised) = (0_usize, 0_usize, 0_u64, 0_u64);
        for count in self.counts {
            requests = requests.saturating_add(count.requests);
            bytes = bytes.saturating_add(count.bytes);
        }
        let mut next = 0;
        for index in 0..self.len {
            while next < len && usize::from(chosen[next]) < index {
                next += 1;
            }
            let count = self.count(index);
            let now = self.at_present(count);
            let class = (next < len).then(|| self.class(usize::from(chosen[next])));
            let then = class.and_then(|class| class.serves(count));
            if let (Some(class), Some(then)) = (class, then) {
                let entry = &mut classes[next];
                entry.size = class.size;
                entry.requests += count.requests;
                entry.bytes = entry.bytes.saturating_add(count.bytes);
                entry.saved = entry.saved.saturating_add(difference(now, then));
            }
            present = present.saturating_add(now);
            advised = advised.saturating_add(then.unwrap_or_else(|| self.in_heap(count)));
        }
        for &count in self.counts.iter().skip(SIZES) {
            present = present.saturating_add(self.in_heap(count));
            advised = advised.saturating_add(self.in_heap(count));
        }
        Advice {
            classes,
            len,
            requests,
            bytes,
            present_bytes: clamp(present),
            advised_bytes: clamp(advised),
        }
    }
}

fn total(requests: usize, bytes: usize) -> u64 {
    let widen = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    widen(requests).saturating_mul(widen(bytes))
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn difference(now: u64, then: u64) -> isize {
    let part = |bytes: u64| isize::try_from(bytes).unwrap_or(isize::MAX);
    part(now.saturating_sub(then)) - part(then.saturating_sub(now))
}
