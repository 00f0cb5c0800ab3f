//! Durations, sizes, shares and lists as people type them.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Longer elements are not made.
pub const ELEMENT_BYTES_MAX: usize = 64 << 20;

/// `500ms`, `10s`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// When the text is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} has no unit that I know: us, ms, s, m, h")),
    };
    let value: f64 =
        number.parse().map_err(|_| format!("{text:?} is not a duration such as 500ms, 10s or 2m"))?;
    Duration::try_from_secs_f64(value * seconds).map_err(|error| format!("{text:?}: {error}"))
}

/// `100`, `1KiB`, `64k`, `2MiB`.
///
/// # Errors
/// When the text is none of these, or more than a message may have.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let max = kiteq_protocol::frame::BODY_BYTES_MAX;
    let bytes = bytes(text)?;
    if bytes <= max {
        Ok(bytes)
    } else {
        Err(format!("{text:?} is more than the protocol's largest body, 2MiB"))
    }
}

/// Lengths from one to another: `250`, or `100-4KiB`.
///
/// # Errors
/// When the text is neither, or more than [`ELEMENT_BYTES_MAX`].
pub fn parse_sizes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let sizes = bytes(min)?..=bytes(max)?;
    if sizes.is_empty() || *sizes.end() > ELEMENT_BYTES_MAX {
        return Err(format!("{text:?} is no range of sizes up to 64MiB, such as 100-4KiB"));
    }
    Ok(sizes)
}

/// A length with its unit.
fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        _ => return Err(format!("{text:?} has no unit that I know: B, KiB, MiB")),
    };
    let value: f64 = number.parse().map_err(|_| format!("{text:?} is not a size such as 1024 or 1KiB"))?;
    let bytes = value * factor;
    if (0.0..1e12).contains(&bytes) { Ok(bytes as usize) } else { Err(format!("{text:?} is out of range")) }
}

/// `100000`, `100_000`, `100k`, `10M`.
///
/// # Errors
/// When the text is none of these.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let plain = text.replace(['_', ','], "");
    let (number, unit) = split_unit(&plain);
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "m" | "M" => 1e6,
        _ => return Err(format!("{text:?} has no unit that I know: k, M")),
    };
    let value: f64 =
        number.parse().map_err(|_| format!("{text:?} is not a number such as 100000 or 100k"))?;
    if value > 0.0 && value * factor < 1e15 {
        Ok((value * factor) as u64)
    } else {
        Err(format!("{text:?} is out of range"))
    }
}

/// `10%` or `0.1`, as a share from 0 to 1.
///
/// # Errors
/// When the text is neither.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let invalid = || format!("{text:?} is not a share such as 10% or 0.1");
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| invalid())? / 100.0,
        None => text.parse().map_err(|_| invalid())?,
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(invalid()) }
}

/// Names: a number makes so many from `prefix` (one is the prefix itself), anything else is a list separated by commas.
#[must_use]
pub fn names(text: &str, prefix: &str) -> Vec<String> {
    match text.parse::<usize>() {
        Ok(0 | 1) => vec![prefix.to_owned()],
        Ok(number) => (1..=number).map(|index| format!("{prefix}-{index}")).collect(),
        Err(_) => text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (text[..end].trim(), text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_understood() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_size("1KiB"), Ok(1024));
        assert_eq!(parse_size("100"), Ok(100));
        assert_eq!(parse_sizes("250"), Ok(250..=250));
        assert_eq!(parse_sizes("100-20MiB"), Ok(100..=20 << 20));
        assert_eq!(parse_count("10M"), Ok(10_000_000));
        assert_eq!(parse_count("100_000"), Ok(100_000));
        assert_eq!(parse_share("10%"), Ok(0.1));
        assert_eq!(parse_share("1"), Ok(1.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_an_example() {
        for error in [
            parse_duration("soon").unwrap_err(),
            parse_duration("-1s").unwrap_err(),
            parse_size("3MiB").unwrap_err(),
            parse_size("x").unwrap_err(),
            parse_sizes("300-200").unwrap_err(),
            parse_sizes("1GiB").unwrap_err(),
            parse_count("0").unwrap_err(),
            parse_share("200%").unwrap_err(),
        ] {
            assert!(error.contains('"'), "{error}");
        }
    }

    #[test]
    fn names_are_counted_or_listed() {
        assert_eq!(names("1", "bench"), ["bench"]);
        assert_eq!(names("2", "bench"), ["bench-1", "bench-2"]);
        assert_eq!(names("trade, feed", "bench"), ["trade", "feed"]);
    }
}
