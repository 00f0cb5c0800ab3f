//! Memory of batches that have come back, for those that are filled next: given to the system and taken again it would have to be
//! cleared by the system each time.

use kiteq_flume::Batch;

/// Bytes of all pieces that are kept.
const BYTES_MAX: usize = 8 << 20;
/// A larger piece is given back.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// Pieces; the one that came back last is taken first.
#[derive(Debug, Default)]
pub(crate) struct BatchMemory {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
}

impl BatchMemory {
    /// Memory for a batch that is likely to take so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let Some(piece) = self.pieces.pop() else { return Vec::with_capacity(bytes) };
        self.bytes -= piece.capacity();
        piece
    }

    /// A batch is of no more use.
    pub(crate) fn give(&mut self, batch: Batch) {
        let piece = batch.into_memory();
        if piece.capacity() <= PIECE_BYTES_MAX && self.bytes + piece.capacity() <= BYTES_MAX {
            self.bytes += piece.capacity();
            self.pieces.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use kiteq_flume::{BatchBuilder, Protocol};

    use super::*;

    fn batch(bytes: usize) -> Batch {
        let mut builder = BatchBuilder::new(Protocol::Compact, usize::MAX);
        builder.push(&[], &[&vec![0; bytes]]).unwrap();
        builder.finish()
    }

    #[test]
    fn a_bounded_amount_is_kept_and_used_again() {
        let mut memory = BatchMemory::default();
        assert_eq!(memory.take(100).capacity(), 100);
        memory.give(batch(2 * PIECE_BYTES_MAX));
        assert_eq!(memory.bytes, 0);
        (0..100).for_each(|_| memory.give(batch(PIECE_BYTES_MAX / 4)));
        assert!((BYTES_MAX / 2..=BYTES_MAX).contains(&memory.bytes), "{}", memory.bytes);
        assert_eq!(memory.pieces.iter().map(Vec::capacity).sum::<usize>(), memory.bytes);
        while memory.bytes > 0 {
            assert!(memory.take(0).capacity() >= PIECE_BYTES_MAX / 4);
        }
        assert!(memory.pieces.is_empty());
    }
}
