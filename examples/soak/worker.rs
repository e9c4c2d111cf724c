//! A thread that allocates, frees, exchanges blocks with others, and makes mistakes on purpose.

use std::{
    mem::take,
    ptr::NonNull,
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, Sender},
    },
};

use libmempool::{AllocError, ClassId, FreeError};

use crate::{
    common::{Handle, Packet, Rng, Way, bytes, invert, stamp},
    tally::Tally,
    target::{SIZES, Shared, Target},
};

/// Blocks that a thread keeps at most.
const KEPT: usize = 300;

/// A block on its way: in which pool, how long, what is in it, and of which class if it is a slot.
pub struct Block {
    packet: Packet,
    target: usize,
    size: usize,
    stamp: u64,
    class: Option<ClassId>,
}

pub struct Worker<'a> {
    targets: &'a [Target],
    handles: Vec<Shared>,
    tally: &'a Tally,
    rng: Rng,
    inbox: Receiver<Block>,
    outboxes: Vec<Sender<Block>>,
    kept: Vec<Block>,
}

impl<'a> Worker<'a> {
    pub fn new(
        targets: &'a [Target],
        tally: &'a Tally,
        seed: u64,
        inbox: Receiver<Block>,
        outboxes: Vec<Sender<Block>>,
    ) -> Self {
        let handles = targets.iter().map(|target| target.pool.clone()).collect();
        Self { targets, handles, tally, rng: Rng::new(seed), inbox, outboxes, kept: Vec::new() }
    }

