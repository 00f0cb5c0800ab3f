//! The names of a log's files.

const SUFFIX: &str = ".kiteq";
const LOG_PREFIX: &str = "log-";
const SPARE_PREFIX: &str = "spare-";
const DAMAGED_PREFIX: &str = "damaged-";

/// The file of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{LOG_PREFIX}{number:010}{SUFFIX}")
}

/// A file without content that waits to become a segment; `number` was its last.
pub(crate) fn spare_name(number: u32) -> String {
    format!("{SPARE_PREFIX}{number:010}{SUFFIX}")
}

/// A segment of which nothing can be read, kept for inspection.
pub(crate) fn damaged_segment_name(number: u32) -> String {
    format!("{DAMAGED_PREFIX}{number:010}{SUFFIX}")
}

/// A piece of a segment, kept for inspection.
pub(crate) fn damaged_piece_name(number: u32, offset: u64) -> String {
    format!("{LOG_PREFIX}{number:010}-offset-{offset}.bytes")
}

pub(crate) fn segment_number(name: &str) -> Option<u32> {
    number(name, LOG_PREFIX)
}

pub(crate) fn spare_number(name: &str) -> Option<u32> {
    number(name, SPARE_PREFIX)
}

pub(crate) fn damaged_segment_number(name: &str) -> Option<u32> {
    number(name, DAMAGED_PREFIX)
}

fn number(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?;
    let plain = digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_their_numbers_back() {
        assert_eq!(segment_number(&segment_name(u32::MAX)), Some(u32::MAX));
        assert_eq!(spare_number(&spare_name(7)), Some(7));
        assert_eq!(damaged_segment_number(&damaged_segment_name(7)), Some(7));
        for foreign in ["log-1.kiteq", "log-0000000000.kiteq", "log-00000000+1.kiteq", "log-9999999999.kiteq"]
        {
            assert_eq!(segment_number(foreign), None, "{foreign}");
        }
        assert_eq!(segment_number(&damaged_piece_name(1, 64)), None);
    }
}
