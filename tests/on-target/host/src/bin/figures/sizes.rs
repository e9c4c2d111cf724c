//! Flash and memory of minimal images, ours and other crates', and what is large in ours.

use std::{cmp::Reverse, collections::BTreeMap, fs, path::Path};

use anyhow::Result;
use libmempool_on_target_host::Build;
use object::{
    Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolKind,
    elf::{SHF_ALLOC, SHF_WRITE},
};

use crate::{TARGET, bars, table};

/// Images as small as they become.
const SMALL: Build = Build {
    target: TARGET,
    profile: "release",
    features: "figures",
    images: &[
        "size-empty",
        "size-heap",
        "size-pool",
        "size-rlsf",
        "size-talc",
        "size-linked-list-allocator",
        "size-embedded-alloc",
        "size-heapless-pool",
    ],
};

/// Functions that are listed.
const LARGEST: usize = 20;

/// Bytes, as `size` counts them: what is read only, what starts with contents, what starts as zero.
#[derive(Clone, Copy)]
struct Sizes {
    text: u64,
    data: u64,
    bss: u64,
}

impl Sizes {
    fn of(image: &object::File<'_>) -> Self {
        let mut sizes = Self { text: 0, data: 0, bss: 0 };
        for section in image.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            let (is_loaded, is_written) =
                (sh_flags & u64::from(SHF_ALLOC) != 0, sh_flags & u64::from(SHF_WRITE) != 0);
            let place = match (is_loaded, is_written, section.file_range()) {
                (false, ..) => continue,
                (true, false, _) => &mut sizes.text,
                (true, true, Some(_)) => &mut sizes.data,
                (true, true, None) => &mut sizes.bss,
            };
            *place += section.size();
        }
        sizes
    }

    /// What another image has more.
    fn beyond(self, empty: Self) -> Self {
        Self {
            text: self.text - empty.text,
            data: self.data - empty.data,
            bss: self.bss - empty.bss,
        }
    }
}

pub fn print() -> Result<()> {
    let folder = SMALL.folder()?;
    let mut all = Vec::new();
    for image in SMALL.images {
        let bytes = fs::read(folder.join(image))?;
        all.push((*image, Sizes::of(&object::File::parse(&*bytes)?)));
    }
    let empty = all[0].1;
    println!("Bytes beyond an image with nothing but start-up code and a region of 16 KiB:\n");
    let rows = all.iter().map(|(image, sizes)| {
        let Sizes { text, data, bss } = match *image {
            "size-empty" => *sizes,
            _ => sizes.beyond(empty),
        };
        [(*image).to_owned(), text.to_string(), data.to_string(), bss.to_string()]
    });
    table::print(["image", "text", "data", "bss"], rows);
    let [heap, pool] = [all[1].1, all[2].1].map(|sizes| sizes.beyond(empty));
    print_bars(heap, pool);
    for image in ["size-heap", "size-pool"] {
        let functions = functions(&folder.join(image))?;
        println!("Where the code of `{image}` is from:\n");
        print_modules(&functions);
        println!("Its largest functions:\n");
        print_largest(&functions);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "they are small")]
fn print_bars(heap: Sizes, pool: Sizes) {
    bars::print("heap only, text and data in flash", (heap.text + heap.data) as f64, 1536.0);
    bars::print("heap only, data and bss", (heap.data + heap.bss) as f64, 1024.0);
    bars::print("full pool, text and data in flash", (pool.text + pool.data) as f64, 6144.0);
    println!();
}

/// The functions of an image and their bytes, the largest first.
fn functions(image: &Path) -> Result<Vec<(u64, String)>> {
    let bytes = fs::read(image)?;
    let file = object::File::parse(&*bytes)?;
    // Several names may stand for one place.
    let functions: BTreeMap<_, _> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .filter_map(|symbol| Some((symbol.address(), (symbol.size(), symbol.name().ok()?))))
        .collect();
    let mut functions: Vec<_> = functions
        .into_values()
        .map(|(size, name)| (size, format!("{:#}", rustc_demangle::demangle(name))))
        .collect();
    functions.sort_unstable_by_key(|(size, _)| Reverse(*size));
    Ok(functions)
}

fn print_modules(functions: &[(u64, String)]) {
    let mut modules = BTreeMap::new();
    for (size, name) in functions {
        let name = name.trim_start_matches('<');
        let parts: Vec<_> = name.split("::").take(2).collect();
        let module =
            if parts.len() == 2 { parts.join("::") } else { "assembly and aliases".into() };
        *modules.entry(module).or_insert(0) += size;
    }
    let mut modules: Vec<_> = modules.into_iter().collect();
    modules.sort_unstable_by_key(|&(_, size)| Reverse(size));
    let rows = modules.into_iter().map(|(module, size)| [format!("`{module}`"), size.to_string()]);
    table::print(["module", "bytes"], rows);
}

fn print_largest(functions: &[(u64, String)]) {
    let rows = functions.iter().take(LARGEST);
    table::print(
        ["function", "bytes"],
        rows.map(|(size, name)| [format!("`{name}`"), size.to_string()]),
    );
}
