//! Every state that a tiny heap can get into, found breadth first: in each of them every operation is
//! tried and compared with the model. That covers all sequences of these operations, of any length.

mod common;

use std::collections::HashMap;

use common::{FaultySource, Model, Op, Session, Setup, bytes, setup::mapped_range};
use libmempool::{MapKind, NoLock, PageSource, Pages, Pool};

/// What is asked for.
const SIZES: [usize; 4] = [1, 40, 72, 120];

const WORD: usize = size_of::<usize>();

/// An operation on the pool itself.
#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(usize),
    Free(u16),
    Realloc(u16, usize),
}

/// What the heap may read of its region: where everything lies, the table of bins, links and footers.
type State = Vec<usize>;

/// A search through all states of a heap in one place.
struct Search {
    setup: Setup,
    /// The number of each state.
    numbers: HashMap<State, usize>,
    /// By state number: the state before it, and the step from there.
    from: Vec<Option<(usize, Step)>>,
    /// By state number: how many blocks are live.
    live: Vec<usize>,
    transitions: usize,
}

impl Search {
    fn new(bytes: usize) -> Self {
        Self {
            setup: Setup::plain(bytes),
            numbers: HashMap::new(),
            from: Vec::new(),
            live: Vec::new(),
            transitions: 0,
        }
    }

    /// Goes on until there is no state left that was not seen. Returns how many steps away from the
    /// beginning the farthest is.
    fn run(&mut self) -> usize {
        self.visit(None);
        let mut layer = 0..1;
        for depth in 0.. {
            for state in layer.clone() {
                self.try_everything(state);
            }
            layer = layer.end..self.from.len();
            if layer.is_empty() {
                return depth;
            }
        }
        unreachable!("there are finitely many states")
    }

    fn try_everything(&mut self, state: usize) {
        let blocks = 0..u16::try_from(self.live[state]).expect("few blocks");
        let realloc = |block| SIZES.map(|size| Step::Realloc(block, size));
        let steps = SIZES.map(Step::Alloc).into_iter();
        let steps = steps.chain(blocks.clone().map(Step::Free)).chain(blocks.flat_map(realloc));
        for step in steps {
            self.visit(Some((state, step)));
        }
    }

    /// The steps that lead to a state.
    fn path(&self, mut to: Option<(usize, Step)>) -> Vec<Step> {
        let mut path = Vec::new();
        while let Some((state, step)) = to {
            path.push(step);
            to = self.from[state];
        }
        path.reverse();
        path
    }

    /// Goes to a state, known or not, and compares all that is there with the model.
    fn visit(&mut self, from: Option<(usize, Step)>) {
        let pool = Pool::<NoLock>::builder().config(self.setup.config());
        let pool =
            pool.map(FaultySource::default(), self.setup.bytes).expect("a sufficient region");
        let mut model = Model::new(&[mapped_range(&pool)], self.setup.alignment);
        let mut session = Session::new(&pool, &self.setup, &mut model);
        for step in self.path(from) {
            apply(&mut session, step);
        }
        session.model.check_all(&pool);
        self.transitions += 1;
        let number = self.from.len();
        if *self.numbers.entry(state(&pool)).or_insert(number) == number {
            self.from.push(from);
            self.live.push(session.model.live().count());
        }
    }
}

fn apply<P: PageSource>(session: &mut Session<NoLock, P>, step: Step) {
    match step {
        Step::Alloc(size) => session.alloc_layout(0, bytes(size), false),
        Step::Free(which) => session.apply(Op::Free { via: 0, which }),
        Step::Realloc(which, size) => session.realloc_to(0, which, size),
    }
}

/// The state that a pool is in.
fn state(pool: &Pool<'_, NoLock, FaultySource>) -> State {
    let memory = pool.pages().expect("mapped").memory();
    let start = memory.addr().get();
    // Pointers are told apart from everything else by where they point, and count from the start.
    let word = |offset: usize| {
        // SAFETY: in the region, which is all initialised, and the pool is at rest.
        let word = unsafe { memory.cast::<usize>().add(offset / WORD).read() };
        let offset = word.wrapping_sub(start);
        if offset < memory.len() { offset } else { word }
    };
    let mut state = Vec::new();
    for entry in pool.map() {
        let tag = entry.addr - start;
        if state.is_empty() {
            state.extend((0..tag).step_by(WORD).map(word));
        }
        state.extend([tag, usize::from(entry.kind == MapKind::Free)]);
        if entry.kind == MapKind::Free {
            state.extend([WORD, 2 * WORD, entry.size - WORD].map(|offset| word(tag + offset)));
        }
    }
    state
}

/// Of the region. 704 have 300,000 states, and take a minute.
const BYTES: usize = if cfg!(debug_assertions) { 512 } else { 640 };

#[test]
fn every_sequence_agrees_with_the_model() {
    let mut search = Search::new(BYTES);
    let depth = search.run();
    let (states, transitions) = (search.from.len(), search.transitions);
    println!("{states} states, the farthest {depth} steps away; {transitions} transitions");
    assert!(states > 1000);
}
