//! One case: a pool in some state, flipped bits, and what comes of them. It may crash.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
};

use libmempool::{ClassId, NoLock, Pool, PoolFlags, SizeClass};

use crate::{
    common::{Faults, FaultySource, Model, Op, Rng, Session, Setup, bytes},
    metadata::{Kind, Mapped, SmallPool, contains},
};

type SmallSession<'p, 'm> = Session<'p, 'm, 'static, NoLock, FaultySource>;

/// Slots of a magazine: a number that no other block of the pool has where magazines have theirs.
const MAGAZINE: usize = 13;

/// What is done to a pool after the damage.
const AFTERWARDS: usize = 100;

/// Runs a case. `say` hears of each step when it is done.
pub fn run(seed: u64, say: &mut dyn FnMut(&str)) {
    let mut rng = Rng::new(seed);
    let flags = *rng.pick(&[PoolFlags::empty(), PoolFlags::HARDENED]);
    let classes =
        [SizeClass::new(64), SizeClass::new(200).limit(40), SizeClass::new(512).reserve(8)];
    let setup = Setup { flags, magazine: Some(MAGAZINE), ..Setup::plain(48 << 10) };
    let pool = Pool::builder().config(setup.config());
    let pool = pool.map(FaultySource::new(Faults::every(0)), setup.bytes).expect("enough memory");
    let mapped = Mapped::new(pool, MAGAZINE, &classes);
    let regions = mapped.regions();
    let ranges = regions.map(|region| region.addr().get()..region.addr().get() + region.len());
    let mut model = Model::new(&ranges, setup.alignment);
    model.flags = flags;
    let mut session = Session::new(&mapped.pool, &setup, &mut model);
    for _ in 0..20 + rng.below(200) {
        session.apply(random_op(&mut rng));
    }
    mapped.pool.validate().expect("a pool that was used correctly");

    let (kind, damage) = choose(&mapped, &mut rng);
    say(&kind.to_string());
    for &(addr, bit) in &damage {
        mapped.flip(addr, bit);
    }
    let found = mapped.pool.validate().is_err();
    say(if found { "found" } else { "missed" });
    if found {
        say(use_damaged(&mut session, &mapped, &mut rng));
    } else {
        say(&compare(&mut session, &mapped.pool, &mut rng));
    }
    drop(session);
    say("closed");
}

fn random_op(rng: &mut Rng) -> Op {
    loop {
        let word = rng.next().to_le_bytes();
        let op =
            Op::decode(std::array::from_fn(|i| u16::from_le_bytes([word[2 * i], word[2 * i + 1]])));
        if !matches!(op, Op::Reset) {
            return op;
        }
    }
}

/// One to three bits in data of one kind.
fn choose(mapped: &Mapped, rng: &mut Rng) -> (Kind, Vec<(usize, usize)>) {
    let ranges = mapped.ranges();
    let kind = loop {
        let kind = *rng.pick(Kind::ALL);
        if ranges.iter().any(|(of, _)| *of == kind) {
            break kind;
        }
    };
    let of_kind = ranges.into_iter().filter(|(of, _)| *of == kind);
    let bytes: Vec<_> = of_kind.flat_map(|(_, range)| range).collect();
    let mut damage: Vec<_> =
        (0..=rng.below(3)).map(|_| (*rng.pick(&bytes), rng.below(8))).collect();
    damage.sort_unstable();
    damage.dedup(); // the same bit twice is none
    (kind, damage)
}

/// Goes on as if nothing had happened, every result compared with the model.
fn compare(session: &mut SmallSession<'_, '_>, pool: &SmallPool, rng: &mut Rng) -> String {
    let compared = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..AFTERWARDS {
            session.apply(random_op(rng));
        }
        session.model.check_all(pool);
    }));
    match compared {
        Ok(()) => "harmless".to_owned(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_default().replace('\n', " ");
            // The pool noticed by itself when it came by the damage.
            let typed = ["Corrupted", "Corruption", "corrupted", "damaged"];
            let later = typed.iter().any(|word| text.contains(word));
            format!("{} {text}", if later { "later" } else { "wrong" })
        }
    }
}

/// Goes on with a pool that is known to be damaged: any answer will do, but it must be one.
fn use_damaged(session: &mut SmallSession<'_, '_>, mapped: &Mapped, rng: &mut Rng) -> &'static str {
    let live: Vec<_> = session.model.live().map(|block| block.pointer).collect();
    let used = catch_unwind(AssertUnwindSafe(|| {
        let mut blocks = live;
        for _ in 0..AFTERWARDS {
            if !step(session, mapped, &mut blocks, rng) {
                return false;
            }
        }
        true
    }));
    match used {
        Ok(true) => "survived",
        Ok(false) => "outside",
        Err(_) => "panicked",
    }
}

/// A random call; returns whether it gave out nothing but memory of the regions.
fn step(
    session: &mut SmallSession<'_, '_>,
    mapped: &Mapped,
    blocks: &mut Vec<NonNull<u8>>,
    rng: &mut Rng,
) -> bool {
    let pool = &mapped.pool;
    let class = ClassId::new(u8::try_from(rng.below(3)).expect("small"));
    let via = u16::try_from(rng.below(8)).expect("small");
    let handle = session.via(via);
    let block = match rng.below(8) {
        0 | 1 => handle.alloc(bytes(1 + rng.below(3000))).ok(),
        2 => handle.alloc_fixed(class).ok(),
        3..6 if !blocks.is_empty() => {
            let _ = handle.free(blocks.swap_remove(rng.below(blocks.len())));
            None
        }
        6 => {
            handle.flush();
            let _ = pool.defragment();
            None
        }
        _ => {
            let _ = (pool.stats(), pool.validate(), pool.map().count());
            None
        }
    };
    blocks.extend(block);
    block.is_none_or(|block| {
        mapped.regions().into_iter().any(|region| contains(region, block.addr().get()))
    })
}
