//! Writes what is queued for one connection, as much as possible in one go.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::outbound::{Delivery, Outbound, Outgoing};

/// What is gathered before a write.
const WRITE_BYTES: usize = 128 << 10;
/// A buffer that has grown is given back after a write of less than this.
const SHRINK_BELOW: usize = 4 << 10;
/// Pieces from this size on are written from where they are, not gathered.
const LARGE_BYTES: usize = 16 << 10;

/// Runs until the queue is closed and empty, or the peer is gone.
pub(super) async fn write_queued(outbound: Arc<Outbound>) {
    let mut writer = Writer { outbound: &outbound, gathered: BytesMut::with_capacity(4096) };
    let mut taken = Vec::new();
    let mut reply_bytes = 0;
    while outbound.take(&mut taken, reply_bytes).await {
        match writer.write_all(&mut taken).await {
            Ok(written) => reply_bytes = written,
            Err(error) => {
                tracing::debug!(%error, "the peer is gone");
                outbound.close();
                return;
            }
        }
    }
}

struct Writer<'a> {
    outbound: &'a Outbound,
    gathered: BytesMut,
}

impl Writer<'_> {
    /// Writes everything and empties `items`; returns how many bytes of it were replies.
    async fn write_all(&mut self, items: &mut Vec<Outgoing>) -> Result<usize, Error> {
        let mut reply_bytes = 0;
        for item in items.drain(..) {
            match item {
                Outgoing::Encoded(bytes) => {
                    reply_bytes += bytes.len();
                    self.add(&bytes).await?;
                }
                Outgoing::Deliveries(deliveries) => self.deliver(deliveries).await?,
            }
        }
        let was_little = self.gathered.len() < SHRINK_BELOW;
        self.flush().await?;
        if was_little && self.gathered.capacity() > WRITE_BYTES / 2 {
            // Thousands of connections that were busy once must not keep their buffers.
            self.gathered = BytesMut::with_capacity(SHRINK_BELOW);
        }
        Ok(reply_bytes)
    }

    async fn deliver(&mut self, deliveries: Vec<Delivery>) -> Result<(), Error> {
        let dialect = self.outbound.dialect();
        for delivery in deliveries {
            delivery.put_header(&mut self.gathered, dialect);
            self.add(&delivery.payload.head).await?;
            self.add(&delivery.payload.body).await?;
            self.outbound.delivered(delivery.payload.len());
        }
        Ok(())
    }

    async fn add(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() >= LARGE_BYTES {
            self.flush().await?;
            self.outbound.count_sent(bytes.len());
            return write_all(self.outbound.stream(), bytes).await;
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if !self.gathered.is_empty() {
            self.outbound.count_sent(self.gathered.len());
            write_all(self.outbound.stream(), &self.gathered).await?;
            self.gathered.clear();
        }
        Ok(())
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
