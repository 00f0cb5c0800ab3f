//! Memory of batches that have come back, for those that are filled next: given to the system and taken again it would have to be
//! cleared by the system each time.

use kiteq_flume::Batch;

/// Pieces that are kept.
const PIECES_MAX: usize = 8;
/// A larger piece is given back.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// At most 8 MiB.
#[derive(Debug, Default)]
pub(crate) struct BatchMemory {
    pieces: Vec<Vec<u8>>,
}

impl BatchMemory {
    /// Memory for a batch that is likely to take so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.pieces.pop().unwrap_or_else(|| Vec::with_capacity(bytes))
    }

    /// A batch is of no more use.
    pub(crate) fn give(&mut self, batch: Batch) {
        let piece = batch.into_memory();
        if self.pieces.len() < PIECES_MAX && piece.capacity() <= PIECE_BYTES_MAX {
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
        (0..2 * PIECES_MAX).for_each(|_| memory.give(batch(1000)));
        memory.give(batch(2 * PIECE_BYTES_MAX));
        assert_eq!(memory.pieces.len(), PIECES_MAX);
        assert!(memory.pieces.iter().all(|piece| piece.capacity() < PIECE_BYTES_MAX));
        assert!(memory.take(0).capacity() >= 1000);
    }
}
