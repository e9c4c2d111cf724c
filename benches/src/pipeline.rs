//! Objects from core to core: one thread allocates, writes the first word and sends; another reads it
//! and frees.

use std::{
    alloc::Layout,
    hint::spin_loop,
    ptr::NonNull,
    thread::{self, yield_now},
    time::Instant,
};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::{arena::Arena, cores, job::BATCH};

/// Objects on their way to the other core.
struct Batch([NonNull<u8>; BATCH]);

// SAFETY: who sends objects does not use them any more.
unsafe impl Send for Batch {}

/// Batches that the ring between the two cores holds.
const RING: usize = 32;

/// Batches before the clock starts.
const WARM: usize = 1000;

/// Tries before a thread lets others run.
const PATIENCE: u32 = 10_000;

/// Sends so many batches, the consumer on the second core. Nanoseconds of an object, from core to core;
/// `None`: this allocator cannot.
///
/// # Panics
/// If objects do not arrive as they were sent.
pub fn run(arena: &dyn Arena, layout: Layout, batches: usize) -> Option<f64> {
    let (sender, receiver) = RingBuffer::new(RING);
    thread::scope(|scope| {
        let consumer = scope.spawn(|| consume(arena, layout, receiver, batches));
        let able = produce(arena, layout, sender, batches);
        let took = consumer.join().expect("the consumer ends");
        able.then_some(took?)
    })
}

fn produce(arena: &dyn Arena, layout: Layout, mut sender: Producer<Batch>, batches: usize) -> bool {
    let mut worker = arena.worker();
    let Some(contender) = worker.contender() else { return false };
    for _ in 0..WARM + batches {
        let mut batch = [NonNull::dangling(); BATCH];
        patiently(|| contender.alloc_bulk(layout, &mut batch).then_some(()));
        for object in batch {
            // SAFETY: it was just allocated, with room for a word.
            unsafe { object.cast::<usize>().write(1) };
        }
        let mut waiting = Some(Batch(batch));
        patiently(|| {
            let refused = sender.push(waiting.take()?).err();
            waiting = refused.map(|rtrb::PushError::Full(batch)| batch);
            waiting.is_none().then_some(())
        });
    }
    true
}

/// Nanoseconds of an object, from core to core.
fn consume(
    arena: &dyn Arena,
    layout: Layout,
    mut receiver: Consumer<Batch>,
    batches: usize,
) -> Option<f64> {
    cores::pin(1);
    let mut worker = arena.worker();
    let contender = worker.contender()?;
    let mut start = Instant::now();
    let mut sum = 0;
    for number in 0..WARM + batches {
        if number == WARM {
            start = Instant::now();
        }
        let Batch(batch) = patiently(|| receiver.pop().ok());
        for object in batch {
            // SAFETY: it is live, and the producer wrote the word.
            sum += unsafe { object.cast::<usize>().read() };
        }
        // SAFETY: nobody uses them any more.
        unsafe { contender.free_bulk(layout, &batch) };
    }
    assert_eq!(sum, (WARM + batches) * BATCH, "objects arrive as they were sent");
    let objects = u32::try_from(batches * BATCH).unwrap_or(u32::MAX);
    Some(start.elapsed().as_secs_f64() * 1e9 / f64::from(objects))
}

/// Tries until something comes of it.
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut tries = 0;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        tries += 1;
        if tries % PATIENCE == 0 { yield_now() } else { spin_loop() }
    }
}
