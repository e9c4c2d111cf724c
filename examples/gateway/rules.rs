//! The firewall's rules: the file format, and the match of a packet against the list.
//!
//! ```text
//! # comment
//! default deny
//! allow udp  192.168.10.0/24  10.20.0.53:53
//! deny  tcp  any              any:23
//! allow tcp  any              [fd00:20::80]:80-443
//! allow      any              10.20.0.0/16
//! ```
//!
//! `allow|deny [protocol] source[:ports] destination[:ports]`, the first match decides. The list
//! lives in the pool.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec;
use etherparse::IpNumber;
use ipnet::IpNet;

use crate::headers::{Endpoint, Headers};

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
}

/// The rules of a file, in its order.
#[derive(Debug)]
pub struct Rules<A: Allocator> {
    list: Vec<Rule, A>,
    default: Action,
}

#[derive(Debug)]
struct Rule {
    action: Action,
    protocol: Protocol,
    source: Target,
    destination: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Any,
    Tcp,
    Udp,
    /// ICMP for IPv4 and for IPv6.
    Icmp,
}

/// One side of a rule.
#[derive(Debug)]
struct Target {
    network: Network,
    /// `None` is every port, and no port.
    ports: Option<RangeInclusive<u16>>,
}

#[derive(Debug)]
enum Network {
    Any,
    Only(IpNet),
}

/// A rules file that can't be used, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct RulesError {
    line: usize,
    column: usize,
    problem: String,
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.problem)
    }
}

impl<A: Allocator> Rules<A> {
    /// Reads a rules file into memory from `tables`. Without a `default` line, it is `deny`.
    pub fn parse(file: &[u8], tables: A) -> Result<Self, RulesError> {
        let mut rules = Self { list: Vec::new_in(tables), default: Action::Deny };
        for (index, line) in text(file)?.lines().enumerate() {
            let statement = line.split('#').next().unwrap_or_default();
            let mut words = Words::new(statement, index + 1);
            if let Some(verb) = words.next() {
                rules.statement(verb, &mut words)?;
            }
        }
        Ok(rules)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The verdict of the first rule that matches, or of the default.
    pub fn decide(&self, packet: &Headers) -> Action {
        let hit = self.list.iter().find(|rule| rule.matches(packet));
        hit.map_or(self.default, |rule| rule.action)
    }

    fn statement(&mut self, verb: Word<'_>, words: &mut Words<'_>) -> Result<(), RulesError> {
        if verb.text == "default" {
            let action = words.require("'allow' or 'deny'")?;
            self.default = parse_action(action.text).ok_or_else(|| {
                words.error(action, format!("expected 'allow' or 'deny', not '{}'", action.text))
            })?;
        } else {
            let action = parse_action(verb.text)
                .ok_or_else(|| words.error(verb, format!("unknown action '{}'", verb.text)))?;
            let rule = parse_rule(action, words)?;
            self.list
                .try_reserve(1)
                .map_err(|_| words.error(verb, "no memory for this rule".into()))?;
            self.list.push(rule);
        }
        match words.next() {
            Some(extra) => Err(words.error(extra, format!("unexpected '{}'", extra.text))),
            None => Ok(()),
        }
    }
}

impl Rule {
    fn matches(&self, packet: &Headers) -> bool {
        self.protocol.matches(packet.protocol)
            && self.source.matches_address(packet.source.address)
            && self.destination.matches_address(packet.destination.address)
            && self.matches_ports(packet)
    }

    /// A fragment's ports are unknown: `deny` assumes that they match, `allow` that they do not.
    fn matches_ports(&self, packet: &Headers) -> bool {
        let named = self.source.ports.is_some() || self.destination.ports.is_some();
        if named && packet.fragment {
            return self.action == Action::Deny;
        }
        self.source.matches_port(packet.source) && self.destination.matches_port(packet.destination)
    }
}

impl Protocol {
    fn matches(self, number: IpNumber) -> bool {
        match self {
            Self::Any => true,
            Self::Tcp => number == IpNumber::TCP,
            Self::Udp => number == IpNumber::UDP,
            Self::Icmp => number == IpNumber::ICMP || number == IpNumber::IPV6_ICMP,
        }
    }
}

impl Target {
    fn matches_address(&self, address: IpAddr) -> bool {
        match self.network {
            Network::Any => true,
            Network::Only(network) => network.contains(&address),
        }
    }

