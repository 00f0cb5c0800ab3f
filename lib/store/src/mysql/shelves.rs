//! What shelves there are: a small table that all brokers share.
//!
//! A row is written in the transaction that puts the first message on a shelf, so that no message lies where nobody looks. Two
//! shelves may have one id, as that is a hash; `checksum` tells them apart.

use bytes::{Buf, BufMut, Bytes};
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use crate::paging::{Shelf, ShelfId};

/// Tells shelves with one id apart: the same hash from another start.
pub(super) fn checksum(shelf: &Shelf) -> u32 {
    let seed = crc32c::crc32c(b"kiteq shelf");
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &shelf.topic), &encode_groups(&shelf.groups))
}

/// Names as they stand in the column: for each, its length as a u32, big-endian, and its bytes.
pub(super) fn encode_groups(groups: &[Bytes]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for group in groups {
        encoded.put_u32(group.len() as u32);
        encoded.put_slice(group);
    }
    encoded
}

fn decode_groups(mut encoded: Bytes) -> Option<Vec<Bytes>> {
    let mut groups = Vec::new();
    while encoded.has_remaining() {
        let len = encoded.try_get_u32().ok()? as usize;
        if encoded.remaining() < len {
            return None;
        }
        groups.push(encoded.split_to(len));
    }
    Some(groups)
}

/// A row of `id, topic, groups`. `None` for one that does not decode.
pub(super) fn read(row: &MySqlRow) -> Option<Shelf> {
    let id: i64 = row.try_get_unchecked(0).ok()?;
    let topic: Vec<u8> = row.try_get_unchecked(1).ok()?;
    let groups: Vec<u8> = row.try_get_unchecked(2).ok()?;
    let id = ShelfId(u32::try_from(id).ok()?);
    Some(Shelf { id, topic: topic.into(), groups: decode_groups(groups.into())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_round_trip_and_torn_ones_are_noticed() {
        let groups = vec![Bytes::from_static(b"s-a"), Bytes::new(), Bytes::from_static(&[0xff, 0])];
        let encoded = Bytes::from(encode_groups(&groups));
        assert_eq!(encoded[..7], *b"\0\0\0\x03s-a");
        assert_eq!(decode_groups(encoded.clone()), Some(groups));
        assert_eq!(decode_groups(encoded.slice(..5)), None);
        assert_eq!(decode_groups(encoded.slice(..2)), None);
    }

    #[test]
    fn checksums_tell_shelves_apart() {
        let shelf = |topic: &'static str| Shelf::new(Bytes::from_static(topic.as_bytes()), vec![]);
        assert_ne!(checksum(&shelf("a")), checksum(&shelf("b")));
        assert_ne!(checksum(&shelf("a")), shelf("a").id.0);
    }
}
