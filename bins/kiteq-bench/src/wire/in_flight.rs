//! The window of one producer connection: which publishes wait for their ack, found by opaque.

use crate::stamp::MessageNumber;

/// The largest window: an opaque's lower half is the place in the table.
pub const WINDOW_MAX: usize = 1 << 16;

/// A publish that waits for its ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Which message.
    pub number: MessageNumber,
    /// When it was to be sent, ns of the monotonic clock.
    pub sent_at_ns: u64,
    /// A transaction whose verdict follows the ack.
    pub prepared: bool,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    opaque: u32,
    taken: bool,
    pending: Pending,
}

/// A table of fixed size. An opaque is `generation << 16 | slot`, so a late or repeated ack matches nothing.
#[derive(Debug)]
pub struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl InFlight {
    /// A table of `window` places, at most [`WINDOW_MAX`].
    #[must_use]
    pub fn new(window: usize) -> Self {
        let window = window.clamp(1, WINDOW_MAX);
        let pending = Pending { number: MessageNumber(0), sent_at_ns: 0, prepared: false };
        let slot = |index: usize| Slot { opaque: index as u32, taken: false, pending };
        Self {
            slots: (0..window).map(slot).collect(),
            free: (0..window).rev().map(|index| index as u16).collect(),
        }
    }

    /// Takes a place and gives its opaque, never zero; `None` when the window is full.
    pub fn insert(&mut self, pending: Pending) -> Option<u32> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        let generation = ((slot.opaque >> 16) + 1) & 0xffff;
        // Generation 0 is left out, which keeps every opaque above zero.
        let opaque = generation.max(1) << 16 | u32::from(index);
        *slot = Slot { opaque, taken: true, pending };
        Some(opaque)
    }

    /// Gives the place of an acked publish back; `None` when nothing waits under `opaque`.
    pub fn remove(&mut self, opaque: u32) -> Option<Pending> {
        let slot = self.slots.get_mut((opaque & 0xffff) as usize)?;
        if !slot.taken || slot.opaque != opaque {
            return None;
        }
        slot.taken = false;
        self.free.push(opaque as u16);
        Some(slot.pending)
    }

    /// Publishes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places that are free.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(sequence: u64) -> Pending {
        Pending { number: MessageNumber(sequence), sent_at_ns: sequence, prepared: false }
    }

    #[test]
    fn the_window_bounds_what_waits() {
        let mut in_flight = InFlight::new(2);
        let first = in_flight.insert(pending(1)).unwrap();
        let second = in_flight.insert(pending(2)).unwrap();
        assert_eq!(in_flight.insert(pending(3)), None);
        assert_eq!(in_flight.remove(second), Some(pending(2)));
        assert_eq!(in_flight.len(), 1);
        assert_eq!(in_flight.remove(first), Some(pending(1)));
        assert!(in_flight.is_empty());
    }

    #[test]
    fn a_repeated_ack_matches_nothing_even_when_the_place_is_taken_again() {
        let mut in_flight = InFlight::new(1);
        let first = in_flight.insert(pending(1)).unwrap();
        assert_eq!(in_flight.remove(first), Some(pending(1)));
        assert_eq!(in_flight.remove(first), None);
        let second = in_flight.insert(pending(2)).unwrap();
        assert_eq!(in_flight.remove(first), None);
        assert_eq!(in_flight.remove(second), Some(pending(2)));
    }

    #[test]
    fn no_opaque_is_zero_and_generations_wrap() {
        let mut in_flight = InFlight::new(1);
        for sequence in 0..70_000 {
            let opaque = in_flight.insert(pending(sequence)).unwrap();
            assert_ne!(opaque, 0);
            assert_eq!(in_flight.remove(opaque), Some(pending(sequence)));
        }
        assert_eq!(in_flight.remove(u32::MAX), None);
    }
}
