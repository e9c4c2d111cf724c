//! Layer 8, the adapter to `std-backend`: our traits for its types, and pools that find each
//! thread's cache by themselves.

mod pages;

mod thread_block;

mod registry;

mod pinned_pool;
mod thread_cache;

pub use pinned_pool::PinnedPool;
pub use thread_cache::ThreadCachedPool;
