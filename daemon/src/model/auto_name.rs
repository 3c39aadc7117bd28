//! Automatic names: `veth0`, `veth1`, … as the kernel gives them (`dev_alloc_name()`,
//! net/core/dev.c).

use std::collections::BTreeMap;

/// Returns the automatic name of a number.
pub fn name(number: u32) -> String {
    format!("veth{number}")
}

/// Returns the number of a name that netnsd could have chosen.
pub fn number(text: &str) -> Option<u32> {
    let number = text.strip_prefix("veth")?.parse().ok()?;
    (name(number) == text).then_some(number)
}

/// Returns true if netnsd could have chosen this name.
pub fn is_automatic(name: &str) -> bool {
    number(name).is_some()
}

/// Set of taken numbers, as runs (from, to), so that the first free one is found in logarithmic
/// time.
#[derive(Debug, Default)]
pub struct Numbers {
    runs: BTreeMap<u32, u32>,
}

/// The empty set.
pub static NONE: Numbers = Numbers {
    runs: BTreeMap::new(),
};

impl Numbers {
    fn run_of(&self, number: u32) -> Option<(u32, u32)> {
        let (from, to) = self.runs.range(..=number).next_back()?;
        (number <= *to).then_some((*from, *to))
    }

    /// Takes a number.
    pub fn insert(&mut self, number: u32) {
        if self.run_of(number).is_some() {
            return;
        }
        let before = number.checked_sub(1).and_then(|before| self.run_of(before));
        let after = number
            .checked_add(1)
            .and_then(|after| self.runs.remove(&after));
        self.runs.insert(
            before.map_or(number, |(from, _)| from),
            after.unwrap_or(number),
        );
    }

    /// Frees a number.
    pub fn remove(&mut self, number: u32) {
        let Some((from, to)) = self.run_of(number) else {
            return;
        };
        self.runs.remove(&from);
        if from < number {
            self.runs.insert(from, number - 1);
        }
        if number < to {
            self.runs.insert(number + 1, to);
        }
    }

    /// Returns true if no number is taken.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Iterates over the free numbers in ascending order.
    pub fn free(&self) -> impl Iterator<Item = u32> {
        let beyond = |number: u32| {
            self.run_of(number)
                .map_or(Some(number), |(_, to)| to.checked_add(1))
        };
        std::iter::successors(beyond(0), move |number| beyond(number.checked_add(1)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_names_that_could_have_been_chosen_have_a_number() {
        assert_eq!(number("veth0"), Some(0));
        assert_eq!(number("veth4294967295"), Some(u32::MAX));
        for other in [
            "veth",
            "veth01",
            "veth+1",
            "veth4294967296",
            "eth0",
            "vethx",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn free_ones_are_those_that_are_not_taken(steps in prop::collection::vec((any::<bool>(), 0..12u32), 0..60)) {
            let (mut numbers, mut taken) = (Numbers::default(), BTreeSet::new());
            for (take, number) in steps {
                if take {
                    numbers.insert(number);
                    taken.insert(number);
                } else {
                    numbers.remove(number);
                    taken.remove(&number);
                }
                let expected: Vec<u32> = (0..20).filter(|n| !taken.contains(n)).collect();
                prop_assert_eq!(numbers.free().take_while(|n| *n < 20).collect::<Vec<_>>(), expected);
            }
        }
    }
}
