//! Statements as text.
//!
//! A transaction goes to the server as one text with all its statements: one round trip, however many tables it touches,
//! and nothing that the server would have to prepare for every number of rows. Values are written by the functions here
//! alone, and so cannot be taken for SQL.

use std::fmt::Write;

use kiteq_protocol::MessageId;

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends a byte string: as text where it is UTF-8, in hexadecimal digits otherwise.
pub(super) fn put_bytes(sql: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            // Without the word a server would convert it to the column's character set.
            sql.push_str("_binary");
            put_quoted(sql, text);
        }
        Err(_) => {
            sql.reserve(2 * bytes.len() + 3);
            sql.push_str("x'");
            for &byte in bytes {
                sql.push(char::from(HEX_DIGITS[usize::from(byte >> 4)]));
                sql.push(char::from(HEX_DIGITS[usize::from(byte & 0x0f)]));
            }
            sql.push('\'');
        }
    }
}

/// Appends a text, cut to `chars_max`; what is not UTF-8 in it is replaced. For columns that people read.
pub(super) fn put_name(sql: &mut String, bytes: &[u8], chars_max: usize) {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => put_quoted(sql, &text[..end]),
        None => put_quoted(sql, &text),
    }
}

/// Appends a text in quotes. The session's sql_mode has backslashes escape.
pub(super) fn put_quoted(sql: &mut String, text: &str) {
    sql.reserve(text.len() + 2);
    sql.push('\'');
    let mut rest = text;
    while let Some(position) = rest.bytes().position(|byte| matches!(byte, b'\'' | b'\\' | 0)) {
        sql.push_str(&rest[..position]);
        sql.push_str(match rest.as_bytes()[position] {
            b'\'' => "\\'",
            b'\\' => "\\\\",
            _ => "\\0",
        });
        rest = &rest[position + 1..];
    }
    sql.push_str(rest);
    sql.push('\'');
}

/// Appends an id as the column has it.
pub(super) fn put_id(sql: &mut String, id: &MessageId) {
    sql.push('\'');
    for digit in id.to_text() {
        sql.push(char::from(digit));
    }
    sql.push('\'');
}

/// Appends ids in parentheses, for IN.
pub(super) fn put_ids<'a>(sql: &mut String, ids: impl IntoIterator<Item = &'a MessageId>) {
    sql.push('(');
    for (index, id) in ids.into_iter().enumerate() {
        if index > 0 {
            sql.push(',');
        }
        put_id(sql, id);
    }
    sql.push(')');
}

/// Appends a number.
pub(super) fn put_number(sql: &mut String, number: i64) {
    // Writing to a String does not fail.
    let _ = write!(sql, "{number}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_cannot_end_a_text() {
        let mut sql = String::new();
        put_quoted(&mut sql, "it's \\ a\0b; DROP TABLE x; -- é");
        assert_eq!(sql, "'it\\'s \\\\ a\\0b; DROP TABLE x; -- é'");
    }

    #[test]
    fn bytes_are_text_or_digits() {
        let mut sql = String::new();
        put_bytes(&mut sql, b"echo");
        put_bytes(&mut sql, &[0xff, 0x00, 0x27]);
        put_bytes(&mut sql, b"");
        assert_eq!(sql, "_binary'echo'x'ff0027'_binary''");
    }

    #[test]
    fn a_name_is_cut_at_a_character() {
        let mut sql = String::new();
        put_name(&mut sql, "äöü".as_bytes(), 2);
        put_name(&mut sql, &[b'a', 0xff], 10);
        assert_eq!(sql, "'äö''a\u{fffd}'");
    }
}
