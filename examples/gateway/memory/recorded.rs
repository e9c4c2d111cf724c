//! A log of everything the data plane allocates: a wrapper around another memory that writes an
//! allocation trace.
//!
//! One operation a line, as `libmempool-bench` replays them:
//!
//! ```text
//! a id size [align]    allocated (align if above 16)
//! z id size            allocated, zeroed
//! r id size            resized
//! f id                 freed
//! t thread             the lines that follow are this thread's
//! ```
//!
//! The order is true for each block: an allocation is logged after it was made, a free before it
//! is, and a resize forgets the old place before and learns the new one after. So no address is
//! live twice in the log, whatever the threads do between.
#![expect(unsafe_code, reason = "an allocator passes raw memory on")]

use std::alloc::Layout;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use allocator_api2::alloc::{AllocError, Allocator};

use super::{PacketCache, PacketMemory, Usage};
use crate::packet::{BUFFER_ALIGN, BUFFER_SIZE, Burst};
use crate::vpn::Session;

/// The alignment that every block has without being asked.
const DEFAULT_ALIGN: usize = 16;

/// A memory whose every allocation is logged.
pub struct Recorded<'m, M> {
    memory: &'m M,
    log: Log,
}

impl<'m, M: PacketMemory> Recorded<'m, M> {
    pub fn new(memory: &'m M) -> Self {
        Self { memory, log: Log::default() }
    }

    /// Writes the trace, under a first line that says what it is of.
    pub fn write(self, mut out: impl Write, workload: &str) -> io::Result<()> {
        let trace = self.log.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Trace { threads, ops, peak_bytes, peak_blocks, lines, .. } = trace;
        write!(out, "# name: gateway  program: the gateway example of libmempool  ")?;
        write!(out, "workload: {workload}  threads: {}  ops: {ops}  ", threads.len())?;
        writeln!(out, "peak_live_bytes: {peak_bytes}  peak_live_blocks: {peak_blocks}")?;
        out.write_all(lines.as_bytes())?;
        out.flush()
    }
}

impl<M: PacketMemory> PacketMemory for Recorded<'_, M> {
    type Cache<'a>
        = RecordedCache<'a, M::Cache<'a>>
    where
        Self: 'a;
    type Tables<'a>
        = RecordedTables<'a, M::Tables<'a>>
    where
        Self: 'a;
    type Session<'a>
        = RecordedSession<'a, M::Session<'a>>
    where
        Self: 'a;

    fn cache(&self) -> Self::Cache<'_> {
        RecordedCache { cache: self.memory.cache(), log: &self.log }
    }

    fn tables(&self) -> Self::Tables<'_> {
        RecordedTables { tables: self.memory.tables(), log: &self.log }
    }

    fn session(&self, session: Session) -> Option<Self::Session<'_>> {
        let session = self.memory.session(session)?;
        self.log.open().allocated("a", address(&session), Layout::new::<Session>());
        Some(RecordedSession { session, log: &self.log })
    }

    fn usage(&self) -> Option<Usage> {
        self.memory.usage()
    }
}

/// One thread's packet buffers, logged burst by burst.
pub struct RecordedCache<'m, C> {
    cache: C,
    log: &'m Log,
}

impl<C: PacketCache> PacketCache for RecordedCache<'_, C> {
    fn fill(&mut self, burst: &mut Burst, wanted: usize) {
        const BUFFER: (usize, usize) = (BUFFER_SIZE, BUFFER_ALIGN);
        let before = burst.len();
        self.cache.fill(burst, wanted);
        let mut trace = self.log.open();
        for packet in &burst[before..] {
            trace.allocated_as("a", packet.address(), BUFFER);
        }
    }

    fn free(&mut self, burst: &mut Burst) {
        let mut trace = self.log.open();
        for packet in &*burst {
            trace.freed(packet.address());
        }
        drop(trace);
        self.cache.free(burst);
    }

    fn rest(&mut self) {
        self.cache.rest();
    }
}

/// Memory for tables, logged call by call.
#[derive(Clone, Copy)]
pub struct RecordedTables<'m, A> {
    tables: A,
    log: &'m Log,
}

impl<A: Allocator> RecordedTables<'_, A> {
    /// Logs a resize around `resize`, which does it. A resize that fails leaves no line.
    fn resized(
        &self,
        old: NonNull<u8>,
        new: Layout,
        resize: impl FnOnce(&A) -> Result<NonNull<[u8]>, AllocError>,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.log.open().forget(old.addr().get());
        let result = resize(&self.tables);
        let mut trace = self.log.open();
        match &result {
            Ok(moved) => trace.resized(block, moved.addr().get(), new.size()),
            Err(AllocError) => trace.learn(block, old.addr().get()),
        }
        result
    }
}