    /// Works until it is told to stop, then until everything is freed.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            for _ in 0..1000 {
                self.turn();
            }
            self.tally.operations.add(1000);
        }
        self.outboxes.clear();
        for block in take(&mut self.kept) {
            self.free(&block);
        }
        // Ends once nobody has an outbox any more.
        while let Ok(block) = self.inbox.recv() {
            self.free(&block);
        }
    }

    fn turn(&mut self) {
        match self.rng.below(10_000) {
            0..4500 => self.allocate(),
            4500..8000 => {
                if let Some(block) = self.pick() {
                    self.free(&block);
                }
            }
            8000..8800 => {
                if let Some(block) = self.pick() {
                    let to = self.rng.below(self.outboxes.len());
                    self.outboxes[to].send(block).expect("workers stay until all is sent");
                }
            }
            8800..9200 => self.receive(),
            9200..9600 => self.resize(),
            9600..9850 => self.misuse(),
            9850..9998 => self.overrun(),
            _ => self.exhaust(),
        }
    }

    fn pick(&mut self) -> Option<Block> {
        let count = self.kept.len();
        (count > 0).then(|| self.kept.swap_remove(self.rng.below(count)))
    }

    fn allocate(&mut self) {
        let target = self.rng.below(self.targets.len());
        let number = self.rng.below(SIZES.len());
        let class = (self.rng.below(2) == 0)
            .then(|| ClassId::new(u8::try_from(number).expect("few classes")));
        let size = if class.is_some() { SIZES[number] } else { 1 + self.rng.below(4000) };
        let handle = &mut self.handles[target];
        let block = match class {
            Some(class) => handle.alloc_fixed(class),
            None => handle.alloc(bytes(size)),
        };
        // In a pool that is exhausted this is a refusal like any other.
        let Ok(pointer) = block else { return };
        let block = Block { packet: Packet(pointer), target, size, stamp: self.rng.next(), class };
        stamp::write(pointer, size, block.stamp);
        self.keep(block);
    }

    fn keep(&mut self, block: Block) {
        self.kept.push(block);
        if self.kept.len() > KEPT
            && let Some(block) = self.pick()
        {
            self.free(&block);
        }
    }

    fn free(&mut self, block: &Block) {
        stamp::verify(block.packet.0, block.size, block.stamp);
        let handle = &mut self.handles[block.target];
        let freed = match block.class {
            Some(class) => handle.free_fixed(class, block.packet.0),
            None => handle.free(block.packet.0),
        };
        freed.expect("a live block can be freed");
    }

    fn receive(&mut self) {
        let blocks: Vec<_> = self.inbox.try_iter().collect();
        self.tally.exchanged.add(blocks.len());
        for block in &blocks {
            self.free(block);
        }
    }

    fn resize(&mut self) {
        let Some(mut block) = self.pick() else { return };
        let size = 1 + self.rng.below(6000);
        let handle = &mut self.handles[block.target];
        let layout = bytes(block.size);
        if let Ok(moved) = handle.realloc(block.packet.0, layout, size) {
            stamp::verify(moved, size.min(block.size), block.stamp);
            block = Block { packet: Packet(moved), size, class: None, ..block };
            stamp::write(moved, size, block.stamp);
        }
        self.keep(block);
    }

    /// Frees what must be refused: pointers into blocks, blocks by a wrong class, and other pools'.
    fn misuse(&mut self) {
        let Some(block) = self.pick() else { return };
        let start = block.packet.0;
        let (target, pointer, way) = match self.rng.below(3) {
            0 if block.size > 1 => {
                let offset = 1 + self.rng.below(block.size - 1);
                (block.target, at(start, offset), Way::ByPointer)
            }
            1 => (1 - block.target, start, *self.rng.pick(Way::ALL)),
            _ => (block.target, start, Way::ByClass),
        };
        // No block is of the class behind the last.
        let class = ClassId::new(u8::try_from(SIZES.len()).expect("few classes"));
        let refused = way.free(&mut self.handles[target], class, pointer);
        self.tally.misuse.injected.add(1);
        self.tally.misuse.detected.add(usize::from(refused.is_err()));
        self.targets[target].misuse.add(1);
        self.keep(block);
    }

    /// Writes a byte behind an object and frees it, which is refused; then heals it.
    fn overrun(&mut self) {
        let Some(block) = self.pick() else { return };
        let target = &self.targets[block.target];
        if target.sealed {
            let overrun = target.overrun.lock().unwrap_or_else(PoisonError::into_inner);
            let behind = at(block.packet.0, block.size);
            // SAFETY: behind an object of a pool with canaries lies a byte of the pool's, which only a check of
            // this object reads; this thread has the object, and the target's lock keeps `validate` away.
            unsafe { invert(behind) };
            let refused = self.handles[block.target].free(block.packet.0);
            // SAFETY: as above.
            unsafe { invert(behind) };
            drop(overrun);
            let found = matches!(refused, Err(FreeError::Overrun { .. }));
            self.tally.overruns.injected.add(1);
            self.tally.overruns.detected.add(usize::from(found));
            target.misuse.add(1);
        }
        self.keep(block);
    }

    /// Takes all there is of one pool, and gives it back.
    fn exhaust(&mut self) {
        let target = self.rng.below(self.targets.len());
        let handle = &mut self.handles[target];
        let size = SIZES[self.rng.below(SIZES.len())];
        let mut blocks = Vec::new();
        let refusal = loop {
            match handle.alloc(bytes(size)) {
                Ok(block) => blocks.push(block),
                Err(error) => break error,
            }
        };
        let is_honest = match refusal {
            AllocError::OutOfMemory { needed, .. } | AllocError::Reserved { needed, .. } => {
                needed == size
            }
            AllocError::Fragmented { largest_free, .. } => largest_free < size,
            _ => false,
        };
        self.tally.exhaustion.injected.add(1);
        self.tally.exhaustion.detected.add(usize::from(is_honest));
        for block in blocks {
            handle.free(block).expect("a live block can be freed");
        }
    }
}

/// A pointer to a byte of, or just behind, a block.
fn at(block: NonNull<u8>, offset: usize) -> NonNull<u8> {
    block.map_addr(|addr| addr.checked_add(offset).expect("inside the region"))
}
