//! Values with a unit, as people write them: `30s`, `64KB`, `50m`, `90km/h`, `100/s`.

use std::time::Duration;

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
pub fn per_second(text: &str) -> Result<u32, String> {
    let number = text
        .strip_suffix("/s")
        .and_then(|number| number.trim().parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("`{text}` is no rate: write 100/s"))
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
        assert_eq!(or_off("off", duration), Ok(None));
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
        assert!(per_second("0/s").is_err());
    }
}