// SAFETY: all memory is the wrapped allocator's, which gets every call as it came.
unsafe impl<A: Allocator> Allocator for RecordedTables<'_, A> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.tables.allocate(layout)?;
        self.log.open().allocated("a", block.addr().get(), layout);
        Ok(block)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.tables.allocate_zeroed(layout)?;
        self.log.open().allocated("z", block.addr().get(), layout);
        Ok(block)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 {
            self.log.open().freed(block.addr().get());
        }
        // SAFETY: the caller's promise.
        unsafe { self.tables.deallocate(block, layout) };
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promise.
        self.resized(block, new, |tables| unsafe { tables.grow(block, old, new) })
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promise.
        self.resized(block, new, |tables| unsafe { tables.shrink(block, old, new) })
    }
}

/// A VPN session whose end is logged.
pub struct RecordedSession<'m, S: DerefMut<Target = Session>> {
    session: S,
    log: &'m Log,
}

impl<S: DerefMut<Target = Session>> Deref for RecordedSession<'_, S> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl<S: DerefMut<Target = Session>> DerefMut for RecordedSession<'_, S> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl<S: DerefMut<Target = Session>> Drop for RecordedSession<'_, S> {
    fn drop(&mut self) {
        self.log.open().freed(address(&self.session)); // the field goes after this
    }
}

/// Where a session lies.
fn address(session: &Session) -> usize {
    std::ptr::from_ref(session).addr()
}

/// The log, from any thread.
#[derive(Default)]
struct Log(Mutex<Trace>);

impl Log {
    /// The trace, from now on with this thread's lines.
    fn open(&self) -> MutexGuard<'_, Trace> {
        let mut trace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trace.switch_to(thread::current().id());
        trace
    }
}

/// A live block: its number in the log, and its size.
#[derive(Clone, Copy)]
struct Block {
    id: usize,
    size: usize,
}

/// The lines so far, and what is live at their end.
#[derive(Default)]
struct Trace {
    lines: String,
    ops: usize,
    /// In the order of their first line.
    threads: Vec<ThreadId>,
    current: usize,
    /// Live blocks by address.
    live: HashMap<usize, Block>,
    live_bytes: usize,
    /// Numbers whose blocks were freed, to be used again; and the first that never was used.
    unused: Vec<usize>,
    next: usize,
    peak_bytes: usize,
    peak_blocks: usize,
}

impl Trace {
    fn switch_to(&mut self, thread: ThreadId) {
        let known = self.threads.iter().position(|&id| id == thread);
        let number = known.unwrap_or_else(|| {
            self.threads.push(thread);
            self.threads.len() - 1
        });
        if number != self.current {
            self.current = number;
            self.line(format_args!("t {number}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.lines, "{line}");
    }

    fn operation(&mut self, line: std::fmt::Arguments<'_>) {
        self.line(line);
        self.ops += 1;
    }

    fn allocated(&mut self, kind: &str, address: usize, layout: Layout) {
        if layout.size() > 0 {
            self.allocated_as(kind, address, (layout.size(), layout.align()));
        }
    }

    fn allocated_as(&mut self, kind: &str, address: usize, (size, align): (usize, usize)) {
        let id = self.unused.pop().unwrap_or(self.next);
        self.next = self.next.max(id + 1);
        if align > DEFAULT_ALIGN {
            self.operation(format_args!("{kind} {id} {size} {align}"));
        } else {
            self.operation(format_args!("{kind} {id} {size}"));
        }
        self.learn(Some(Block { id, size }), address);
    }

    fn freed(&mut self, address: usize) {
        if let Some(Block { id, .. }) = self.forget(address) {
            self.operation(format_args!("f {id}"));
            self.unused.push(id);
        }
    }

    fn resized(&mut self, block: Option<Block>, address: usize, size: usize) {
        if let Some(Block { id, .. }) = block {
            self.operation(format_args!("r {id} {size}"));
            self.learn(Some(Block { id, size }), address);
        }
    }

    fn forget(&mut self, address: usize) -> Option<Block> {
        let block = self.live.remove(&address)?;
        self.live_bytes -= block.size;
        Some(block)
    }

    fn learn(&mut self, block: Option<Block>, address: usize) {
        let Some(block) = block else { return };
        let twice = self.live.insert(address, block);
        debug_assert!(twice.is_none(), "an address is live once");
        self.live_bytes += block.size;
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        self.peak_blocks = self.peak_blocks.max(self.live.len());
    }
}
