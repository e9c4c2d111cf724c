//! Instructions per operation, ours and other crates'.

use anyhow::{Context, Result};
use libmempool_on_target_host::run;

use crate::{FAST, ICOUNT_SHIFT, TARGET, bars, table};

/// What the image says of one operation.
struct Cost {
    workload: String,
    contender: String,
    operation: String,
    best: f64,
    mean: f64,
    percentile_999: f64,
    worst: f64,
}

impl Cost {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("cost\t")?.split('\t');
        let mut text = || fields.next().map(str::to_owned);
        let (workload, contender, operation) = (text()?, text()?, text()?);
        let mut number = || fields.next()?.parse().ok();
        let _count: f64 = number()?;
        let (best, mean, percentile_999, worst) = (number()?, number()?, number()?, number()?);
        Some(Self { workload, contender, operation, best, mean, percentile_999, worst })
    }
}

pub fn print() -> Result<()> {
    let output = run(TARGET, &FAST.folder()?.join("costs"), ICOUNT_SHIFT)?;
    let costs: Vec<_> = String::from_utf8(output)?.lines().filter_map(Cost::parse).collect();
    let titles = [
        ("mixed", "Instructions per operation, blocks of 8 to 511 bytes:"),
        ("fixed", "Instructions per operation, objects of 64 bytes:"),
    ];
    for (workload, title) in titles {
        println!("{title}\n");
        print_table(costs.iter().filter(|cost| cost.workload == workload));
    }
    print_bars(&costs)
}

fn print_table<'a>(costs: impl Iterator<Item = &'a Cost>) {
    let head = ["", "operation", "best", "mean", "99.9 %", "worst"];
    let rows = costs.map(|cost| {
        let (contender, operation) = (cost.contender.clone(), cost.operation.clone());
        let [best, p999, worst] =
            [cost.best, cost.percentile_999, cost.worst].map(|figure| format!("{figure:.0}"));
        [contender, operation, best, format!("{:.1}", cost.mean), p999, worst]
    });
    table::print(head, rows);
}

fn print_bars(costs: &[Cost]) -> Result<()> {
    let find = |workload: &str, contender: &str, operation: &str| {
        let found = costs.iter().find(|cost| {
            (&*cost.workload, &*cost.contender, &*cost.operation)
                == (workload, contender, operation)
        });
        found.with_context(|| format!("{contender} was not measured"))
    };
    let cached = "libmempool class, LocalCache";
    for operation in ["alloc", "free"] {
        let ours = find("fixed", cached, operation)?;
        let theirs = find("fixed", "heapless::pool", operation)?;
        let what = format!("{operation} of a class with a cache, mean, half of heapless::pool's");
        bars::print(&what, ours.mean, theirs.mean / 2.0);
        let heap = find("mixed", "libmempool heap", operation)?;
        let rlsf = find("mixed", "rlsf", operation)?;
        bars::print(&format!("{operation} from the heap, mean, rlsf's"), heap.mean, rlsf.mean);
        bars::print(&format!("{operation} from the heap, worst, rlsf's"), heap.worst, rlsf.worst);
        let what = format!("{operation} of a class with a cache, worst over best");
        bars::print(&what, ours.worst / ours.best, 4.0);
    }
    println!();
    Ok(())
}
