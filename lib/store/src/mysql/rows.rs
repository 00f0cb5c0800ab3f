//! Rows as they are read.

use bytes::{Bytes, BytesMut};
use kiteq_protocol::message::HeaderView;
use kiteq_protocol::scan::put_bytes_field_header;
use kiteq_protocol::{MessageId, MessageKind, Payload};
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::extra::{self, Columns, Extra};
use crate::held::{DeadLetter, DeadReason, Loaded};
use crate::paging::Paged;

/// What is read of a row that becomes resident.
pub(super) const PAGE_COLUMNS: &str = "id,message_id,msg_type,header,publish_time,expired_time,deliver_limit,`commit`,\
                                       deliver_count,fail_groups,succ_groups,LENGTH(body)";

/// What is read of a dead letter.
pub(super) const LETTER_COLUMNS: &str = "id,message_id,msg_type,header,publish_time,expired_time,deliver_limit,`commit`,\
                                         deliver_count,fail_groups,succ_groups,body,next_deliver_time";

/// What is read of a message that is loaded.
pub(super) const LOAD_COLUMNS: &str = "message_id,msg_type,header,body,`commit`";

fn bytes(row: &MySqlRow, index: usize) -> Vec<u8> {
    row.try_get_unchecked::<Option<Vec<u8>>, _>(index).ok().flatten().unwrap_or_default()
}

fn number(row: &MySqlRow, index: usize) -> i64 {
    row.try_get_unchecked::<Option<i64>, _>(index).ok().flatten().unwrap_or_default()
}

fn text(row: &MySqlRow, index: usize) -> String {
    String::from_utf8_lossy(&bytes(row, index)).into_owned()
}

/// A row of [`PAGE_COLUMNS`].
pub(super) struct PageRow {
    /// Its number in the table.
    pub(super) number: i64,
    /// The id as it is written.
    pub(super) id_text: Vec<u8>,
    pub(super) content: Result<PageContent, String>,
}

/// A row that makes sense; its slot is given later.
pub(super) struct PageContent {
    pub(super) paged: Paged,
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// Whether the id is written as we write it.
    pub(super) is_id_canonical: bool,
}

pub(super) fn read_page_row(row: &MySqlRow) -> PageRow {
    let id_text = bytes(row, 1);
    PageRow { number: number(row, 0), content: read_content(row, &id_text), id_text }
}

fn read_content(row: &MySqlRow, id_text: &[u8]) -> Result<PageContent, String> {
    let id = MessageId::parse(id_text).map_err(|error| error.to_string())?;
    let kind = read_kind(number(row, 2))?;
    let header = Bytes::from(bytes(row, 3));
    let Extra { header_len, groups, .. } = extra::read(&header);
    let header = header.slice(..header_len);
    let view = HeaderView::parse(&header).map_err(|error| format!("its header does not decode: {error}"))?;
    let columns =
        Columns { deliver_count: number(row, 8), fail_groups: text(row, 9), succ_groups: text(row, 10) };
    let body_len = usize::try_from(number(row, 11)).unwrap_or(0);
    let paged = Paged {
        slot: crate::held::Slot(0),
        id,
        kind,
        topic: header.slice_ref(view.topic),
        message_type: header.slice_ref(view.message_type),
        published_at: number(row, 4),
        expires_at: number(row, 5),
        deliver_limit: u32::try_from(number(row, 6)).unwrap_or(0),
        committed: number(row, 7) != 0,
        groups: extra::groups_of(&columns, groups),
    };
    Ok(PageContent {
        paged,
        header_len,
        payload_len: header_len + body_len,
        is_id_canonical: id_text == id.to_text(),
    })
}

fn read_kind(number: i64) -> Result<MessageKind, String> {
    u8::try_from(number)
        .ok()
        .and_then(MessageKind::from_byte)
        .ok_or_else(|| format!("its msg_type is {number}, which is neither 17 nor 18"))
}

/// A row of [`LOAD_COLUMNS`]; `None` when its id is none. Who committed it, the caller knows.
pub(super) fn read_loaded(row: &MySqlRow) -> Option<(MessageId, Result<Loaded, String>)> {
    let id = MessageId::parse(&bytes(row, 0)).ok()?;
    let loaded = read_kind(number(row, 1)).map(|kind| Loaded {
        id,
        kind,
        payload: payload_of(&published(bytes(row, 2)), bytes(row, 3)),
        committed_elsewhere: number(row, 4) != 0,
    });
    Some((id, loaded))
}

/// The header as it was published.
fn published(mut header: Vec<u8>) -> Vec<u8> {
    header.truncate(extra::read(&header).header_len);
    header
}

fn payload_of(header: &[u8], body: Vec<u8>) -> Payload {
    let mut head = BytesMut::with_capacity(header.len() + 16);
    put_bytes_field_header(&mut head, 1, header.len());
    head.extend_from_slice(header);
    put_bytes_field_header(&mut head, 2, body.len());
    Payload { head: head.freeze(), body: body.into() }
}

/// A dead letter as it is kept.
pub(super) struct LetterRow {
    pub(super) letter: DeadLetter,
    /// The id as it is written.
    pub(super) id_text: Vec<u8>,
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// Why it cannot be made live again.
    pub(super) defect: Option<String>,
}

/// A row of [`LETTER_COLUMNS`]; `None` when its id is none. A letter that a Go broker wrote says neither why nor when it
/// died, so that is concluded from the columns that brought it there.
pub(super) fn read_letter(row: &MySqlRow, now: i64) -> Option<LetterRow> {
    let id_text = bytes(row, 1);
    let id = MessageId::parse(&id_text).ok()?;
    let kind = read_kind(number(row, 2));
    let header = bytes(row, 3);
    let Extra { header_len, death, .. } = extra::read(&header);
    let defect = kind
        .clone()
        .err()
        .or_else(|| HeaderView::parse(&header[..header_len]).err().map(|error| error.to_string()));
    let (reason, died_at, groups) = match death {
        Some(death) => (death.reason, death.died_at, death.groups),
        None => conclude(row, defect.is_some(), now),
    };
    let payload = payload_of(&header[..header_len], bytes(row, 11));
    Some(LetterRow {
        header_len,
        payload_len: payload.len(),
        letter: DeadLetter { id, kind: kind.unwrap_or(MessageKind::Bytes), reason, died_at, groups, payload },
        id_text,
        defect,
    })
}

fn conclude(row: &MySqlRow, has_defect: bool, now: i64) -> (DeadReason, i64, Vec<Bytes>) {
    let (published_at, expires_at) = (number(row, 4), number(row, 5));
    let reason = if has_defect {
        DeadReason::Unreadable
    } else if number(row, 7) == 0 {
        DeadReason::NoVerdict
    } else if number(row, 8) >= number(row, 6) {
        DeadReason::DeliverLimit
    } else {
        DeadReason::Expired
    };
    let next_deliver_time = number(row, 12);
    let died_at = match reason {
        DeadReason::Expired | DeadReason::NoVerdict if (1..=now).contains(&expires_at) => expires_at,
        _ if (1..=now).contains(&next_deliver_time) => next_deliver_time,
        _ => published_at,
    };
    (reason, died_at, extra::from_json(&text(row, 9)))
}
