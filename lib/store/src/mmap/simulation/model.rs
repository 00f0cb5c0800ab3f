//! What a store has promised, and what it may say after a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId, MessageKind, Payload, pb};
use prost::Message as _;

use crate::held::{DeadReason, GroupState};

pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// When messages expire, in Unix seconds.
pub(super) const EXPIRES_AT: i64 = 5_000_000;

/// Where one id stands. `version` tells publications of the same id apart, `order` orders publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Absent,
    Live { version: u32, order: u64, committed: bool, revived: bool },
    Dead { version: u32 },
}

/// One id's history since it was durable last: the first element is durable, any later one may be what a crash leaves.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) standings: Vec<Standing>,
    pub(super) notes: Vec<Vec<GroupState>>,
    /// Everything there ever was, for crashes under which nothing is promised.
    pub(super) ever: Vec<Standing>,
    pub(super) ever_noted: Vec<Vec<GroupState>>,
    pub(super) settled_at: Option<Duration>,
    /// The settling may have been forgotten, or be remembered for longer, since a restart.
    pub(super) settled_uncertain: bool,
    /// Its last steps may be in memory only, whatever is synced.
    pub(super) unlogged: bool,
    /// Something was said about it since the store was opened.
    pub(super) touched: bool,
    pub(super) slot: Option<u32>,
    pub(super) versions: u32,
}

impl Known {
    fn new() -> Self {
        Self {
            standings: vec![Standing::Absent],
            notes: vec![Vec::new()],
            ever: vec![Standing::Absent],
            ever_noted: vec![Vec::new()],
            settled_at: None,
            settled_uncertain: false,
            unlogged: false,
            touched: false,
            slot: None,
            versions: 0,
        }
    }

    pub(super) fn now(&self) -> &Standing {
        self.standings.last().expect("a history begins somewhere")
    }

    pub(super) fn becomes(&mut self, standing: Standing) {
        self.touched = true;
        self.ever.push(standing.clone());
        self.standings.push(standing);
    }

    /// A step that was promised.
    pub(super) fn becomes_durably(&mut self, standing: Standing) {
        self.becomes(standing);
        self.standings.drain(..self.standings.len() - 1);
        self.unlogged = false;
    }

    pub(super) fn noted(&mut self, states: Vec<GroupState>) {
        self.touched = true;
        self.ever_noted.push(states.clone());
        self.notes.push(states);
    }

    /// A step that may have reached the disk although it was reported as failed.
    pub(super) fn may_have_become(&mut self, standing: Standing) {
        let now = self.now().clone();
        self.becomes(standing);
        self.becomes(now);
    }
}

/// Every id that a simulation uses.
pub(super) struct Model {
    pub(super) ids: BTreeMap<MessageId, Known>,
    pub(super) next_order: u64,
}

impl Model {
    pub(super) fn new(count: u32) -> Self {
        Self { ids: (0..count).map(|number| (id(number), Known::new())).collect(), next_order: 0 }
    }

    pub(super) fn known(&mut self, id: &MessageId) -> &mut Known {
        self.ids.get_mut(id).expect("only ids of the model are used")
    }

    /// Everything is on the disk.
    pub(super) fn all_durable(&mut self) {
        for known in self.ids.values_mut().filter(|known| !known.unlogged) {
            known.standings.drain(..known.standings.len() - 1);
            known.notes.drain(..known.notes.len() - 1);
        }
    }

    pub(super) fn select(&self, wanted: impl Fn(&Standing) -> bool) -> Vec<MessageId> {
        self.ids.iter().filter(|(_, known)| wanted(known.now())).map(|(id, _)| *id).collect()
    }

    pub(super) fn held(&self) -> u64 {
        self.select(|standing| *standing != Standing::Absent).len() as u64
    }
}

pub(super) fn id(number: u32) -> MessageId {
    let mut id = [0x77; 16];
    id[4..8].copy_from_slice(&number.to_le_bytes());
    MessageId(id)
}

/// The message that is published as `version` of `id`: its content follows from both.
pub(super) fn message(id: MessageId, version: u32, committed: bool) -> Message {
    let mut random =
        fastrand::Rng::with_seed(u64::from(id.0[4]) << 32 | u64::from(id.0[5]) << 40 | u64::from(version));
    let len = if random.u8(..20) == 0 { random.usize(3000..6000) } else { random.usize(..600) };
    let body: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
    let topic = ["trade", "feed", "a-topic-with-a-long-name"][random.usize(..3)];
    let kind = if version.is_multiple_of(2) { MessageKind::Bytes } else { MessageKind::String };
    let header = pb::Header {
        message_id: id.to_string(),
        topic: topic.to_owned(),
        message_type: "type".to_owned(),
        expired_time: EXPIRES_AT,
        // Tells which version it is.
        deliver_limit: i32::try_from(version).expect("few versions"),
        group_id: "p".to_owned(),
        commit: committed,
        fly: false,
        ..pb::Header::default()
    };
    let encoded = pb::BytesMessage { header, body: body.into() }.encode_to_vec();
    Message::decode(kind, &encoded.into()).expect("a message")
}

/// Whether this is what was published, prepared or not.
pub(super) fn is_payload_of(payload: &Payload, id: MessageId, version: u32) -> bool {
    [true, false].into_iter().any(|committed| message(id, version, committed).payload == *payload)
}

pub(super) fn death_of(id: MessageId, version: u32) -> (DeadReason, Vec<Bytes>) {
    let reason = [DeadReason::DeliverLimit, DeadReason::Expired, DeadReason::NoVerdict];
    let groups = (0..version % 3).map(|number| Bytes::from(format!("s-{number}"))).collect();
    (reason[(id.0[4] as usize + version as usize) % 3], groups)
}
