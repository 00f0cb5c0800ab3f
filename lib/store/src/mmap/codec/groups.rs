//! Group states within a record.

use bytes::Bytes;

use super::u32_at;
use crate::held::GroupState;

const FIXED_LEN: usize = 9;

/// Length of the encoding of group states with these names.
pub(crate) fn groups_len<'a>(names: impl Iterator<Item = &'a [u8]>) -> usize {
    names.map(|name| FIXED_LEN + name.len()).sum()
}

pub(super) fn put_group(buffer: &mut Vec<u8>, group: &[u8], attempts: u32, done: bool) {
    buffer.extend_from_slice(&attempts.to_le_bytes());
    buffer.push(u8::from(done));
    buffer.extend_from_slice(&(group.len() as u32).to_le_bytes());
    buffer.extend_from_slice(group);
}

/// The encoding of groups of which only the names matter.
pub(crate) fn encode_group_names(groups: &[Bytes]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for group in groups {
        put_group(&mut encoded, group, 0, false);
    }
    encoded
}

/// Reads `count` group states; `None` when the bytes are not exactly that.
pub(crate) fn decode_groups(mut bytes: &[u8], count: u32) -> Option<Vec<GroupState>> {
    if bytes.len() < FIXED_LEN * count as usize {
        return None;
    }
    let mut groups = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (fixed, rest) = bytes.split_at_checked(FIXED_LEN)?;
        let (group, rest) = rest.split_at_checked(u32_at(fixed, 5) as usize)?;
        groups.push(GroupState {
            group: Bytes::copy_from_slice(group),
            attempts: u32_at(fixed, 0),
            done: fixed[4] != 0,
        });
        bytes = rest;
    }
    bytes.is_empty().then_some(groups)
}
