//! Values with a unit, as people write them: `30s`, `64KB`, `50m`, `90km/h`, `100/s`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How values of one kind are read and shown.
pub struct Unit<T> {
    read: fn(&str) -> Result<T, String>,
    show: fn(&T) -> String,
}

/// Whole numbers.
pub const COUNT: Unit<u64> = Unit {
    read: count,
    show: u64::to_string,
};
/// [`duration`].
pub const DURATION: Unit<Duration> = Unit {
    read: duration,
    show: |duration| {
        let ms = duration.as_millis();
        let units = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1000, "s"),
        ];
        let whole = units.iter().find(|(factor, _)| ms > 0 && ms % factor == 0);
        whole.map_or_else(
            || format!("{ms}ms"),
            |(factor, unit)| format!("{}{unit}", ms / factor),
        )
    },
};
/// [`bytes()`].
pub const BYTES: Unit<u64> = Unit {
    read: bytes,
    show: |bytes| {
        let units = [(30, "GB"), (20, "MB"), (10, "KB")];
        let whole = units
            .iter()
            .find(|(shift, _)| *bytes > 0 && bytes % (1 << shift) == 0);
        whole.map_or_else(
            || format!("{bytes}B"),
            |(shift, unit)| format!("{}{unit}", bytes >> shift),
        )
    },
};
/// [`metres`].
pub const METRES: Unit<f64> = Unit {
    read: metres,
    show: |metres| format!("{metres}m"),
};
/// [`metres_per_second`].
pub const SPEED: Unit<f64> = Unit {
    read: metres_per_second,
    show: |speed| format!("{speed}m/s"),
};
/// [`per_second`].
pub const RATE: Unit<u64> = Unit {
    read: per_second,
    show: |rate| format!("{rate}/s"),
};
/// [`bytes_per_second`].
pub const BYTES_RATE: Unit<u64> = Unit {
    read: bytes_per_second,
    show: |rate| format!("{}/s", (BYTES.show)(rate)),
};

impl<T: PartialOrd> Unit<T> {
    /// Reads a value of `range`.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn within(&self, text: &str, range: &RangeInclusive<T>) -> Result<T, String> {
        let value = (self.read)(text)?;
        if range.contains(&value) {
            Ok(value)
        } else {
            Err(format!("`{text}` is out of range"))
        }
    }

    /// `from 1s to 7d`.
    #[must_use]
    pub fn in_words(&self, range: &RangeInclusive<T>) -> String {
        format!(
            "from {} to {}",
            (self.show)(range.start()),
            (self.show)(range.end())
        )
    }
}

/// `32`.
///
/// # Errors
/// Says what is expected.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no whole number"))
}

/// Splits `12.5km` into number and unit. The number is finite and not negative.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    (number.is_finite()).then(|| (number, text[end..].trim()))
}

/// `250ms`, `30s`, `5m`, `1h`, `7d`.
///
/// # Errors
/// Says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let factor = |unit| match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        "h" => Some(3600.0),
        "d" => Some(86_400.0),
        _ => None,
    };
    let seconds = split(text).and_then(|(number, unit)| Some(number * factor(unit)?));
    let seconds = seconds.filter(|seconds| *seconds <= 1e10);
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is no duration: write 250ms, 30s, 5m or 1h"))
}

/// `500B`, `64KB`, `256MB`, `1GB`: powers of 1024, with or without an `i`.
///
/// # Errors
/// Says what is expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    let shift = |unit: &str| match unit.to_ascii_uppercase().as_str() {
        "" | "B" => Some(0),
        "K" | "KB" | "KIB" => Some(10),
        "M" | "MB" | "MIB" => Some(20),
        "G" | "GB" | "GIB" => Some(30),
        _ => None,
    };
    let value =
        split(text).and_then(|(number, unit)| Some(number * f64::from(1_u32 << shift(unit)?)));
    let value = value.filter(|value| *value <= 1e15);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative and at most 1e15"
    )]
    value
        .map(|value| value as u64)
        .ok_or_else(|| format!("`{text}` is no size: write 500B, 64KB, 256MB or 1GB"))
}

/// `50m`, `1.2km`, in metres.
///
/// # Errors
/// Says what is expected.
pub fn metres(text: &str) -> Result<f64, String> {
    let factor = |unit| match unit {
        "m" => Some(1.0),
        "km" => Some(1000.0),
        _ => None,
    };
    let value = split(text).and_then(|(number, unit)| Some(number * factor(unit)?));
    value
        .filter(|value| *value <= 1e8)
        .ok_or_else(|| format!("`{text}` is no distance: write 50m or 1.2km"))
}

/// `25m/s`, `90km/h`, in metres per second.
///
/// # Errors
/// Says what is expected.
pub fn metres_per_second(text: &str) -> Result<f64, String> {
    let factor = |unit| match unit {
        "m/s" => Some(1.0),
        "km/h" => Some(1.0 / 3.6),
        _ => None,
    };
    let value = split(text).and_then(|(number, unit)| Some(number * factor(unit)?));
    value
        .filter(|value| *value > 0.0 && *value <= 1e6)
        .ok_or_else(|| format!("`{text}` is no speed: write 25m/s or 90km/h"))
}

/// `100/s`, per second.
///
/// # Errors
/// Says what is expected.
pub fn per_second(text: &str) -> Result<u64, String> {
    let number = text
        .strip_suffix("/s")
        .and_then(|number| number.trim().parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("`{text}` is no rate: write 100/s"))
}

/// `64KB/s`, bytes per second.
///
/// # Errors
/// Says what is expected.
pub fn bytes_per_second(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").and_then(|size| bytes(size).ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("`{text}` is no rate: write 64KB/s"))
}

/// `off`, or what `read` takes.
///
/// # Errors
/// Those of `read`.
pub fn or_off<T>(
    text: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if text == "off" {
        Ok(None)
    } else {
        read(text)
            .map(Some)
            .map_err(|error| format!("{error}, or off"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(bytes("64KB"), Ok(65_536));
        assert_eq!(metres("1.2km"), Ok(1200.0));
        assert_eq!(metres_per_second("90km/h").map(f64::round), Ok(25.0));
        assert_eq!(per_second("100/s"), Ok(100));
        assert_eq!(bytes_per_second("64KB/s"), Ok(65_536));
        assert_eq!(or_off("off", duration), Ok(None));
    }

    #[test]
    fn a_range_is_told_in_words_that_read_as_its_ends() {
        let durations = [1, 100, 1000, 90_000, 300_000, 86_400_000].map(Duration::from_millis);
        for value in durations {
            let words = (DURATION.show)(&value);
            assert_eq!(
                DURATION.within(&words, &(value..=value)),
                Ok(value),
                "{words}"
            );
        }
        for value in [0, 1, 1000, 1024, 268_435_455, 3 << 20, 64 << 30] {
            let words = (BYTES.show)(&value);
            assert_eq!(BYTES.within(&words, &(value..=value)), Ok(value), "{words}");
        }
        assert_eq!(BYTES.in_words(&(1024..=64 << 30)), "from 1KB to 64GB");
        assert!(COUNT.within("-1", &(0..=u64::MAX)).is_err());
    }

    #[test]
    fn what_is_no_value_says_what_one_looks_like() {
        for wrong in ["", "5", "-5s", "5 weeks", "1e999s", "NaNs", "s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(
            bytes("64 potatoes").is_err()
                && metres("50").is_err()
                && metres_per_second("0m/s").is_err()
        );
        assert!(per_second("0/s").is_err() && bytes_per_second("64KB").is_err());
        assert!(count("-1").is_err() && count("many").is_err());
    }
}
