//! Policy rules as the kernel has them, each of one family.

use netnsd_api::Rule;

use super::ROUTE_PROTOCOL;

/// Observed policy rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRule {
    /// Rule, with its family and with the mask of a mark.
    pub rule: Rule,
    /// Protocol number of its maker (`FRA_PROTOCOL`, linux/fib_rules.h).
    pub protocol: u8,
    /// Attributes without a field in the API.
    pub extras: RuleExtras,
}

/// Attributes of a rule without a field in the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleExtras {
    /// Priority of the rule that it goes to (`FRA_GOTO`).
    pub goto: Option<u32>,
    /// True if it does nothing (`FR_ACT_NOP`).
    pub nop: bool,
    /// `FRA_L3MDEV`.
    pub l3mdev: bool,
    /// TOS of a packet; 0 is any.
    pub tos: u8,
    /// `FRA_SUPPRESS_IFGROUP`.
    pub suppress_ifgroup: Option<u32>,
    /// True if it has an attribute that is not read here.
    pub others: bool,
}

impl ObservedRule {
    /// Returns a rule of netnsd.
    pub fn of_netnsd(rule: Rule) -> Self {
        Self {
            rule,
            protocol: ROUTE_PROTOCOL,
            extras: RuleExtras::default(),
        }
    }

    /// Returns true if netnsd made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}

/// Selectors of a rule, as a set: the kernel deletes the first rule that has every selector of the
/// request, and may have others besides (`rule_find()`, net/core/fib_rules.c; `fib4_rule_compare()`,
/// net/ipv4/fib_rules.c). It does not compare `not`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selectors(u16);

impl Selectors {
    /// Returns the selectors that a rule has.
    pub fn of(rule: &Rule) -> Self {
        let has = [
            rule.from.is_some(),
            rule.to.is_some(),
            rule.iif.is_some(),
            rule.oif.is_some(),
            // A mark of 0 is not compared, and its mask is.
            rule.fwmark.is_some_and(|mark| mark != 0),
            rule.fwmark.is_some(),
            rule.ipproto.is_some(),
            rule.sport.is_some(),
            rule.dport.is_some(),
            rule.uid_range.is_some(),
            rule.suppress_prefixlength.is_some(),
        ];
        let bits = has.into_iter().enumerate();
        Self(bits.fold(0, |set, (bit, has)| set | u16::from(has) << bit))
    }

    /// Returns true if every selector is one of the other set.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns the number of selectors.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}
