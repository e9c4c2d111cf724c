//! The serial line: a 16550, as the board's reset leaves it, polled.

use core::fmt;

use super::registers::Register;

const BASE: usize = 0x1000_0000;

/// Its interrupt.
pub const INTERRUPT: u32 = 10;

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// The serial line. Output waits for the line: a slow terminal slows the router.
pub struct Uart {
    data: Register<u8>,
    status: Register<u8>,
}

impl Uart {
    /// The line; what is typed wakes the processor.
    pub fn new() -> Self {
        // SAFETY: the board's 16550 has its registers here, a byte apart.
        let register = |offset| unsafe { Register::at(BASE + offset) };
        let interrupt_enable: Register<u8> = register(1);
        interrupt_enable.write(DATA_READY);
        Self { data: register(0), status: register(5) }
    }

    /// A character that was typed.
    pub fn read(&mut self) -> Option<u8> {
        (self.status.read() & DATA_READY != 0).then(|| self.data.read())
    }

    fn put(&mut self, byte: u8) {
        while self.status.read() & TRANSMITTER_EMPTY == 0 {}
        self.data.write(byte);
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}
