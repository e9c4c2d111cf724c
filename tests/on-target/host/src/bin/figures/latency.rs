//! How long interrupts wait at most.

use anyhow::Result;
use libmempool_on_target_host::run;

use crate::{FAST, ICOUNT_SHIFT, TARGET, table};

pub fn print() -> Result<()> {
    let output = String::from_utf8(run(TARGET, &FAST.folder()?.join("latency"), ICOUNT_SHIFT)?)?;
    println!("Longest stretch with interrupts off, `Pool<CriticalSection>`:\n");
    let rows = output.lines().filter_map(|line| {
        let (operation, most) = line.strip_prefix("latency\t")?.split_once('\t')?;
        Some([operation.to_owned(), most.to_owned()])
    });
    table::print(["", "instructions"], rows);
    Ok(())
}
