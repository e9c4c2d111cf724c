//! The start and end of an image without any text formatting.

use core::panic::PanicInfo;

use cortex_m as _;
pub fn exit() -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit()
}
