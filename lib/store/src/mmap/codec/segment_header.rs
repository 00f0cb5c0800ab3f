//! The first and last bytes of a segment file.

use super::{FORMAT_VERSION, SEGMENT_HEADER_LEN, seed_of, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"KITEQLOG";

/// What a segment is. Its place in the format is in [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    pub(crate) unique_id: u64,
    pub(crate) first_lsn: u64,
    pub(crate) file_len: u64,
    pub(crate) written_at: i64,
}

/// Why bytes are not a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    /// Only zeros: the file was never used.
    #[error("it was never written")]
    Unused,
    #[error("it does not begin with {:?}", "KITEQLOG")]
    Magic,
    #[error("it has format {found}, this version reads format {FORMAT_VERSION}")]
    Version { found: u32 },
    #[error("its header is damaged (checksum)")]
    Checksum,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.unique_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.file_len.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.written_at.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<Self, HeaderFault> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(HeaderFault::Unused);
        }
        if &bytes[..8] != MAGIC {
            return Err(HeaderFault::Magic);
        }
        // The checksum comes after the version, so that another version may put it elsewhere.
        let found = u32_at(bytes, 8);
        if found != FORMAT_VERSION {
            return Err(HeaderFault::Version { found });
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err(HeaderFault::Checksum);
        }
        Ok(Self {
            number: u32_at(bytes, 12),
            unique_id: u64_at(bytes, 16),
            first_lsn: u64_at(bytes, 24),
            file_len: u64_at(bytes, 32),
            written_at: u64_at(bytes, 40) as i64,
        })
    }

    /// What the checksums of this segment's records start from.
    pub(crate) fn seed(&self) -> u32 {
        seed_of(self.unique_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        number: 7,
        unique_id: 0x0123_4567_89ab_cdef,
        first_lsn: 1000,
        file_len: 64 << 20,
        written_at: 1_700_000_000,
    };

    #[test]
    fn a_header_is_written_as_documented() {
        let bytes = HEADER.encode();
        let mut expected = b"KITEQLOG\x01\0\0\0\x07\0\0\0\xef\xcd\xab\x89\x67\x45\x23\x01".to_vec();
        expected.extend_from_slice(b"\xe8\x03\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\xf1\x53\x65\0\0\0\0");
        expected.extend_from_slice(&[0; 12]);
        assert_eq!(bytes[..60], expected);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
    }

    #[test]
    fn what_is_wrong_with_a_header_is_told_apart() {
        assert_eq!(SegmentHeader::decode(&[0; 64]), Err(HeaderFault::Unused));
        assert_eq!(SegmentHeader::decode(&[b'x'; 64]), Err(HeaderFault::Magic));
        let mut bytes = HEADER.encode();
        bytes[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Checksum));
        bytes[8] = 9;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Version { found: 9 }));
    }
}
