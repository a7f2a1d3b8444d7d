//! Handshakes under way: a bound to their number that nobody can use up.
//!
//! `seat ─► **turn** ─► TLS, WebSocket ─► connection`. When all turns are taken, a newcomer takes one from the address that
//! has most of them: at once if it has fewer itself, else as soon as one has not come to its end for a while. A healthy
//! handshake takes some round trips, so who is sent away is who waits for something that does not come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::seats::Origin;

/// Handshakes under way.
const TURNS_MAX: usize = 512;
/// What a handshake may take when others of the same address wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// The turns of all listeners of a node.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    turns: Mutex<Turns>,
    freed: Notify,
}

/// One handshake's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    handshakes: Arc<Handshakes>,
    number: u64,
    expelled: oneshot::Receiver<()>,
}

impl Handshakes {
    /// Waits for a turn.
    pub(super) async fn enter(self: &Arc<Self>, origin: Origin) -> Turn {
        loop {
            let freed = self.freed.notified();
            let until = match self.turns.lock().enter(origin, Instant::now()) {
                Ok((number, expelled)) => {
                    return Turn {
                        handshakes: Arc::clone(self),
                        number,
                        expelled,
                    };
                }
                Err(until) => until,
            };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

impl Turn {
    /// Comes when somebody else is given this turn.
    pub(super) async fn expelled(&mut self) {
        // The other end goes with the entry, and says nothing.
        let _gone = (&mut self.expelled).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.handshakes.turns.lock().leave(self.number);
        self.handshakes.freed.notify_one();
    }
}

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    /// In the order in which they began.
    under_way: BTreeMap<u64, Entry>,
    by_origin: HashMap<Origin, usize>,
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    since: Instant,
    /// Dropped to say that the turn is over.
    _expel: oneshot::Sender<()>,
}

impl Turns {
    /// A turn for `origin`, or when to ask again.
    fn enter(
        &mut self,
        origin: Origin,
        now: Instant,
    ) -> Result<(u64, oneshot::Receiver<()>), Instant> {
        if self.under_way.len() >= TURNS_MAX {
            let own = self.by_origin.get(&origin).copied().unwrap_or(0);
            let most = self.by_origin.values().copied().max().unwrap_or(0);
            let is_heaviest = |entry: &Entry| self.by_origin.get(&entry.origin) == Some(&most);
            let oldest = self.under_way.iter().find(|(_, entry)| is_heaviest(entry));
            let (number, since) = oldest
                .map(|(number, entry)| (*number, entry.since))
                .expect("all turns are taken, so somebody has most of them");
            if own + 1 >= most && now < since + PATIENCE {
                return Err(since + PATIENCE);
            }
            self.leave(number);
        }
        let (expel, expelled) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        let entry = Entry {
            origin,
            since: now,
            _expel: expel,
        };
        self.under_way.insert(number, entry);
        *self.by_origin.entry(origin).or_default() += 1;
        assert!(self.under_way.len() <= TURNS_MAX, "the bound holds");
        Ok((number, expelled))
    }

    fn leave(&mut self, number: u64) {
        let Some(entry) = self.under_way.remove(&number) else {
            return; // it was expelled
        };
        if let Some(count) = self.by_origin.get_mut(&entry.origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(&entry.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::of([192, 0, 2, last].into())
    }
    type Held = Vec<(u64, oneshot::Receiver<()>)>;
    fn fill(turns: &mut Turns, last: u8, count: usize, now: Instant) -> Held {
        (0..count)
            .map(|_| turns.enter(origin(last), now).unwrap())
            .collect()
    }
    fn expelled(held: &mut Held) -> usize {
        held.iter_mut()
            .filter_map(|(_, expelled)| expelled.try_recv().err())
            .filter(|error| *error == oneshot::error::TryRecvError::Closed)
            .count()
    }

    /// S14, S28.
    #[test]
    fn who_has_few_turns_is_given_one_of_who_has_many_at_once() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let mut many = fill(&mut turns, 1, TURNS_MAX, now);
        let _newcomer = turns.enter(origin(2), now).unwrap();
        assert_eq!(expelled(&mut many), 1);
        assert!(many[0].1.try_recv().is_err(), "the oldest of them");
        let _others = fill(&mut turns, 2, TURNS_MAX / 2 - 1, now);
        assert!(
            turns.enter(origin(2), now).is_err(),
            "until both have the same"
        );
        assert_eq!(turns.under_way.len(), TURNS_MAX);
    }

    #[test]
    fn one_address_alone_waits_until_a_handshake_has_had_its_time() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let mut many = fill(&mut turns, 1, TURNS_MAX, now);
        assert_eq!(turns.enter(origin(1), now).unwrap_err(), now + PATIENCE);
        assert_eq!(expelled(&mut many), 0);
        turns.enter(origin(1), now + PATIENCE).unwrap();
        assert_eq!(expelled(&mut many), 1);
    }

    #[test]
    fn a_turn_that_ends_is_free_and_ends_once() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let held = fill(&mut turns, 1, TURNS_MAX, now);
        turns.leave(held[5].0);
        turns.leave(held[5].0);
        assert_eq!(turns.under_way.len(), TURNS_MAX - 1);
        turns.enter(origin(1), now).unwrap();
        assert_eq!(turns.by_origin[&origin(1)], TURNS_MAX);
    }
}
