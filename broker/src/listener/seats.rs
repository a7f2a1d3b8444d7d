//! How many connections there may be, from one address too, and how fast they may come.
//!
//! `accept ─► **seat** ─► handshake ─► connection`. A seat is taken before the first byte is read, and given back with the
//! connection, whatever becomes of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::bucket::Bucket;

/// Addresses whose rate is remembered beside those that are connected.
const REMEMBERED_MAX: usize = 4096;

/// Who counts as one: an IPv4 address, or the /64 network of an IPv6 address, since a customer has one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin(IpAddr);

impl Origin {
    /// The origin of `address`.
    #[must_use]
    pub(super) fn of(address: IpAddr) -> Self {
        Origin(match address.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            other => other,
        })
    }
}

/// What is allowed.
#[derive(Debug, Clone, Copy)]
pub struct SeatLimits {
    /// Connections in all.
    pub total_max: u64,
    /// For each origin but this machine.
    pub elsewhere: AddressLimits,
    /// For this machine's own addresses.
    pub loopback: AddressLimits,
}

/// What is allowed to one origin.
#[derive(Debug, Clone, Copy, Default)]
pub struct AddressLimits {
    /// Connections.
    pub max: Option<u64>,
    /// New connections per second; two seconds of them at once.
    pub rate: Option<u64>,
}

/// Why there is no seat. Each is a value of `meridian_connections_refused_total{reason}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSeat {
    /// All are taken.
    Full,
    /// The address has its share.
    AddressFull,
    /// The address comes too fast.
    TooFast,
}

impl NoSeat {
    /// The metric's label.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            NoSeat::Full => "full",
            NoSeat::AddressFull => "address_full",
            NoSeat::TooFast => "address_too_fast",
        }
    }
}

/// The seats of all listeners of a node.
#[derive(Debug)]
pub struct Seats {
    limits: SeatLimits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: u64,
    guests: HashMap<Origin, Guest>,
}

#[derive(Debug)]
struct Guest {
    seats: u64,
    rate: Option<Bucket>,
}

/// One connection's seat, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    /// `None` while only the proxy in between is known.
    origin: Option<Origin>,
}

impl Seats {
    /// All free.
    #[must_use]
    pub fn new(limits: SeatLimits) -> Arc<Self> {
        Arc::new(Seats {
            limits,
            taken: Mutex::default(),
        })
    }

    /// A seat for a connection of which nobody knows yet whose it is.
    ///
    /// # Errors
    /// [`NoSeat::Full`].
    pub fn take(self: &Arc<Self>) -> Result<Seat, NoSeat> {
        let mut taken = self.taken.lock();
        if taken.total >= self.limits.total_max {
            return Err(NoSeat::Full);
        }
        taken.total += 1;
        Ok(Seat {
            seats: Arc::clone(self),
            origin: None,
        })
    }
}

impl Seat {
    /// The connection is one of `address`.
    ///
    /// # Errors
    /// [`NoSeat`]: the address may not have it; it is to be given back.
    pub fn assign(&mut self, address: IpAddr, now: Instant) -> Result<(), NoSeat> {
        assert!(self.origin.is_none(), "a seat is assigned once");
        let limits = if address.to_canonical().is_loopback() {
            self.seats.limits.loopback
        } else {
            self.seats.limits.elsewhere
        };
        let origin = Origin::of(address);
        let mut taken = self.seats.taken.lock();
        let connected = usize::try_from(taken.total).unwrap_or(usize::MAX);
        if taken.guests.len() > connected.saturating_add(REMEMBERED_MAX) {
            taken.guests.retain(|_, guest| !guest.is_forgettable(now));
        }
        let guest = taken.guests.entry(origin).or_insert_with(|| Guest {
            seats: 0,
            rate: limits.rate.map(|rate| Bucket::new(rate, now)),
        });
        if limits.max.is_some_and(|max| guest.seats >= max) {
            return Err(NoSeat::AddressFull);
        }
        if guest
            .rate
            .as_mut()
            .is_some_and(|rate| !rate.try_take(1, now))
        {
            return Err(NoSeat::TooFast);
        }
        guest.seats += 1;
        self.origin = Some(origin);
        Ok(())
    }
}

impl Guest {
    fn is_forgettable(&self, now: Instant) -> bool {
        self.seats == 0 && self.rate.is_none_or(|rate| rate.is_full(now))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        taken.total -= 1;
        let Some(origin) = self.origin else { return };
        let Some(guest) = taken.guests.get_mut(&origin) else {
            return;
        };
        guest.seats -= 1;
        if guest.seats == 0 && guest.rate.is_none() {
            taken.guests.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits() -> SeatLimits {
        SeatLimits {
            total_max: 6,
            elsewhere: AddressLimits {
                max: Some(2),
                rate: None,
            },
            loopback: AddressLimits::default(),
        }
    }
    fn sit(seats: &Arc<Seats>, address: &str, now: Instant) -> Result<Seat, NoSeat> {
        let mut seat = seats.take()?;
        seat.assign(address.parse().unwrap(), now)?;
        Ok(seat)
    }

    /// S14.
    #[test]
    fn an_address_has_its_share_and_leaves_the_rest_to_others() {
        let (seats, now) = (Seats::new(limits()), Instant::now());
        let first = sit(&seats, "192.0.2.1", now).unwrap();
        let _second = sit(&seats, "::ffff:192.0.2.1", now).unwrap();
        assert_eq!(
            sit(&seats, "192.0.2.1", now).unwrap_err(),
            NoSeat::AddressFull
        );
        let _other = sit(&seats, "192.0.2.2", now).unwrap();
        drop(first);
        let _again = sit(&seats, "192.0.2.1", now).unwrap();
        // Who sits on this machine counts in all, but has figures of its own.
        let _local: Vec<Seat> = (0..3)
            .map(|_| sit(&seats, "127.0.0.1", now).unwrap())
            .collect();
        assert_eq!(sit(&seats, "192.0.2.3", now).unwrap_err(), NoSeat::Full);
    }

    #[test]
    fn a_network_of_ipv6_is_one_guest() {
        let (seats, now) = (Seats::new(limits()), Instant::now());
        let _seats =
            ["2001:db8::1", "2001:db8::ffff:2"].map(|from| sit(&seats, from, now).unwrap());
        assert_eq!(
            sit(&seats, "2001:db8::3", now).unwrap_err(),
            NoSeat::AddressFull
        );
        sit(&seats, "2001:db8:0:1::1", now).unwrap();
    }

    #[test]
    fn who_comes_too_fast_waits_and_is_forgotten_when_gone() {
        let start = Instant::now();
        let seats = Seats::new(SeatLimits {
            elsewhere: AddressLimits::default(),
            loopback: AddressLimits {
                max: None,
                rate: Some(1),
            },
            ..limits()
        });
        for _ in 0..2 {
            sit(&seats, "127.0.0.1", start).unwrap();
        }
        assert_eq!(
            sit(&seats, "127.0.0.1", start).unwrap_err(),
            NoSeat::TooFast
        );
        sit(&seats, "127.0.0.1", start + Duration::from_secs(1)).unwrap();
        for number in 0..2 * REMEMBERED_MAX {
            let address = format!("127.{}.{}.1", 1 + number / 256, number % 256);
            sit(
                &seats,
                &address,
                start + Duration::from_secs(10 + number as u64),
            )
            .unwrap();
        }
        assert!(seats.taken.lock().guests.len() <= REMEMBERED_MAX + 2);
        assert_eq!(seats.taken.lock().total, 0);
    }
}
