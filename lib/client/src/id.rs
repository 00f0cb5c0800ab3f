//! Message ids that no other process makes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use kiteq_protocol::MessageId;

/// Bytes of an id that are the same for every id of one generator.
const PREFIX_LEN: usize = 10;

/// Makes ids: 80 random bits that are the generator's own, then a 48-bit counter.
///
/// The counter comes last so that the last digit, by which some stores choose a table, goes round evenly.
#[derive(Debug)]
pub(crate) struct MessageIds {
    prefix: [u8; PREFIX_LEN],
    counter: AtomicU64,
}

impl MessageIds {
    pub(crate) fn new() -> Self {
        // Every `RandomState` hashes under its own key, which derives from the operating system's randomness.
        let random = || RandomState::new().build_hasher().finish().to_be_bytes();
        let (high, low) = (random(), random());
        let mut prefix = [0; PREFIX_LEN];
        prefix[..8].copy_from_slice(&high);
        prefix[8..].copy_from_slice(&low[..PREFIX_LEN - 8]);
        Self { prefix, counter: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> MessageId {
        let count = self.counter.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut id = [0; 16];
        id[..PREFIX_LEN].copy_from_slice(&self.prefix);
        id[PREFIX_LEN..].copy_from_slice(&count[2..]);
        MessageId(id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_many_generators_are_all_different() {
        let generators: Vec<MessageIds> = (0..100).map(|_| MessageIds::new()).collect();
        let ids: HashSet<MessageId> =
            generators.iter().flat_map(|ids| (0..100).map(|_| ids.next())).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn the_last_digit_goes_round() {
        let ids = MessageIds::new();
        let digits: HashSet<u8> = (0..16).map(|_| ids.next().0[15] & 0x0f).collect();
        assert_eq!(digits.len(), 16);
    }
}