    fn matches_port(&self, endpoint: Endpoint) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&endpoint.port))
    }
}

/// The file's text, or where it stops being text.
fn text(file: &[u8]) -> Result<&str, RulesError> {
    std::str::from_utf8(file).map_err(|error| {
        let before = String::from_utf8_lossy(&file[..error.valid_up_to()]);
        let last_line = before.rsplit('\n').next().unwrap_or_default();
        RulesError {
            line: 1 + before.matches('\n').count(),
            column: 1 + last_line.chars().count(),
            problem: "not text (UTF-8)".into(),
        }
    })
}

fn parse_action(word: &str) -> Option<Action> {
    match word {
        "allow" => Some(Action::Allow),
        "deny" => Some(Action::Deny),
        _ => None,
    }
}

/// `[protocol] source destination`
fn parse_rule(action: Action, words: &mut Words<'_>) -> Result<Rule, RulesError> {
    let mut word = words.require("a protocol or a source")?;
    let mut protocol = Protocol::Any;
    if word.text != "any"
        && word.text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !word.text.contains(':')
    {
        protocol = parse_protocol(word, words)?;
        word = words.require("a source")?;
    }
    let source = parse_target(word, protocol, words)?;
    let word = words.require("a destination")?;
    let destination = parse_target(word, protocol, words)?;
    Ok(Rule { action, protocol, source, destination })
}

fn parse_protocol(word: Word<'_>, words: &Words<'_>) -> Result<Protocol, RulesError> {
    match word.text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        other => Err(words.error(word, format!("unknown protocol '{other}'"))),
    }
}

/// `any`, an address or a network, each with `:port` or `:first-last`; IPv6 with ports in brackets.
fn parse_target(
    word: Word<'_>,
    protocol: Protocol,
    words: &Words<'_>,
) -> Result<Target, RulesError> {
    let (network, ports) = split_ports(word.text);
    let network = parse_network(network)
        .ok_or_else(|| words.error(word, format!("'{network}' is not a network")))?;
    let ports = ports
        .map(|text| {
            let problem = || format!("'{text}' is not a port or a range of ports");
            parse_ports(text).ok_or_else(|| words.error(word, problem()))
        })
        .transpose()?;
    if ports.is_some() && !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        return Err(words.error(word, "ports need 'tcp' or 'udp' before the source".into()));
    }
    Ok(Target { network, ports })
}

fn split_ports(word: &str) -> (&str, Option<&str>) {
    if let Some((network, rest)) = word.strip_prefix('[').and_then(|word| word.split_once(']')) {
        return (network, rest.strip_prefix(':'));
    }
    match word.split_once(':') {
        Some((network, ports)) if !ports.contains(':') => (network, Some(ports)),
        _ => (word, None), // no colon, or the many of IPv6
    }
}

fn parse_network(word: &str) -> Option<Network> {
    if word == "any" {
        return Some(Network::Any);
    }
    let network = word.parse::<IpNet>().ok();
    let network = network.or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(Network::Only)
}

fn parse_ports(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let ports = first.parse().ok()?..=last.parse().ok()?;
    (!ports.is_empty()).then_some(ports)
}

/// A word of a line, and the column it starts at.
#[derive(Clone, Copy)]
struct Word<'t> {
    text: &'t str,
    column: usize,
}

/// The words of one line.
struct Words<'t> {
    line: &'t str,
    number: usize,
    rest: std::str::SplitWhitespace<'t>,
}

impl<'t> Words<'t> {
    fn new(line: &'t str, number: usize) -> Self {
        Self { line, number, rest: line.split_whitespace() }
    }

