//! Policy rules of a namespace. Rules of others are left alone: those of netnsd have its protocol
//! number.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
};

use netnsd_api::{Family, Namespace, Rule, RuleAction};

use super::{Phase, Planner, Task};
use crate::kernel::{Ns, ObservedNs, ObservedRule, Op, RuleChange, RuleExtras, Selectors};

/// Rules among which a deletion may hit another one: the kernel compares these of every rule.
type Group = (Option<Family>, u32, Option<u32>, Option<RuleAction>);

fn group_of(rule: &Rule) -> Group {
    (rule.family, rule.priority, rule.table, rule.action)
}

impl Planner<'_> {
    /// Plans the policy rules of a namespace.
    pub(super) fn plan_rules(&mut self, task: &Task<'_>, spec: &Namespace, known: &ObservedNs) {
        let ns = Ns::Named(spec.name.clone());
        let wanted: Vec<Rule> = spec.rules.iter().flat_map(Rule::per_family).collect();
        let asked: HashSet<&Rule> = wanted.iter().collect();

        let mut kept: HashSet<&Rule> = HashSet::new();
        let mut gone: Vec<&Rule> = Vec::new();
        for known in known.rules.iter().filter(|known| known.is_ours()) {
            let is_right = is_exact(known) && asked.contains(&known.rule);
            if !is_right || !kept.insert(&known.rule) {
                gone.push(&known.rule);
            }
        }
        let added: Vec<&Rule> = wanted.iter().filter(|rule| !kept.contains(rule)).collect();
        for rule in delete_in_order(&mut kept, gone, &added) {
            let op = Op::rule(&ns, RuleChange::Delete(rule.clone()));
            self.emit(Phase::DeleteRoutes, task, op);
        }
        for rule in add_in_order(wanted.iter().filter(|rule| !kept.contains(rule))) {
            let op = Op::rule(&ns, RuleChange::Add(rule.clone()));
            self.emit(Phase::Rules, task, op);
        }
    }
}

/// Returns true if a rule has no attributes besides those of the API.
fn is_exact(known: &ObservedRule) -> bool {
    known.extras == RuleExtras::default()
}

/// Sets of selectors of rules, by group.
type Sets = BTreeMap<Group, BTreeSet<Selectors>>;

fn sets_of<'r>(rules: impl Iterator<Item = &'r Rule>) -> Sets {
    let mut sets = Sets::new();
    for rule in rules {
        let of_group = sets.entry(group_of(rule)).or_default();
        of_group.insert(Selectors::of(rule));
    }
    sets
}

/// Returns the rules to delete, those with the most selectors first: so each request hits the rule
/// that it is for. Where it could hit one that is kept, or an addition would be taken for that one
/// (`rule_exists()`, net/core/fib_rules.c), all of the group are deleted and added again.
fn delete_in_order<'r>(
    kept: &mut HashSet<&'r Rule>,
    mut gone: Vec<&'r Rule>,
    added: &[&Rule],
) -> Vec<&'r Rule> {
    let deleted_sets = sets_of(gone.iter().copied());
    let added_sets = sets_of(added.iter().copied());
    let is_touched = |rule: &&&Rule| {
        let group = group_of(rule);
        deleted_sets.contains_key(&group) || added_sets.contains_key(&group)
    };
    let touched: Vec<&Rule> = kept.iter().filter(is_touched).copied().collect();
    let inverted = gone.iter().chain(&touched).filter(|rule| rule.not);
    let inverted: BTreeSet<Group> = inverted.map(|rule| group_of(rule)).collect();
    let is_ambiguous = |(group, kept): &(Group, BTreeSet<Selectors>)| {
        let hits = |sets: &Sets, may_be_same: bool| {
            let sets = sets.get(group).into_iter().flatten();
            let mut pairs = sets.flat_map(|set| kept.iter().map(move |kept| (set, kept)));
            pairs.any(|(set, kept)| set.is_within(*kept) && (may_be_same || set != kept))
        };
        hits(&deleted_sets, inverted.contains(group)) || hits(&added_sets, false)
    };
    let ambiguous: BTreeSet<Group> = sets_of(touched.iter().copied())
        .into_iter()
        .filter(is_ambiguous)
        .map(|(group, _)| group)
        .collect();
    kept.retain(|rule| {
        let stays = !ambiguous.contains(&group_of(rule));
        if !stays {
            gone.push(*rule);
        }
        stays
    });
    gone.sort_by_key(|rule| (Reverse(Selectors::of(rule).count()), *rule));
    gone
}

/// Returns rules in their order, but of a group those with the fewest selectors first: the kernel
/// takes a later one with fewer of them for one that is there already.
fn add_in_order<'r>(rules: impl Iterator<Item = &'r Rule>) -> Vec<&'r Rule> {
    let mut first = BTreeMap::new();
    let mut ordered: Vec<(usize, u32, &Rule)> = rules
        .enumerate()
        .map(|(i, rule)| {
            let place = *first.entry(group_of(rule)).or_insert(i);
            (place, Selectors::of(rule).count(), rule)
        })
        .collect();
    ordered.sort_by_key(|(place, count, _)| (*place, *count));
    ordered.into_iter().map(|(.., rule)| rule).collect()
}
