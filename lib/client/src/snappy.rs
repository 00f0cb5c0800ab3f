//! Body compression as existing clients do it: raw snappy; for a string, its base64 form (standard alphabet, padded).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kiteq_protocol::MessageKind;

/// Why a compressed body cannot be undone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecompressError {
    /// The body of a string message is not base64.
    #[error("the compressed string is not base64: {reason}")]
    Base64 {
        /// What the decoder found.
        reason: String,
    },
    /// The bytes are not raw snappy.
    #[error("the body is not snappy: {reason}")]
    Snappy {
        /// What the decoder found.
        reason: String,
    },
    /// The body would become larger than the limit. Nothing of it has been decompressed.
    #[error("the body decompresses to {len} bytes, the limit is {limit}")]
    TooLarge {
        /// Announced length, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

/// The compressed form of `body`, or `None` where that is not smaller.
pub(crate) fn compress(kind: MessageKind, body: &[u8]) -> Option<Bytes> {
    let compressed = snap::raw::Encoder::new().compress_vec(body).ok()?;
    let compressed = match kind {
        MessageKind::Bytes => compressed,
        MessageKind::String => STANDARD.encode(compressed).into_bytes(),
    };
    (compressed.len() < body.len()).then(|| compressed.into())
}

/// Undoes [`compress`], and what other clients do. Refuses before it allocates more than `bytes_max`.
pub(crate) fn decompress(kind: MessageKind, body: &[u8], bytes_max: usize) -> Result<Bytes, DecompressError> {
    let decoded;
    let compressed = match kind {
        MessageKind::Bytes => body,
        MessageKind::String => {
            decoded = STANDARD
                .decode(body)
                .map_err(|error| DecompressError::Base64 { reason: error.to_string() })?;
            &decoded
        }
    };
    let snappy = |error: snap::Error| DecompressError::Snappy { reason: error.to_string() };
    let len = snap::raw::decompress_len(compressed).map_err(snappy)?;
    if len > bytes_max {
        return Err(DecompressError::TooLarge { len, limit: bytes_max });
    }
    snap::raw::Decoder::new().decompress_vec(compressed).map(Bytes::from).map_err(snappy)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 20;

    #[test]
    fn the_forms_in_the_field_are_read() {
        // Raw snappy of "echo": length 4, then a literal of four bytes.
        let raw = [0x04, 0x0c, b'e', b'c', b'h', b'o'];
        assert_eq!(decompress(MessageKind::Bytes, &raw, LIMIT).unwrap(), "echo");
        assert_eq!(decompress(MessageKind::String, b"BAxlY2hv", LIMIT).unwrap(), "echo");
    }

    #[test]
    fn a_body_that_does_not_shrink_stays_as_it_is() {
        assert_eq!(compress(MessageKind::Bytes, b"echo"), None);
        assert_eq!(compress(MessageKind::String, b""), None);
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        // Announces 4 GiB - 1 and holds nothing.
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        let error = decompress(MessageKind::Bytes, &bomb, LIMIT).unwrap_err();
        assert_eq!(error, DecompressError::TooLarge { len: u32::MAX as usize, limit: LIMIT });
        let zeros = vec![0; LIMIT + 1];
        let bomb = compress(MessageKind::Bytes, &zeros).unwrap();
        assert!(bomb.len() < LIMIT / 16);
        assert!(matches!(
            decompress(MessageKind::Bytes, &bomb, LIMIT),
            Err(DecompressError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(text in "[a-c]{0,400}") {
            for kind in [MessageKind::Bytes, MessageKind::String] {
                if let Some(compressed) = compress(kind, text.as_bytes()) {
                    prop_assert!(compressed.len() < text.len());
                    prop_assert_eq!(decompress(kind, &compressed, LIMIT).unwrap(), text.as_bytes());
                }
            }
        }

        #[test]
        fn no_bytes_crash_the_decompression(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in [MessageKind::Bytes, MessageKind::String] {
                if let Ok(body) = decompress(kind, &bytes, LIMIT) {
                    prop_assert!(body.len() <= LIMIT);
                }
            }
        }
    }
}
