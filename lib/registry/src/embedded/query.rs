//! The query part of a request's address: `name=value` pairs joined by `&`, percent-encoded (RFC 3986).

/// The decoded value of the first pair called `name`.
///
/// # Errors
/// When its encoding is broken.
pub(crate) fn value(query: Option<&str>, name: &str) -> Result<Option<String>, String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, encoded)) = pairs.into_iter().find(|(key, _)| *key == name) else {
        return Ok(None);
    };
    decode(encoded)
        .map(Some)
        .ok_or_else(|| format!("query parameter {name:?} is not valid percent-encoded UTF-8"))
}

fn decode(encoded: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                rest = tail;
                hex_digit(digits[0])? << 4 | hex_digit(digits[1])?
            }
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn values_are_found_and_decoded() {
        let query = Some("a=1&topic=user%2Dprofile+x%e4%B8%ad&topic=second");
        assert_eq!(value(query, "topic"), Ok(Some("user-profile x中".to_owned())));
        assert_eq!(value(query, "group"), Ok(None));
        assert_eq!(value(None, "topic"), Ok(None));
    }

    #[test]
    fn a_broken_encoding_is_an_error() {
        for query in ["topic=%", "topic=%2", "topic=%zz", "topic=%ff", "topic=%+1"] {
            assert!(value(Some(query), "topic").is_err(), "{query}");
        }
    }
}
