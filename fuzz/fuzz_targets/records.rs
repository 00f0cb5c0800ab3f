//! A log of records that nobody wrote but whose checksums are right: recovery takes what makes sense, skips the rest, and
//! the store works afterwards.

#![no_main]

use std::fs;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

const SEGMENT_LEN: usize = 1 << 20;
const UNIQUE_ID: u64 = 7;

/// See the table in lib/store/src/mmap/codec/mod.rs.
#[derive(Debug, Arbitrary)]
struct Record {
    kind: u8,
    flags: u8,
    command: bool,
    reason: u8,
    count: u8,
    /// Ids come from a small set, so that records speak of the same messages.
    id: Option<u8>,
    body: Vec<u8>,
}

impl Record {
    fn write(&self, segment: &mut Vec<u8>, lsn: u64) {
        let mut record = vec![0; 4];
        let id = self.id.map(|id| [id % 4; 16]);
        let len = 24 + id.map_or(0, |id| id.len()) + self.body.len();
        record.extend_from_slice(&(len as u32).to_le_bytes());
        record.extend_from_slice(&lsn.to_le_bytes());
        record.extend_from_slice(&[self.kind % 12, self.flags, 0x11 + u8::from(self.command), self.reason]);
        record.extend_from_slice(&u32::from(self.count).to_le_bytes());
        record.extend_from_slice(id.as_ref().map_or(&[], |id| id));
        record.extend_from_slice(&self.body);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&UNIQUE_ID.to_le_bytes()), &record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        record.resize(record.len().next_multiple_of(8), 0);
        segment.extend_from_slice(&record);
    }
}

fn header() -> Vec<u8> {
    let mut header = b"KITEQLOG".to_vec();
    header.extend_from_slice(&1u32.to_le_bytes());
    header.extend_from_slice(&1u32.to_le_bytes());
    header.extend_from_slice(&UNIQUE_ID.to_le_bytes());
    header.extend_from_slice(&1u64.to_le_bytes());
    header.extend_from_slice(&(SEGMENT_LEN as u64).to_le_bytes());
    header.extend_from_slice(&1_700_000_000u64.to_le_bytes());
    header.extend_from_slice(&[0; 12]);
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

fuzz_target!(|records: Vec<Record>| {
    let mut segment = header();
    for (index, record) in records.iter().enumerate() {
        if segment.len() + record.body.len() + 256 < SEGMENT_LEN {
            record.write(&mut segment, index as u64 + 1);
        }
    }
    segment.resize(SEGMENT_LEN - 64, 0);
    segment.extend_from_slice(&header());

    let Ok(directory) = tempfile::tempdir() else { return };
    let uri = format!("mmap://{}?sync=os&segment=1MiB", directory.path().display());
    // A first opening writes whatever else belongs into the directory.
    for content in [None, Some(segment)] {
        if let Some(content) = content {
            fs::write(directory.path().join("log-0000000001.kiteq"), content).expect("a segment");
        }
        let store = kiteq_store::open(&uri).expect("a store");
        let mut slots = Vec::new();
        store.recover(&mut |recovered| slots.push(recovered.slot)).expect("a recovery");
        let (sender, receiver) = std::sync::mpsc::channel();
        store.load(slots, Box::new(move |loaded| drop(sender.send(loaded))));
        let _ = receiver.recv().expect("an answer");
        store.dead_letters(None, 100).expect("dead letters");
        store.close().expect("a clean close");
    }
});
