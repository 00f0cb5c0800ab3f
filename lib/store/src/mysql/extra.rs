//! What the columns of a row cannot hold: how far each group is, and why a letter is dead.
//!
//! The columns are those of the Go broker: `deliver_count` is one number for all groups, and `fail_groups` and `succ_groups`
//! end after 255 characters. They are written as far as they go, so that a Go broker and a person can read them. What they
//! cannot say exactly stands at the end of the encoded header, in two fields that the protocol does not use:
//!
//! | field of Header | value |
//! |---|---|
//! | 1000, bytes | groups: for each, field 1 = { 1: name, 2: failed attempts, 3: 1 when the group is done } |
//! | 1001, bytes | death: 1: reason (1 deliver limit, 2 expired, 3 no verdict, 4 unreadable), 2: unix seconds, 3: name of a group that did not get it, repeated |
//!
//! Decoders skip fields that they do not know, and both are taken off before a message is given to anybody.

use bytes::{Bytes, BytesMut};
use kiteq_protocol::scan::{Fields, Value, put_bytes_field, put_varint_field};

use crate::held::{DeadReason, GroupState};

const GROUPS: u32 = 1000;
const DEATH: u32 = 1001;

/// Length of `fail_groups` and `succ_groups`.
const COLUMN_CHARS: usize = 255;

/// The state of a message's groups as the columns say it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) deliver_count: i64,
    pub(super) fail_groups: String,
    pub(super) succ_groups: String,
}

/// The columns for these states, and the extra field where they do not say all of it.
pub(super) fn write_groups(states: &[GroupState]) -> (Columns, Option<BytesMut>) {
    let failed = || states.iter().filter(|state| !state.done);
    let done = || states.iter().filter(|state| state.done);
    let deliver_count = failed().map(|state| state.attempts).max().unwrap_or(0);
    let (fail_groups, all_failed) = to_json(failed().map(|state| &state.group));
    let (succ_groups, all_done) = to_json(done().map(|state| &state.group));
    let is_exact = all_failed
        && all_done
        && failed().all(|state| state.attempts == deliver_count)
        && done().all(|state| state.attempts == 0)
        && states.iter().skip_while(|state| !state.done).all(|state| state.done);
    let extra = (!is_exact).then(|| {
        let mut groups = BytesMut::new();
        for state in states {
            let mut group = BytesMut::new();
            put_bytes_field(&mut group, 1, &state.group);
            put_varint_field(&mut group, 2, u64::from(state.attempts));
            put_varint_field(&mut group, 3, u64::from(state.done));
            put_bytes_field(&mut groups, 1, &group);
        }
        let mut extra = BytesMut::new();
        put_bytes_field(&mut extra, GROUPS, &groups);
        extra
    });
    (Columns { deliver_count: i64::from(deliver_count), fail_groups, succ_groups }, extra)
}

/// The field that says why a letter is dead, and the column for its groups.
pub(super) fn write_death(reason: DeadReason, died_at: i64, groups: &[Bytes]) -> (String, BytesMut) {
    let mut death = BytesMut::new();
    put_varint_field(&mut death, 1, reason as u64);
    put_varint_field(&mut death, 2, died_at.max(0) as u64);
    for group in groups {
        put_bytes_field(&mut death, 3, group);
    }
    let mut extra = BytesMut::new();
    put_bytes_field(&mut extra, DEATH, &death);
    (to_json(groups.iter()).0, extra)
}

/// A JSON array of as many names as the column holds, and whether these are all and exactly.
fn to_json<'a>(names: impl Iterator<Item = &'a Bytes>) -> (String, bool) {
    let mut json = "[".to_owned();
    let (mut chars, mut is_all) = (2, true);
    for name in names {
        let text = String::from_utf8_lossy(name);
        is_all &= matches!(text, std::borrow::Cow::Borrowed(_));
        let quoted = serde_json::Value::from(&*text).to_string();
        chars += quoted.chars().count() + 1;
        if chars > COLUMN_CHARS {
            is_all = false;
            break;
        }
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&quoted);
    }
    json.push(']');
    (json, is_all)
}

