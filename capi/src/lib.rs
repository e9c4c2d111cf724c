//! The C library: `include/memory_pool.h` over `libmempool`. The header is its documentation; here
//! is how its promises are kept.
//!
//! Each function of the header is one function here, in the file for its part of the header, and
//! each is one [`call`]: the handle is checked, an unwinding stops, and a failure becomes the
//! thread's last error. Nothing here allocates but from the pool at hand.
//!
//! The layers: `error` (codes, the last error), `config` (what `pool_config_t` asks for), `reports` (what the
//! program is to hear of when a call is over), `memory` (pages that begin with the handle), `handle` (what a `memory_pool_t` is), then the functions.

mod error;

mod config;
mod memory;
mod reports;

mod handle;

mod alloc;
mod classes;
mod create;
mod inspect;
mod local;
mod tune;
