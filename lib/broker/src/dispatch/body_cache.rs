//! Bodies of messages whose turn is near, within a byte budget. What is not here is read back from the store.

use kiteq_protocol::Payload;

use super::table::NOT_CACHED;

#[derive(Debug)]
pub(crate) struct BodyCache {
    bodies: Vec<Option<Payload>>,
    free: Vec<u32>,
    bytes: usize,
    bytes_max: usize,
}

impl BodyCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bodies: Vec::new(), free: Vec::new(), bytes: 0, bytes_max }
    }

    /// Whether the budget has room for another `bytes`.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.bytes_max
    }

    /// Whether less than half of the budget is used.
    pub(crate) fn is_roomy(&self) -> bool {
        self.bytes < self.bytes_max / 2
    }

    /// Keeps a body, also beyond the budget: the caller decides.
    pub(crate) fn insert(&mut self, payload: Payload) -> u32 {
        self.bytes += payload.len();
        match self.free.pop() {
            Some(index) => {
                self.bodies[index as usize] = Some(payload);
                index
            }
            None => {
                self.bodies.push(Some(payload));
                self.bodies.len() as u32 - 1
            }
        }
    }

    pub(crate) fn get(&self, cached: u32) -> Option<&Payload> {
        self.bodies.get(cached as usize).and_then(Option::as_ref)
    }

    /// Drops a body and clears the reference to it.
    pub(crate) fn remove(&mut self, cached: &mut u32) -> Option<Payload> {
        let index = std::mem::replace(cached, NOT_CACHED);
        let payload = self.bodies.get_mut(index as usize).and_then(Option::take)?;
        self.bytes -= payload.len();
        self.free.push(index);
        Some(payload)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
