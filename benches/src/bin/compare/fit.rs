//! How much memory blocks of one layout take beyond their own.

use std::alloc::Layout;

use libmempool_bench::heaps;

use crate::{
    results::Row,
    turns::{count, region},
};

const REGION: usize = 16 << 20;

/// A row for every heap: a region is filled until a request fails.
pub fn measure(name: &str, layout: Layout) -> Vec<Row> {
    let mut memory = region(REGION);
    let mut row = |entry: &heaps::Entry| {
        let mut blocks = 0;
        if let Some(mut heap) = (entry.make)(&mut memory) {
            while heap.alloc(layout).is_some() {
                blocks += 1;
            }
        }
        let extra = (count(REGION) / count(blocks * layout.size()) - 1.0) * 100.0;
        Row { extra: (blocks > 0).then_some(extra), ..Row::new(name, entry.name, entry.peer()) }
    };
    heaps::ALL.iter().map(&mut row).collect()
}
