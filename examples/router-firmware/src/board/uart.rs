//! The serial line: a 16550, as the board's reset leaves it, polled.

use core::fmt;

use super::registers::Register;

const BASE: usize = 0x1000_0000;

/// Its interrupt.
pub const INTERRUPT: u32 = 10;

// SAFETY: the board's 16550 has its registers here, a byte apart.
const DATA: Register<u8> = unsafe { Register::at(BASE) };
// SAFETY: as above.
const INTERRUPT_ENABLE: Register<u8> = unsafe { Register::at(BASE + 1) };
// SAFETY: as above.
const LINE_STATUS: Register<u8> = unsafe { Register::at(BASE + 5) };

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// The serial line. Output waits for the line: a slow terminal slows the router.
pub struct Uart;

impl Uart {
    /// The line; what is typed wakes the processor.
    pub fn new() -> Self {
        INTERRUPT_ENABLE.write(DATA_READY);
        Self
    }

    /// A character that was typed.
    pub fn read(&mut self) -> Option<u8> {
        (LINE_STATUS.read() & DATA_READY != 0).then(|| DATA.read())
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    while LINE_STATUS.read() & TRANSMITTER_EMPTY == 0 {}
    DATA.write(byte);
}
