//! Layer 3, the heap: boundary-tagged blocks in segregated bins.

mod bins;
mod block;
#[expect(clippy::module_inception, reason = "the heap's operations, beside its parts")]
mod heap;
mod resting;
mod shape;

pub(crate) use block::{Block, Tag};
pub(crate) use heap::{Heap, HeapCounters, Owner, Span};
