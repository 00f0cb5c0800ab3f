//! Reads messages back on a thread of its own, so that no read waits for a sync.

use std::ops::Range;

use bytes::Bytes;
use kiteq_protocol::MessageId;

use super::engine::Shared;
use super::index::Place;
use super::read::Source;
use crate::error::StoreError;
use crate::held::{Done, Loaded, Slot};
use crate::mailbox::lock;

/// Records this near to each other are read as one piece.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// A piece is at most so long, or one record: what is handed out keeps all of its piece in memory.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// One call.
pub(crate) struct Load {
    pub(crate) slots: Vec<Slot>,
    pub(crate) done: Done<Vec<Result<Loaded, StoreError>>>,
}

/// A record to read, and where in the answers it belongs.
struct Wanted {
    id: MessageId,
    place: Place,
    len: usize,
    answer: usize,
    source: usize,
}

impl Wanted {
    fn range(&self) -> Range<u64> {
        let offset = self.place.offset();
        offset..offset + self.len as u64
    }
}

/// Answers all `loads`: records that are neighbours on the disk are read together, whoever asked for them.
pub(crate) fn answer(shared: &Shared, loads: &mut Vec<Load>) {
    let count = loads.iter().map(|load| load.slots.len()).sum();
    let mut answers: Vec<Result<Loaded, StoreError>> = Vec::with_capacity(count);
    let (mut wanted, sources) = plan(shared, loads, &mut answers);
    wanted.sort_unstable_by_key(|wanted| wanted.place);
    let mut rest = &wanted[..];
    while let Some(first) = rest.first() {
        let mut end = first.range().end;
        let together = rest
            .iter()
            .take_while(|next| {
                let range = next.range();
                let near = next.place.segment == first.place.segment
                    && range.start <= end + GAP_BYTES_MAX
                    && range.end - first.range().start <= PIECE_BYTES_MAX.max(first.len as u64);
                end = if near { end.max(range.end) } else { end };
                near
            })
            .count();
        let (piece, later) = rest.split_at(together);
        read_piece(&sources[first.source], piece, end, &mut answers);
        rest = later;
    }
    let mut answers = answers.into_iter();
    for load in loads.drain(..) {
        (load.done)(answers.by_ref().take(load.slots.len()).collect());
    }
}

/// Looks everything up under one lock. Answers are errors until they are read.
fn plan(
    shared: &Shared,
    loads: &[Load],
    answers: &mut Vec<Result<Loaded, StoreError>>,
) -> (Vec<Wanted>, Vec<Source>) {
    let mut wanted = Vec::with_capacity(answers.capacity());
    let mut sources: Vec<Source> = Vec::new();
    if lock(&shared.health).closed {
        answers.extend(loads.iter().flat_map(|load| &load.slots).map(|_| Err(StoreError::Closed)));
        return (wanted, sources);
    }
    let index = lock(&shared.index);
    for slot in loads.iter().flat_map(|load| &load.slots) {
        let answer = answers.len();
        let Some(entry) = index.get(slot.0) else {
            answers.push(Err(StoreError::Corrupt {
                place: format!("slot {}", slot.0),
                reason: "no message is held there".to_owned(),
            }));
            continue;
        };
        let place = entry.place();
        let known = sources.iter().rposition(|source| source.number == place.segment);
        let source = match known {
            Some(known) => known,
            None => match index.source(place) {
                Ok(source) => {
                    sources.push(source);
                    sources.len() - 1
                }
                Err(error) => {
                    answers.push(Err(error));
                    continue;
                }
            },
        };
        answers.push(Err(StoreError::Closed));
        wanted.push(Wanted { id: entry.id, place, len: entry.record_len(), answer, source });
    }
    (wanted, sources)
}

fn read_piece(source: &Source, piece: &[Wanted], end: u64, answers: &mut [Result<Loaded, StoreError>]) {
    let Some(start) = piece.first().map(|first| first.place.offset()) else { return };
    let read = source.read(start, (end - start) as usize);
    for wanted in piece {
        let Range { start: from, end: to } = wanted.range();
        answers[wanted.answer] = match &read {
            Ok(bytes) => {
                let record: Bytes = bytes.slice((from - start) as usize..(to - start) as usize);
                source.loaded(from, &record, &wanted.id)
            }
            // What is wrong with a neighbour must not cost this one.
            Err(_) if piece.len() > 1 => {
                source.read(from, wanted.len).and_then(|record| source.loaded(from, &record, &wanted.id))
            }
            Err(error) => Err(error.clone()),
        };
    }
}
