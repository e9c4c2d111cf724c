//! What the crate promises, observed from outside: by reading what the kernel says about the
//! process's memory, and by forking children that fault or run into limits.

#![allow(unsafe_code)] // reason: uses mapped memory, forks, asks the kernel

mod guards;
mod huge;
mod limits;
mod mapping;
mod mutex;
mod random;
mod ranges;
mod support;
