//! Reading single records back.

use std::sync::Arc;

use bytes::Bytes;
use kiteq_protocol::{MessageId, Payload};

use super::codec::{MessageRecord, RECORD_HEADER_LEN, RawRecord, RecordFault, RecordType, decode_groups};
use super::disk::DiskFile;
use super::index::{Aside, Death, Entry, Index, Place};
use crate::error::StoreError;
use crate::held::{DeadLetter, GroupState, Loaded};

/// A segment file and what its checksums start from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) seed: u32,
    pub(crate) number: u32,
}

impl Source {
    pub(crate) fn unavailable(&self, error: &std::io::Error) -> StoreError {
        StoreError::Unavailable { place: self.shown(), reason: error.to_string() }
    }

    pub(crate) fn corrupt(&self, offset: u64, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt { place: format!("{} at offset {offset}", self.shown()), reason: reason.into() }
    }

    fn shown(&self) -> String {
        super::files::segment_name(self.number)
    }

    /// The bytes of the record at `offset`, unchecked.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        self.file.clone().view(offset..offset + len as u64).map_err(|error| self.unavailable(&error))
    }

    /// The bytes of a record of which only the place is known.
    pub(crate) fn read_whole(&self, offset: u64) -> Result<Bytes, StoreError> {
        let mut header = [0; RECORD_HEADER_LEN];
        self.file.read_at(&mut header, offset).map_err(|error| self.unavailable(&error))?;
        let (len, _) = RawRecord::peek(&header).map_err(|fault| self.corrupt(offset, fault.to_string()))?;
        if offset + len as u64 > self.file.len() {
            return Err(self.corrupt(offset, "the record goes beyond the end of the file"));
        }
        self.read(offset, len)
    }

    pub(crate) fn parse<'a>(&self, offset: u64, bytes: &'a [u8]) -> Result<RawRecord<'a>, StoreError> {
        RawRecord::parse(bytes, self.seed).map_err(|fault| self.corrupt(offset, fault.to_string()))
    }

    /// Checks a record and takes the message out of it.
    pub(crate) fn message<'a>(
        &self,
        offset: u64,
        bytes: &'a [u8],
        id: &MessageId,
    ) -> Result<MessageRecord<'a>, StoreError> {
        let record = self.parse(offset, bytes)?;
        if !matches!(record.record_type, RecordType::Published | RecordType::Moved) {
            return Err(self.corrupt(offset, "not a message"));
        }
        let message = record.message().map_err(|fault| self.corrupt(offset, fault.to_string()))?;
        if message.id != *id {
            return Err(self.corrupt(offset, format!("message {} is there instead of {id}", message.id)));
        }
        Ok(message)
    }

    /// A message as its caller gets it; the payload shares memory with `bytes`.
    pub(crate) fn loaded(&self, offset: u64, bytes: &Bytes, id: &MessageId) -> Result<Loaded, StoreError> {
        let message = self.message(offset, bytes, id)?;
        let payload = Payload::from_canonical(bytes.slice(message.payload.clone()))
            .map_err(|error| self.corrupt(offset, error.to_string()))?;
        Ok(Loaded { id: *id, kind: message.kind, payload, committed_elsewhere: false })
    }
}

/// Everything needed to read a dead letter, so that the index need not stay locked meanwhile.
pub(crate) struct DeadLetterPlan {
    pub(crate) entry: Entry,
    message: Result<Source, StoreError>,
    aside: Option<(Aside, Option<Source>)>,
}

impl DeadLetterPlan {
    pub(crate) fn new(index: &Index, slot: u32) -> Option<Self> {
        let entry = *index.get(slot)?;
        let aside = index.aside(slot).cloned().map(|aside| {
            let source = match &aside {
                Aside::At(place) => index.source(*place).ok(),
                Aside::Unlogged(_) => None,
            };
            (aside, source)
        });
        Some(Self { entry, message: index.source(entry.place()), aside })
    }

    /// Reads the letter.
    ///
    /// # Errors
    /// When its message cannot be read.
    pub(crate) fn read(&self) -> Result<DeadLetter, StoreError> {
        let source = self.message.clone()?;
        let offset = self.entry.place().offset();
        let bytes = source.read(offset, self.entry.record_len())?;
        let loaded = source.loaded(offset, &bytes, &self.entry.id)?;
        let death = self.death()?;
        Ok(DeadLetter {
            id: loaded.id,
            kind: loaded.kind,
            reason: death.reason,
            died_at: death.died_at,
            groups: death.groups,
            payload: loaded.payload,
        })
    }

    /// How the message died.
    pub(crate) fn death(&self) -> Result<Death, StoreError> {
        match &self.aside {
            Some((Aside::Unlogged(death), _)) => Ok(Death::clone(death)),
            Some((Aside::At(place), Some(source))) => {
                let bytes = source.read_whole(place.offset())?;
                let record = source.parse(place.offset(), &bytes)?;
                let malformed = |fault: RecordFault| source.corrupt(place.offset(), fault.to_string());
                let (died_at, reason, groups) = record.death().map_err(malformed)?;
                let groups = decode_groups(groups, record.count)
                    .ok_or_else(|| source.corrupt(place.offset(), "malformed groups"))?;
                Ok(Death { reason, died_at, groups: groups.into_iter().map(|state| state.group).collect() })
            }
            _ => Err(StoreError::Corrupt {
                place: format!("dead letter {}", self.entry.id),
                reason: "the record of its death is missing".to_owned(),
            }),
        }
    }
}

/// Reads the group states that were noted at `place`.
pub(crate) fn read_noted(source: &Source, place: Place) -> Result<Vec<GroupState>, StoreError> {
    let bytes = source.read_whole(place.offset())?;
    let record = source.parse(place.offset(), &bytes)?;
    let malformed = || source.corrupt(place.offset(), "malformed group states");
    let states = record.states().map_err(|_| malformed())?;
    decode_groups(states, record.count).ok_or_else(malformed)
}
