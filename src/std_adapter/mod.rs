//! Layer 8, the adapter to `std-backend`: our traits for its types, and pools that find each
//! thread's cache by themselves.

mod pages;
mod thread_cache;

pub use thread_cache::ThreadCachedPool;
