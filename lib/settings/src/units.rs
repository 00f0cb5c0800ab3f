//! Durations and sizes as people write them: `500ms`, `1h30m`, `128MiB`.

use std::time::Duration;

/// Units of a duration, the longest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of a size, the largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads `500ms`, `5s`, `2m`, `1h30m`, `7d`.
///
/// # Errors
/// What is expected instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("expected a duration with its unit, such as 500ms, 5s, 2m, 1h30m or 7d, not {text:?}");
    let mut milliseconds: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(expected());
    }
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest).ok_or_else(expected)?;
        let factor = factor_of(&DURATION_UNITS, unit, false).ok_or_else(expected)?;
        let part = number.checked_mul(factor).ok_or_else(expected)?;
        milliseconds = milliseconds.checked_add(part).ok_or_else(expected)?;
        rest = tail;
    }
    Ok(Duration::from_millis(milliseconds))
}

/// Writes a duration so that [`parse_duration`] reads it back; below a millisecond nothing is kept.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    show_in(&DURATION_UNITS, milliseconds)
}

/// Reads `64KiB`, `128MiB`, `1GiB`, `10MB`, `0B`.
///
/// # Errors
/// What is expected instead.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size with its unit, such as 64KiB, 128MiB or 1GiB, not {text:?}");
    let (number, unit, tail) = number_and_unit(text.trim()).ok_or_else(expected)?;
    let factor = factor_of(&SIZE_UNITS, unit.trim(), true).ok_or_else(expected)?;
    if tail.is_empty() { number.checked_mul(factor).ok_or_else(expected) } else { Err(expected()) }
}

/// Writes a size so that [`parse_size`] reads it back.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    if bytes == 0 { "0B".to_owned() } else { show_in(&SIZE_UNITS, bytes) }
}

/// In the largest unit that leaves no rest.
fn show_in(units: &[(&str, u64)], value: u64) -> String {
    let exact = units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
    let &(unit, factor) = exact.unwrap_or(&("", 1));
    format!("{}{unit}", value / factor)
}

/// Splits `1h30m` into 1, `h` and `30m`.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, rest) = text.split_at(unit_at);
    let unit_end = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_end);
    Some((number.parse().ok()?, unit, tail))
}

fn factor_of(units: &[(&str, u64)], name: &str, any_case: bool) -> Option<u64> {
    let same = |unit: &str| if any_case { unit.eq_ignore_ascii_case(name) } else { unit == name };
    units.iter().find(|(unit, _)| same(unit)).map(|&(_, factor)| factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("5s", 5000),
            ("2m", 120_000),
            ("90m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!((duration.as_millis(), show_duration(duration).as_str()), (milliseconds, text));
        }
        assert_eq!(parse_duration("1h30m").map(show_duration).unwrap(), "90m");
    }

    #[test]
    fn what_is_no_duration_is_refused_with_examples() {
        for text in
            ["", "5", "s", "-5s", "5 s", "5S", "1.5s", "99999999999999999999s", "300000000000d", "5s x"]
        {
            assert!(parse_duration(text).unwrap_err().contains("500ms"), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("64KiB", 65536), ("128MiB", 128 << 20), ("1GiB", 1 << 30), ("10MB", 10_000_000), ("0B", 0)]
        {
            assert_eq!((parse_size(text).unwrap(), show_size(bytes).as_str()), (bytes, text));
        }
        assert_eq!(parse_size("1gib"), Ok(1 << 30));
        assert_eq!(parse_size("1 MiB"), Ok(1 << 20));
    }

    #[test]
    fn what_is_no_size_is_refused_with_examples() {
        for text in ["", "5", "MiB", "-1MiB", "1.5MiB", "1MiB2", "5 parsecs", "99999999999TiB"] {
            assert!(parse_size(text).unwrap_err().contains("128MiB"), "{text}");
        }
    }
}
