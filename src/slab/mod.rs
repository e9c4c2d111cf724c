//! Layer 4, slabs: equal slots without headers, and the map that tells them from heap blocks.

mod guarded;
mod size_class;
#[expect(clippy::module_inception, reason = "one slab, beside the map and the set of all")]
mod slab;
mod slab_map;
mod slabs;
mod store;
mod table;
mod walk;

pub(crate) use size_class::{Class, MAX_CLASS_SIZE, SizeTable, SlabShape, least_request};
pub(crate) use slab::{Home, Slab, SlabList, SlotCounts, SlotRef, SlotState, StateByte};
pub(crate) use slab_map::{PieceEntry, PieceKind, Reciprocal, SlabMap, SlabPlace};
pub(crate) use slabs::{Slabs, Slot};
pub(crate) use store::{RegionEntry, Signals, Store};
pub(crate) use table::Table;
pub(crate) use walk::{Walk, Walked};
