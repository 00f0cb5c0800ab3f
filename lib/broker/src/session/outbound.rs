//! What waits to be written to one connection.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use kiteq_protocol::{Dialect, FrameHeader, MessageKind, Payload};
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// At most so much is written by whoever pushes it, when nothing is queued before it.
const DIRECT_BYTES_MAX: usize = 8 << 10;

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

impl Delivery {
    /// Bytes of the frame.
    fn frame_len(&self, dialect: Dialect) -> usize {
        dialect.overhead() + self.payload.len()
    }

    /// Appends the frame's header.
    pub(crate) fn put_header(&self, frames: &mut BytesMut, dialect: Dialect) {
        FrameHeader::new(self.kind.command(), self.opaque, self.payload.len()).put(frames, dialect);
    }
}

/// Whether the pusher may write to the socket himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It is little, and somebody waits for it: waking the writer would take longer than writing.
    Direct,
    /// Leave it to the writer, which gathers what comes meanwhile.
    Queued,
}

/// Filled by the session, the store and the dispatcher; emptied by the session's writer.
///
/// Deliveries are bounded by the connection's window, replies by the session: above a limit it stops reading requests.
#[derive(Debug)]
pub(crate) struct Outbound {
    stream: Arc<TcpStream>,
    /// Set before the first delivery.
    dialect: OnceLock<Dialect>,
    queue: Mutex<Queue>,
    ready: Notify,
    drained: Notify,
    bytes_sent: Counter<u64, AtomicU64>,
    /// Bytes of deliveries that have not been written yet.
    unsent: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<Outgoing>,
    /// The writer is not through with what it took.
    is_writing: bool,
    /// Bytes of replies that have not been written yet.
    reply_bytes: usize,
    /// Replies that the store will make later.
    owed: usize,
    /// Nothing but owed replies is accepted any more; when they are written the connection is closed.
    closing: bool,
}

impl Outbound {
    pub(crate) fn new(stream: Arc<TcpStream>, bytes_sent: Counter<u64, AtomicU64>) -> Self {
        Self {
            stream,
            dialect: OnceLock::new(),
            queue: Mutex::new(Queue::default()),
            ready: Notify::new(),
            drained: Notify::new(),
            bytes_sent,
            unsent: AtomicUsize::new(0),
        }
    }

    /// Says how the peer speaks.
    pub(crate) fn speak(&self, dialect: Dialect) {
        let _ = self.dialect.set(dialect);
    }

    /// How the peer speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect.get().copied().unwrap_or(Dialect::GO)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Bytes of deliveries that the writer has not written yet. The peer may have let them time out long ago.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.load(Ordering::Relaxed)
    }

    /// The writer is through with deliveries of so many bytes.
    pub(crate) fn delivered(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that went out.
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.bytes_sent.inc_by(bytes as u64);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: Outgoing, is_owed: bool, pace: Pace) {
        {
            let mut queue = self.lock();
            if is_owed {
                queue.owed -= 1;
            } else if queue.closing {
                return;
            }
            let item = if pace == Pace::Direct && queue.items.is_empty() && !queue.is_writing {
                match self.write_directly(item) {
                    Some(rest) => rest,
                    None if queue.closing => return self.ready.notify_one(),
                    None => return,
                }
            } else {
                item
            };
            match &item {
                Outgoing::Encoded(bytes) => queue.reply_bytes += bytes.len(),
                Outgoing::Deliveries(deliveries) => {
                    let bytes: usize = deliveries.iter().map(|delivery| delivery.payload.len()).sum();
                    self.unsent.fetch_add(bytes, Ordering::Relaxed);
                }
            }
            queue.items.push(item);
        }
        self.ready.notify_one();
    }

    /// Writes as much as the socket takes at once; returns what is left. An error is left to the writer to find.
    fn write_directly(&self, item: Outgoing) -> Option<Outgoing> {
        let frames = match item {
            Outgoing::Encoded(frames) => frames,
            Outgoing::Deliveries(deliveries) => self.encode(&deliveries),
        };
        let written = self.stream.try_write(&frames).unwrap_or(0);
        self.count_sent(written);
        (written < frames.len()).then(|| Outgoing::Encoded(frames.slice(written..)))
    }

    fn encode(&self, deliveries: &[Delivery]) -> Bytes {
        let dialect = self.dialect();
        let len = deliveries.iter().map(|delivery| delivery.frame_len(dialect)).sum();
        let mut frames = BytesMut::with_capacity(len);
        for delivery in deliveries {
            delivery.put_header(&mut frames, dialect);
            frames.extend_from_slice(&delivery.payload.head);
            frames.extend_from_slice(&delivery.payload.body);
        }
        frames.freeze()
    }

    /// Announces frames that will be pushed by [`Outbound::push_owed`], also when the connection is closing by then.
    pub(crate) fn owe_frames(&self) {
        self.lock().owed += 1;
    }

    /// Queues frames that were announced.
    pub(crate) fn push_owed(&self, frames: Bytes) {
        let pace = if frames.len() <= DIRECT_BYTES_MAX / 8 { Pace::Direct } else { Pace::Queued };
        self.push(Outgoing::Encoded(frames), true, pace);
    }

    /// Queues whole frames and leaves `frames` empty.
    pub(crate) fn push_frames(&self, frames: &mut BytesMut) {
        if !frames.is_empty() {
            self.push(Outgoing::Encoded(frames.split().freeze()), false, Pace::Queued);
        }
    }

    /// Queues deliveries; `pace` counts for little ones only.
    pub(crate) fn push_deliveries(&self, deliveries: Vec<Delivery>, pace: Pace) {
        let dialect = self.dialect();
        let bytes: usize = deliveries.iter().map(|delivery| delivery.frame_len(dialect)).sum();
        let pace = if bytes <= DIRECT_BYTES_MAX { pace } else { Pace::Queued };
        self.push(Outgoing::Deliveries(deliveries), false, pace);
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
                queue.is_writing = !queue.items.is_empty();
                if queue.is_writing {
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
