//! The values of one filter, by key: none and one without an allocation, many in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

#[derive(Debug, Clone, Default)]
pub(super) enum Entries<K, V> {
    #[default]
    None,
    One(K, V),
    /// Two or more.
    #[allow(
        clippy::box_collection,
        reason = "most filters have one subscriber, and 16 bytes less a node count"
    )]
    Many(Box<BTreeMap<K, V>>),
}

impl<K, V> Entries<K, V> {
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// About: a B-tree is at least half full.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::None | Self::One(..) => 0,
            Self::Many(map) => {
                size_of::<BTreeMap<K, V>>() + map.len().max(11) * (size_of::<(K, V)>() + 4) * 3 / 2
            }
        }
    }

    pub(super) fn try_for_each<B>(
        &self,
        visit: &mut impl FnMut(&K, &V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self {
            Self::None => ControlFlow::Continue(()),
            Self::One(key, value) => visit(key, value),
            Self::Many(map) => map.iter().try_for_each(|(key, value)| visit(key, value)),
        }
    }
}

impl<K: Ord, V> Entries<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::One(only, value) if only == key => Some(value),
            Self::None | Self::One(..) => None,
            Self::Many(map) => map.get(key),
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match std::mem::take(self) {
            Self::None => {
                *self = Self::One(key, value);
                None
            }
            Self::One(only, previous) if only == key => {
                *self = Self::One(key, value);
                Some(previous)
            }
            Self::One(only, other) => {
                *self = Self::Many(Box::new(BTreeMap::from([(only, other), (key, value)])));
                None
            }
            Self::Many(mut map) => {
                let previous = map.insert(key, value);
                *self = Self::Many(map);
                previous
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        match std::mem::take(self) {
            Self::None => None,
            Self::One(only, value) if only == *key => Some(value),
            one @ Self::One(..) => {
                *self = one;
                None
            }
            Self::Many(mut map) => {
                let value = map.remove(key);
                *self = match map.len() {
                    1 => map
                        .pop_first()
                        .map_or(Self::None, |(key, value)| Self::One(key, value)),
                    _ => Self::Many(map),
                };
                value
            }
        }
    }
}