    fn next(&mut self) -> Option<Word<'t>> {
        let text = self.rest.next()?;
        let offset = text.as_ptr().addr() - self.line.as_ptr().addr();
        Some(Word { text, column: 1 + self.line[..offset].chars().count() })
    }

    fn require(&mut self, what: &str) -> Result<Word<'t>, RulesError> {
        let end = Word { text: "", column: 1 + self.line.trim_end().chars().count() };
        self.next().ok_or_else(|| self.error(end, format!("{what} is missing")))
    }

    fn error(&self, word: Word<'_>, problem: String) -> RulesError {
        RulesError { line: self.number, column: word.column, problem }
    }
}

#[cfg(test)]
mod tests {
    use allocator_api2::alloc::Global;

    use super::*;
    use crate::headers::tests::{udp_frame, udp6_frame};

    fn decide(rules: &str, frame: &[u8]) -> Action {
        let rules = Rules::parse(rules.as_bytes(), Global).expect("good rules");
        rules.decide(&Headers::parse(frame).expect("well formed").expect("IP"))
    }

    fn error(rules: &str) -> String {
        Rules::parse(rules.as_bytes(), Global).expect_err("bad rules").to_string()
    }

    #[test]
    fn the_first_match_decides() {
        let rules =
            "allow udp 192.168.10.0/24 10.20.0.53:53\ndeny any 10.20.0.80 # web\nallow any any";
        assert_eq!(decide(rules, &udp_frame(53, b"")), Action::Deny);
        assert_eq!(decide(rules, &udp6_frame(53, b"")), Action::Allow);
        assert_eq!(decide("allow udp any any:50-60", &udp_frame(53, b"")), Action::Allow);
        assert_eq!(decide("allow udp any:1024 any", &udp_frame(53, b"")), Action::Allow);
        assert_eq!(decide("allow tcp any any", &udp_frame(53, b"")), Action::Deny);
        assert_eq!(decide("allow udp any [fd00:20::/32]:53", &udp6_frame(53, b"")), Action::Allow);
        assert_eq!(decide("allow fd00:10::/32 fd00:20::80", &udp6_frame(53, b"")), Action::Allow);
    }

    #[test]
    fn the_default_is_deny_unless_stated() {
        assert_eq!(decide("", &udp_frame(53, b"")), Action::Deny);
        assert_eq!(decide("default allow", &udp_frame(53, b"")), Action::Allow);
    }

    #[test]
    fn a_fragment_meets_port_rules_with_suspicion() {
        let packet = Headers::parse(&udp_frame(53, b"")).expect("well formed").expect("IP");
        let fragment = Headers { fragment: true, ..packet };
        let rules = |text: &str| Rules::parse(text.as_bytes(), Global).expect("good rules");
        assert_eq!(rules("default allow\ndeny udp any any:1").decide(&fragment), Action::Deny);
        assert_eq!(rules("allow udp any any:53").decide(&fragment), Action::Deny);
        assert_eq!(rules("allow udp any any").decide(&fragment), Action::Allow);
    }

    #[test]
    fn errors_name_line_and_column() {
        assert_eq!(error("# ok\nallow tpc any any"), "2:7: unknown protocol 'tpc'");
        assert_eq!(error("alow tcp any any"), "1:1: unknown action 'alow'");
        assert_eq!(error("  deny tcp any"), "1:15: a destination is missing");
        assert_eq!(error("deny tcp 10.0.0.0/33 any"), "1:10: '10.0.0.0/33' is not a network");
        assert_eq!(error("deny tcp any any:9-1"), "1:14: '9-1' is not a port or a range of ports");
        assert_eq!(
            error("deny icmp any any:9"),
            "1:15: ports need 'tcp' or 'udp' before the source"
        );
        assert_eq!(error("default maybe"), "1:9: expected 'allow' or 'deny', not 'maybe'");
        assert_eq!(error("deny tcp any any any"), "1:18: unexpected 'any'");
        let error = Rules::parse(b"allow any any\nallow \xff", Global).expect_err("not text");
        assert_eq!(error.to_string(), "2:7: not text (UTF-8)");
    }
}
