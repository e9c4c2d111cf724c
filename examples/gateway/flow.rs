//! The flow table: the verdict on a conversation's first packet holds for the rest of it, in both
//! directions. The table lives in the pool.

use allocator_api2::alloc::Allocator;
use hashbrown::{DefaultHashBuilder, HashMap};

use crate::headers::{FlowKey, Headers};
use crate::rules::{Action, Rules};

/// The flows of one worker.
pub struct FlowTable<A: Allocator> {
    flows: HashMap<FlowKey, Flow, DefaultHashBuilder, A>,
    /// Packets judged by the rules alone, because the table could not grow.
    uncached: u64,
}

struct Flow {
    verdict: Action,
    packets: u64,
}

impl<A: Allocator> FlowTable<A> {
    /// An empty table in memory from `tables`.
    pub fn new(tables: A) -> Self {
        Self { flows: HashMap::new_in(tables), uncached: 0 }
    }

    /// The verdict on a packet: its flow's, or the rules' if this is the flow's first.
    pub fn decide<R: Allocator>(&mut self, packet: &Headers, rules: &Rules<R>) -> Action {
        let key = packet.flow();
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.packets += 1;
            return flow.verdict;
        }
        let verdict = rules.decide(packet);
        // Out of memory is no reason to stop: the next packet of this flow meets the rules again.
        if self.flows.try_reserve(1).is_ok() {
            self.flows.insert(key, Flow { verdict, packets: 1 });
        } else {
            self.uncached += 1;
        }
        verdict
    }

    /// How many flows are known.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Packets of the busiest flow.
    pub fn busiest(&self) -> u64 {
        self.flows.values().map(|flow| flow.packets).max().unwrap_or(0)
    }

    /// How many packets were judged without a place in the table.
    pub fn uncached(&self) -> u64 {
        self.uncached
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::Layout;
    use std::ptr::NonNull;

    use allocator_api2::alloc::{AllocError, Global};

    use super::*;
    use crate::headers::tests::udp_frame;

    /// An allocator that has nothing left.
    struct Empty;

    // SAFETY: it never hands out memory.
    #[expect(unsafe_code, reason = "the trait is unsafe")]
    unsafe impl Allocator for Empty {
        fn allocate(&self, _: Layout) -> Result<NonNull<[u8]>, AllocError> {
            Err(AllocError)
        }

        unsafe fn deallocate(&self, _: NonNull<u8>, _: Layout) {}
    }

    fn first_and_reply() -> (Headers, Headers) {
        let first = Headers::parse(&udp_frame(53, b"?")).expect("well formed").expect("IP");
        (first, Headers { source: first.destination, destination: first.source, ..first })
    }

    #[test]
    fn a_reply_belongs_to_the_flow_it_answers() {
        let rules = Rules::parse(b"allow udp any any:53", Global).expect("good rules");
        let (first, reply) = first_and_reply();
        let mut table = FlowTable::new(Global);
        assert_eq!(table.decide(&reply, &rules), Action::Deny, "nobody asked");
        let mut table = FlowTable::new(Global);
        assert_eq!(table.decide(&first, &rules), Action::Allow);
        assert_eq!(table.decide(&reply, &rules), Action::Allow);
        assert_eq!((table.len(), table.busiest(), table.uncached()), (1, 2, 0));
    }

    #[test]
    fn without_memory_the_rules_still_hold() {
        let rules = Rules::parse(b"allow udp any any:53", Global).expect("good rules");
        let (first, reply) = first_and_reply();
        let mut table = FlowTable::new(Empty);
        assert_eq!(table.decide(&first, &rules), Action::Allow);
        assert_eq!(table.decide(&reply, &rules), Action::Deny);
        assert_eq!((table.len(), table.uncached()), (0, 2));
    }
}
