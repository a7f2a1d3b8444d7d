//! Which commands of which node have been applied, so that a batch that was sent twice is applied once.
//!
//! A node numbers its commands for a shard without gaps, and sends a batch again, to whoever leads by then, until it
//! sees it applied. What was applied already is passed over here; what would leave a gap, because it overtook an
//! earlier one on another connection, is not applied at all, and comes again behind it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::log;

/// How far the commands of each node are applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Origins(BTreeMap<u64, log::Origin>);

impl Origins {
    pub(crate) fn restore(origins: impl IntoIterator<Item = (u64, log::Origin)>) -> Self {
        Origins(origins.into_iter().collect())
    }

    /// Which of an entry's commands, by their places in it, are to be applied. They count as applied from now on.
    pub(crate) fn admit(&mut self, entry: &log::Entry) -> Range<usize> {
        let all = 0..entry.commands.len();
        if entry.node == 0 {
            return all;
        }
        let known = self.0.entry(entry.node).or_default();
        if entry.boot > known.boot {
            *known = log::Origin {
                boot: entry.boot,
                next: 1,
            };
        }
        if entry.boot < known.boot || entry.first > known.next {
            return 0..0;
        }
        let skip = usize::try_from(known.next - entry.first).unwrap_or(usize::MAX);
        if skip >= all.end {
            return 0..0;
        }
        known.next = entry.first + all.end as u64;
        skip..all.end
    }

    /// The number of the next command of run `boot` of `node`.
    pub(crate) fn next(&self, node: u64, boot: u64) -> u64 {
        self.0
            .get(&node)
            .filter(|origin| origin.boot == boot)
            .map_or(1, |origin| origin.next)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, log::Origin)> {
        self.0.iter().map(|(node, origin)| (*node, *origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(boot: u64, first: u64, count: usize) -> log::Entry {
        log::Entry {
            commands: vec![log::Command::default(); count],
            node: 7,
            boot,
            first,
            ..Default::default()
        }
    }

    #[test]
    fn a_batch_that_comes_again_is_applied_once() {
        let mut origins = Origins::default();
        assert_eq!(origins.admit(&entry(1, 1, 3)), 0..3);
        assert_eq!(origins.admit(&entry(1, 1, 3)), 0..0);
        assert_eq!(origins.admit(&entry(1, 2, 4)), 2..4, "2 and 3 were there");
        assert_eq!(origins.next(7, 1), 6);
    }

    #[test]
    fn a_batch_that_overtook_another_waits_for_it() {
        let mut origins = Origins::default();
        assert_eq!(origins.admit(&entry(1, 4, 2)), 0..0);
        assert_eq!(origins.admit(&entry(1, 1, 3)), 0..3);
        assert_eq!(origins.admit(&entry(1, 4, 2)), 0..2);
    }

    #[test]
    fn a_new_run_of_the_node_begins_at_one_and_ends_the_old_one() {
        let mut origins = Origins::default();
        assert_eq!(origins.admit(&entry(1, 1, 3)), 0..3);
        assert_eq!(origins.admit(&entry(2, 1, 1)), 0..1);
        assert_eq!(origins.admit(&entry(1, 4, 1)), 0..0, "of the run before");
        assert_eq!(origins.next(7, 2), 2);
    }
}
