//! What must happen when a session ends, also when it panics.

use std::sync::Arc;

use super::outbound::Outbound;
use crate::dispatch::Event;
use crate::dispatch::connections::ConnectionId;
use crate::mailbox::Mailbox;

/// A connection that the dispatcher knows. Dropping it tells the dispatcher that the connection is gone, and lets its writer
/// end.
#[derive(Debug)]
pub(super) struct Presence {
    inbox: Arc<Mailbox<Event>>,
    id: ConnectionId,
    outbound: Arc<Outbound>,
}

impl Presence {
    /// For a connection that the dispatcher has just been told of.
    pub(super) fn new(inbox: Arc<Mailbox<Event>>, id: ConnectionId, outbound: Arc<Outbound>) -> Self {
        Self { inbox, id, outbound }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.inbox.push(Event::Disconnected(self.id));
        self.outbound.close();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_session_that_panics_leaves_no_connection_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let outbound = Arc::new(Outbound::new(Arc::new(stream), Default::default()));
        let inbox = Arc::new(Mailbox::new());
        let presence = Presence::new(inbox.clone(), ConnectionId(7), outbound.clone());
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _presence = presence;
            panic!("a session that panics");
        }));
        assert!(panicked.is_err());
        let mut events = Vec::new();
        inbox.take_all(&mut events);
        assert!(matches!(events[..], [Event::Disconnected(ConnectionId(7))]), "{} events", events.len());
        let has_more = outbound.take(&mut Vec::new(), 0).await;
        assert!(!has_more, "the writer ends");
    }
}
