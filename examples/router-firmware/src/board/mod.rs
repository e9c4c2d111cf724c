//! QEMU's RISC-V board `virt`, as far as the router needs it. Everything here is polled: interrupts
//! only end the wait for something to do, so there are no handlers, and nothing is shared.

pub mod dma;
pub mod interrupts;
pub mod nic;
pub mod power;
pub mod registers;
pub mod stack;
pub mod timer;
pub mod uart;
