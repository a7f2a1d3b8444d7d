//! The building stones of device states in bytes: little-endian, lengths before what they measure.

use crate::coordinate::Coordinate;
use crate::fix::Fix;
use crate::movement::Moment;

/// Appends values.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl Fn(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(crate) fn moment(&mut self, moment: Moment) {
        self.i64(moment.ts_ms);
        self.u32(moment.at.lat_e7() as u32);
        self.u32(moment.at.lon_e7() as u32);
    }

    pub(crate) fn fix(&mut self, fix: &Fix) {
        self.moment(Moment::of(fix));
        for value in [
            fix.speed_mps,
            fix.course_deg,
            fix.accuracy_m,
            fix.alt_m,
            fix.battery_pct,
            fix.odometer_m,
        ] {
            self.option(value, Writer::f64);
        }
        self.option(fix.ignition, Writer::bool);
        self.option(fix.alarm.as_deref(), Writer::text);
        self.option(fix.attrs.as_deref(), Writer::text);
    }
}

/// Takes values off the front; `None` where there is no such value.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn f64(&mut self) -> Option<f64> {
        self.u64().map(f64::from_bits)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// Epoch milliseconds, not negative: differences of two cannot overflow.
    pub(crate) fn time_ms(&mut self) -> Option<i64> {
        self.i64().filter(|time_ms| *time_ms >= 0)
    }

    /// The outer `None`: malformed.
    pub(crate) fn option<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.bool()? {
            read(self).map(Some)
        } else {
            Some(None)
        }
    }

    pub(crate) fn moment(&mut self) -> Option<Moment> {
        let ts_ms = self.time_ms()?;
        let (lat_e7, lon_e7) = (self.u32()? as i32, self.u32()? as i32);
        Some(Moment {
            ts_ms,
            at: Coordinate::from_e7(lat_e7, lon_e7)?,
        })
    }

    pub(crate) fn fix(&mut self) -> Option<Fix> {
        let Moment { ts_ms, at } = self.moment()?;
        let mut fix = Fix::new(ts_ms, at);
        let numbers = [
            &mut fix.speed_mps,
            &mut fix.course_deg,
            &mut fix.accuracy_m,
            &mut fix.alt_m,
            &mut fix.battery_pct,
            &mut fix.odometer_m,
        ];
        for number in numbers {
            *number = self.option(Reader::f64)?;
        }
        fix.ignition = self.option(Reader::bool)?;
        fix.alarm = self.option(Reader::text)?.map(str::to_owned);
        fix.attrs = self.option(Reader::text)?.map(str::to_owned);
        Some(fix)
    }
}
