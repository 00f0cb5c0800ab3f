//! What waits to be written to one connection.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use kiteq_protocol::{MessageKind, Payload};
use tokio::sync::Notify;

/// A message on its way to a consumer; its frame header is written when it is sent.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) opaque: u32,
    pub(crate) kind: MessageKind,
    pub(crate) payload: Payload,
}

#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Whole frames.
    Encoded(Bytes),
    Deliveries(Vec<Delivery>),
}

/// Filled by the session, the store and the dispatcher; emptied by the session's writer.
///
/// Deliveries are bounded by the connection's window, replies by the session: above a limit it stops reading requests.
#[derive(Debug)]
pub(crate) struct Outbound {
    queue: Mutex<Queue>,
    ready: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<Outgoing>,
    /// Bytes of replies that have not been written yet.
    reply_bytes: usize,
    /// Replies that the store will make later.
    owed: usize,
    /// Nothing but owed replies is accepted any more; when they are written the connection is closed.
    closing: bool,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::new(Queue::default()), ready: Notify::new(), drained: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: Outgoing, is_owed: bool) {
        {
            let mut queue = self.lock();
            if is_owed {
                queue.owed -= 1;
            } else if queue.closing {
                return;
            }
            if let Outgoing::Encoded(bytes) = &item {
                queue.reply_bytes += bytes.len();
            }
            queue.items.push(item);
        }
        self.ready.notify_one();
    }

    /// Announces frames that will be pushed by [`Outbound::push_owed`], also when the connection is closing by then.
    pub(crate) fn owe_frames(&self) {
        self.lock().owed += 1;
    }

    /// Queues frames that were announced.
    pub(crate) fn push_owed(&self, frames: Bytes) {
        self.push(Outgoing::Encoded(frames), true);
    }

    /// Queues whole frames and leaves `frames` empty.
    pub(crate) fn push_frames(&self, frames: &mut BytesMut) {
        if !frames.is_empty() {
            self.push(Outgoing::Encoded(frames.split().freeze()), false);
        }
    }

    pub(crate) fn push_deliveries(&self, deliveries: Vec<Delivery>) {
        self.push(Outgoing::Deliveries(deliveries), false);
    }

    /// Accepts nothing but owed replies; the writer ends when it has written what is there and what is owed.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.ready.notify_one();
        self.drained.notify_waiters();
    }

    /// Waits for something to write and swaps it with `taken`, which must be empty; `false` at the end. `written` is how
    /// many bytes of replies were written since the last call.
    pub(crate) async fn take(&self, taken: &mut Vec<Outgoing>, written: usize) -> bool {
        if written > 0 {
            self.lock().reply_bytes -= written;
            self.drained.notify_waiters();
        }
        loop {
            {
                let mut queue = self.lock();
                if !queue.items.is_empty() {
                    std::mem::swap(&mut queue.items, taken);
                    return true;
                }
                if queue.closing && queue.owed == 0 {
                    return false;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Waits until fewer than `limit` bytes of replies are queued.
    pub(crate) async fn room_for_replies(&self, limit: usize) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            // Registered before the check, so that a notification in between is not missed.
            drained.as_mut().enable();
            {
                let queue = self.lock();
                if queue.reply_bytes < limit || queue.closing {
                    return;
                }
            }
            drained.await;
        }
    }
}
