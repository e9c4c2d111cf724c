//! Traces of real programs, replayed through the general path with their contents checked: every
//! `*.trace` file beside this test, and in the folder that `LIBMEMPOOL_TRACES` names.
//!
//! One operation a line: `a id size [align]` allocates, `z id size` allocates zeroed, `r id size`
//! reallocates, `f id` frees, `t thread` says who issues what follows, `#` starts a comment.

mod common;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    ptr::NonNull,
};

use common::{Handle, layout, stamp};
use libmempool::{NoLock, Pool, PoolBuilder};

/// One line of a trace.
#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc { id: usize, size: usize, align: usize, zeroed: bool },
    Realloc { id: usize, size: usize },
    Free { id: usize },
    Thread(usize),
}

fn parse(line: &str) -> Option<Step> {
    let mut words = line.split_whitespace();
    let kind = words.next().filter(|kind| !kind.starts_with('#'))?;
    let mut number = || words.next().map(|word| word.parse().expect("a number"));
    let id = number().expect("an id");
    let step = match kind {
        "a" | "z" => {
            let size = number().expect("a size");
            Step::Alloc { id, size, align: number().unwrap_or(1), zeroed: kind == "z" }
        }
        "r" => Step::Realloc { id, size: number().expect("a size") },
        "f" => Step::Free { id },
        "t" => Step::Thread(id),
        other => panic!("unknown operation {other}"),
    };
    Some(step)
}

/// What is live at an id.
#[derive(Clone, Copy)]
struct Block {
    pointer: NonNull<u8>,
    size: usize,
    align: usize,
    stamp: u64,
}

impl Block {
    /// Programs do ask for nothing; the pool is then asked for one byte.
    fn layout(&self) -> std::alloc::Layout {
        layout(self.size.max(1), self.align)
    }

    fn verify(&self) {
        stamp::verify(self.pointer, self.size, self.stamp);
    }
}

/// A replay: what is live, and how many steps there were.
#[derive(Default)]
struct Replay {
    live: HashMap<usize, Block>,
    live_bytes: usize,
    peak_bytes: usize,
    steps: u64,
}

impl Replay {
    fn step(&mut self, handle: &mut dyn Handle, step: Step) {
        self.steps += 1;
        match step {
            Step::Alloc { id, size, align, zeroed } => self.alloc(handle, id, size, align, zeroed),
            Step::Realloc { id, size } => self.realloc(handle, id, size),
            Step::Free { id } => self.free(handle, id),
            Step::Thread(_) => {}
        }
    }

    fn alloc(&mut self, handle: &mut dyn Handle, id: usize, size: usize, align: usize, zero: bool) {
        let wanted = layout(size.max(1), align);
        let pointer = if zero { handle.alloc_zeroed(wanted) } else { handle.alloc(wanted) };
        let pointer = pointer.expect("room for the trace");
        assert!(pointer.addr().get().is_multiple_of(align));
        if zero {
            stamp::verify_filled(pointer, size, 0);
        }
        self.insert(id, Block { pointer, size, align, stamp: self.steps });
    }

    fn insert(&mut self, id: usize, block: Block) {
        stamp::write(block.pointer, block.size, block.stamp);
        self.live_bytes += block.size;
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        assert!(self.live.insert(id, block).is_none(), "id {id} is live already");
    }

    fn remove(&mut self, id: usize) -> Block {
        let block = self.live.remove(&id).expect("a live id");
        self.live_bytes -= block.size;
        block.verify();
        block
    }

    fn realloc(&mut self, handle: &mut dyn Handle, id: usize, size: usize) {
        let block = self.remove(id);
        let pointer = handle.realloc(block.pointer, block.layout(), size.max(1));
        let pointer = pointer.expect("room for the trace");
        stamp::verify(pointer, size.min(block.size), block.stamp);
        self.insert(id, Block { pointer, size, stamp: self.steps, ..block });
    }

    fn free(&mut self, handle: &mut dyn Handle, id: usize) {
        let block = self.remove(id);
        handle.free(block.pointer).expect("a live block");
    }

    fn free_the_rest(&mut self, handle: &mut dyn Handle) {
        let ids: Vec<_> = self.live.keys().copied().collect();
        for id in ids {
            self.free(handle, id);
        }
    }
}

fn traces() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let more = std::env::var_os("LIBMEMPOOL_TRACES").map(PathBuf::from);
    let in_folder = |folder: PathBuf| {
        let files =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        files.map(|file| file.expect("a readable folder").path())
    };
    let files = [own].into_iter().chain(more).flat_map(in_folder);
    let mut traces: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ext| ext == "trace")).collect();
    traces.sort();
    assert!(!traces.is_empty());
    traces
}

/// Replays every trace on a pool of its own, through the pool itself or through one local cache
/// for each of the trace's threads.
fn replay_all(builder: &PoolBuilder<NoLock>, cached: bool) {
    for path in traces() {
        let text = fs::read_to_string(&path).expect("a readable trace");
        let mut memory = common::Memory::new(128 << 20);
        let pool = builder.clone().build(memory.region()).unwrap();
        pool.defragment();
        let start = pool.stats();
        let replay = replay(&pool, &text, cached);
        pool.validate().unwrap();
        pool.defragment();
        let end = pool.stats();
        assert_eq!(end.live_objects, 0, "{}", path.display());
        assert_eq!((end.failures, end.bad_frees), (0, 0), "{}", path.display());
        assert_eq!((end.free_bytes, end.largest_free), (start.free_bytes, start.largest_free));
        assert!(end.peak_bytes >= replay.peak_bytes);
    }
}

fn replay(pool: &Pool<'_, NoLock>, text: &str, cached: bool) -> Replay {
    let mut caches = HashMap::new();
    let mut replay = Replay::default();
    let mut thread = 0;
    let mut own = pool;
    for step in text.lines().filter_map(parse) {
        if let Step::Thread(id) = step {
            thread = id;
        }
        if cached {
            replay.step(caches.entry(thread).or_insert_with(|| pool.local_cache()), step);
        } else {
            replay.step(&mut own, step);
        }
    }
    pool.validate().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.live_objects, replay.live.len());
    assert!(stats.live_bytes >= replay.live_bytes);
    replay.free_the_rest(&mut own);
    replay
}

#[test]
fn traces_on_a_heap() {
    replay_all(&Pool::<NoLock>::builder(), false);
}

#[test]
fn traces_on_preset_classes() {
    replay_all(&Pool::<NoLock>::builder().preset_classes(), false);
}

#[test]
fn traces_through_a_cache_for_each_thread() {
    replay_all(&Pool::<NoLock>::builder().alignment(64).preset_classes(), true);
}
