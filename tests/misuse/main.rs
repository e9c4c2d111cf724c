//! Misuse: double free, free of interior, foreign, wrong-class and reset pointers, and damaged
//! block tags are typed errors that change nothing, through every path into a pool and in both
//! profiles.

#[path = "../common/mod.rs"]
mod common;

/// The cases in a pool without flags.
#[path = "."]
mod unhardened {
    pub const FLAGS: libmempool::PoolFlags = libmempool::PoolFlags::empty();

    #[path = "cases.rs"]
    mod cases;
}

/// The same with all of them.
#[path = "."]
mod hardened {
    pub const FLAGS: libmempool::PoolFlags = libmempool::PoolFlags::HARDENED;

    #[path = "cases.rs"]
    mod cases;
}
