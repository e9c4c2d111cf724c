//! Where packets go: the longest prefix that contains the destination decides.

use heapless::Vec;
use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

use crate::{PortId, config::Port};

/// Most routes there can be.
pub const MAX_ROUTES: usize = 16;

/// One line of the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations it is for.
    pub to: Ipv4Cidr,
    /// The way to them.
    pub via: Via,
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// It is a neighbour on this port.
    Direct(PortId),
    /// A neighbour on this port forwards it.
    Gateway(PortId, Ipv4Address),
    /// There is none, and the sender is told so.
    Nowhere,
}

/// The routing table: sorted by descending prefix length, so that the first match is the longest.
#[derive(Debug, Default)]
pub struct Routes {
    sorted: Vec<Route, MAX_ROUTES>,
}

impl Routes {
    /// The networks of the ports and these routes besides; what exceeds [`MAX_ROUTES`] is left out.
    pub fn new(ports: &[Port], further: &[Route]) -> Self {
        let direct =
            |(id, port): (PortId, &Port)| Route { to: port.cidr.network(), via: Via::Direct(id) };
        let all = ports.iter().enumerate().map(direct).chain(further.iter().copied());
        let mut sorted: Vec<_, MAX_ROUTES> = all.take(MAX_ROUTES).collect();
        sorted.sort_unstable_by_key(|route| core::cmp::Reverse(route.to.prefix_len()));
        Self { sorted }
    }

    /// The port and the neighbour that a packet for `destination` is handed to.
    pub fn next_hop(&self, destination: Ipv4Address) -> Option<(PortId, Ipv4Address)> {
        let route = self.sorted.iter().find(|route| route.to.contains_addr(&destination))?;
        match route.via {
            Via::Direct(port) => Some((port, destination)),
            Via::Gateway(port, gateway) => Some((port, gateway)),
            Via::Nowhere => None,
        }
    }

    /// The table, longest prefixes first.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.sorted.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LAN, PORT, ROUTES, WAN};

    fn next_hop(a: u8, b: u8, c: u8, d: u8) -> Option<(PortId, Ipv4Address)> {
        Routes::new(&PORT, ROUTES).next_hop(Ipv4Address::new(a, b, c, d))
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        assert_eq!(next_hop(172, 16, 99, 7), Some((WAN, Ipv4Address::new(10, 20, 0, 99))));
        assert_eq!(next_hop(172, 16, 98, 7), Some((LAN, Ipv4Address::new(192, 168, 10, 2))));
        assert_eq!(next_hop(172, 32, 0, 1), Some((WAN, Ipv4Address::new(10, 20, 0, 254))));
        assert_eq!(next_hop(192, 168, 10, 9), Some((LAN, Ipv4Address::new(192, 168, 10, 9))));
        assert_eq!(next_hop(198, 19, 255, 255), None);
        assert_eq!(next_hop(198, 20, 0, 0), Some((WAN, Ipv4Address::new(10, 20, 0, 254))));
    }

    #[test]
    fn without_a_default_route_there_may_be_none() {
        assert_eq!(Routes::new(&PORT, &[]).next_hop(Ipv4Address::new(8, 8, 8, 8)), None);
    }
}