/// A row's header, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// Length of the header as it was published.
    pub(super) header_len: usize,
    pub(super) groups: Option<Vec<GroupState>>,
    pub(super) death: Option<Death>,
}

/// Why a letter is dead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) reason: DeadReason,
    pub(super) died_at: i64,
    pub(super) groups: Vec<Bytes>,
}

/// Looks for the extra fields. What is not well-formed ends the search, and belongs to the header then.
pub(super) fn read(header: &[u8]) -> Extra {
    let mut extra = Extra { header_len: header.len(), ..Extra::default() };
    let mut fields = Fields::of(header);
    let mut start = 0;
    while let Some(Ok(field)) = fields.next() {
        match (field.number, field.value) {
            (GROUPS, Value::Bytes(bytes)) => extra.groups = Some(read_groups(bytes)),
            (DEATH, Value::Bytes(bytes)) => extra.death = read_death(bytes),
            _ => {
                start = fields.offset();
                continue;
            }
        }
        extra.header_len = extra.header_len.min(start);
    }
    extra
}

fn read_groups(bytes: &[u8]) -> Vec<GroupState> {
    let states = Fields::of(bytes).filter_map(|field| match field.ok()?.value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    });
    let state = |bytes| {
        let mut state = GroupState { group: Bytes::new(), attempts: 0, done: false };
        for field in Fields::of(bytes).flatten() {
            match (field.number, field.value) {
                (1, Value::Bytes(name)) => state.group = Bytes::copy_from_slice(name),
                (2, Value::Varint(attempts)) => state.attempts = attempts as u32,
                (3, Value::Varint(done)) => state.done = done != 0,
                _ => {}
            }
        }
        state
    };
    states.map(state).collect()
}

fn read_death(bytes: &[u8]) -> Option<Death> {
    let (mut reason, mut died_at, mut groups) = (None, 0, Vec::new());
    for field in Fields::of(bytes).flatten() {
        match (field.number, field.value) {
            (1, Value::Varint(number)) => {
                reason = [
                    DeadReason::DeliverLimit,
                    DeadReason::Expired,
                    DeadReason::NoVerdict,
                    DeadReason::Unreadable,
                ]
                .into_iter()
                .find(|reason| *reason as u64 == number);
            }
            (2, Value::Varint(at)) => died_at = at as i64,
            (3, Value::Bytes(name)) => groups.push(Bytes::copy_from_slice(name)),
            _ => {}
        }
    }
    Some(Death { reason: reason?, died_at, groups })
}

/// The states that the columns say, where no extra field says more. A group that only the columns know to be done is done: a
/// Go broker writes columns alone.
pub(super) fn groups_of(columns: &Columns, extra: Option<Vec<GroupState>>) -> Vec<GroupState> {
    let attempts = u32::try_from(columns.deliver_count.max(0)).unwrap_or(u32::MAX);
    let mut states = extra.unwrap_or_else(|| {
        from_json(&columns.fail_groups)
            .into_iter()
            .map(|group| GroupState { group, attempts, done: false })
            .collect()
    });
    for group in from_json(&columns.succ_groups) {
        match states.iter_mut().find(|state| state.group == group) {
            Some(state) => state.done = true,
            None => states.push(GroupState { group, attempts: 0, done: true }),
        }
    }
    states
}

