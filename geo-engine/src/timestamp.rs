//! RFC 3339 timestamps to epoch milliseconds.

/// Reads a date-time of RFC 3339 §5.6; fractions beyond milliseconds are cut off. `None` if it is none.
pub(crate) fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = bytes.get(range)?;
        digits.iter().try_fold(0i64, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let is = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|byte| allowed.contains(byte));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    if !separated {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60; // a leap second counts as the next one's beginning
    if !in_range {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if is(at, b".") {
        let digits = bytes[at + 1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if digits == 0 {
            return None;
        }
        for place in 0..3 {
            millis = millis * 10
                + if place < digits {
                    number(at + 1 + place..at + 2 + place)?
                } else {
                    0
                };
        }
        at += 1 + digits;
    }
    let offset_min = if is(at, b"Zz") && bytes.len() == at + 1 {
        0
    } else if is(at, b"+-") && is(at + 3, b":") && bytes.len() == at + 6 {
        let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
        if hours > 23 || minutes > 59 {
            return None;
        }
        (hours * 60 + minutes) * if bytes[at] == b'-' { -1 } else { 1 }
    } else {
        return None;
    };
    let seconds = days_since_epoch(year, month, day) * 86_400
        + hour * 3_600
        + (minute - offset_min) * 60
        + second;
    Some(seconds * 1_000 + millis)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar. Years begin in March here, so that a leap day ends one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::parse_rfc3339_ms;

    #[test]
    fn known_instants() {
        assert_eq!(parse_rfc3339_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            parse_rfc3339_ms("2025-11-24T16:00:00.123456Z"),
            Some(1_764_000_000_123)
        );
        assert_eq!(
            parse_rfc3339_ms("2025-11-24T17:30:00.5+01:30"),
            Some(1_764_000_000_500)
        );
        assert_eq!(
            parse_rfc3339_ms("2024-02-29t23:59:60z"),
            Some(1_709_251_200_000)
        );
        assert_eq!(parse_rfc3339_ms("1969-12-31T23:59:59-00:00"), Some(-1_000));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "2025-11-24",
            "2025-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2025-11-24T16:00:00",
            "2025-11-24T16:00:00.Z",
            "2025-11-24T16:00:00+1:00",
            "2025-11-24T16:00:00Zx",
            "２025-11-24T16:00:00Z",
        ] {
            assert_eq!(parse_rfc3339_ms(text), None, "{text}");
        }
    }
}