/// The names in a JSON array. A Go broker writes `null` and nothing at all for none.
pub(super) fn from_json(text: &str) -> Vec<Bytes> {
    let names: Option<Vec<String>> = serde_json::from_str(text).unwrap_or_default();
    names.unwrap_or_default().into_iter().map(Bytes::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(group: &str, attempts: u32, done: bool) -> GroupState {
        GroupState { group: Bytes::copy_from_slice(group.as_bytes()), attempts, done }
    }

    fn round_trip(states: &[GroupState]) -> (Columns, bool) {
        let (columns, field) = write_groups(states);
        let header = b"\x0a\x01x".to_vec();
        let stored = [header.as_slice(), field.as_deref().unwrap_or_default()].concat();
        let extra = read(&stored);
        assert_eq!(extra.header_len, header.len());
        assert_eq!(groups_of(&columns, extra.groups), states);
        (columns, field.is_some())
    }

    #[test]
    fn what_the_columns_can_say_needs_no_extra_field() {
        let (columns, has_extra) = round_trip(&[state("s-a", 3, false), state("s-b", 0, true)]);
        let expected = Columns {
            deliver_count: 3,
            fail_groups: "[\"s-a\"]".to_owned(),
            succ_groups: "[\"s-b\"]".to_owned(),
        };
        assert_eq!((columns, has_extra), (expected, false));
        assert_eq!(round_trip(&[]).0.fail_groups, "[]");
    }

    #[test]
    fn what_they_cannot_say_is_kept_all_the_same() {
        assert!(round_trip(&[state("s-a", 3, false), state("s-b", 1, false)]).1);
        assert!(round_trip(&[state("s-a", 0, true), state("s-b", 1, false)]).1);
        let many: Vec<_> = (0..60).map(|number| state(&format!("s-group-{number}"), 2, false)).collect();
        let (columns, has_extra) = round_trip(&many);
        assert!(has_extra && columns.fail_groups.len() <= 255 && columns.fail_groups.ends_with("\"]"));
        let odd = GroupState { group: Bytes::from_static(&[0xff, b'"']), attempts: 1, done: false };
        assert!(round_trip(&[odd]).1);
    }

    #[test]
    fn the_bytes_of_the_extra_fields_stay_as_they_are() {
        let (_, field) = write_groups(&[state("a", 2, false), state("b", 1, false)]);
        assert_eq!(
            &field.unwrap()[..],
            b"\xc2\x3e\x12\x0a\x07\x0a\x01a\x10\x02\x18\x00\x0a\x07\x0a\x01b\x10\x01\x18\x00"
        );
        let (column, field) = write_death(DeadReason::Expired, 300, &[Bytes::from_static(b"a")]);
        assert_eq!(column, "[\"a\"]");
        assert_eq!(&field[..], b"\xca\x3e\x08\x08\x02\x10\xac\x02\x1a\x01a");
    }

    #[test]
    fn a_death_is_read_back_behind_the_groups() {
        let (_, groups) = write_groups(&[state("a", 2, false), state("b", 1, false)]);
        let (_, death) = write_death(DeadReason::NoVerdict, 7, &[]);
        let stored = [b"\x0a\x01x".as_slice(), &groups.unwrap(), &death].concat();
        let extra = read(&stored);
        assert_eq!(extra.header_len, 3);
        let expected = Death { reason: DeadReason::NoVerdict, died_at: 7, groups: Vec::new() };
        assert_eq!(extra.death, Some(expected));
        assert_eq!(extra.groups.unwrap().len(), 2);
    }

    #[test]
    fn a_go_brokers_columns_are_read() {
        let columns = Columns {
            deliver_count: 5,
            fail_groups: "[\"s-mts-test\"]".to_owned(),
            succ_groups: "[\"s-other\"]".to_owned(),
        };
        let expected = [state("s-mts-test", 5, false), state("s-other", 0, true)];
        assert_eq!(groups_of(&columns, None), expected);
        for nothing in ["", "null", "[]", "garbage"] {
            assert_eq!(from_json(nothing), Vec::<Bytes>::new(), "{nothing:?}");
        }
    }

    #[test]
    fn a_header_that_does_not_decode_is_left_as_it_is() {
        assert_eq!(read(&[0x0a, 0x55, 1]).header_len, 3);
        assert_eq!(read(&[]).header_len, 0);
    }
}
