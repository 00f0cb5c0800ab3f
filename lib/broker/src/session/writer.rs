//! Writes what is queued for one connection, as much as possible in one go.

use std::sync::Arc;

use bytes::BytesMut;
use kiteq_protocol::{Dialect, FrameHeader};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::outbound::{Delivery, Outbound, Outgoing};
use crate::metrics::Metrics;

/// What is gathered before a write.
const WRITE_BYTES: usize = 128 << 10;
/// Pieces from this size on are written from where they are, not gathered.
const LARGE_BYTES: usize = 16 << 10;

/// Runs until the queue is closed and empty, or the peer is gone.
pub(super) async fn write_queued(
    outbound: Arc<Outbound>,
    dialect: Dialect,
    stream: impl AsyncWrite + Unpin,
    metrics: Metrics,
) {
    let mut writer = Writer { stream, dialect, gathered: BytesMut::with_capacity(4096), metrics };
    let mut taken = Vec::new();
    let mut reply_bytes = 0;
    while outbound.take(&mut taken, reply_bytes).await {
        reply_bytes = 0;
        for item in taken.drain(..) {
            let written = match item {
                Outgoing::Encoded(bytes) => {
                    reply_bytes += bytes.len();
                    writer.write(&bytes).await
                }
                Outgoing::Deliveries(deliveries) => writer.deliver(deliveries).await,
            };
            if written.is_err() {
                outbound.close();
                return;
            }
        }
        if writer.flush().await.is_err() {
            outbound.close();
            return;
        }
    }
    let _ = writer.stream.shutdown().await;
}

struct Writer<S> {
    stream: S,
    dialect: Dialect,
    gathered: BytesMut,
    metrics: Metrics,
}

impl<S: AsyncWrite + Unpin> Writer<S> {
    async fn deliver(&mut self, deliveries: Vec<Delivery>) -> std::io::Result<()> {
        for delivery in deliveries {
            let header = FrameHeader::new(delivery.kind.command(), delivery.opaque, delivery.payload.len());
            header.put(&mut self.gathered, self.dialect);
            self.write(&delivery.payload.head).await?;
            self.write(&delivery.payload.body).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.len() >= LARGE_BYTES {
            self.flush().await?;
            self.metrics.bytes_sent.inc_by(bytes.len() as u64);
            return self.stream.write_all(bytes).await;
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if !self.gathered.is_empty() {
            self.metrics.bytes_sent.inc_by(self.gathered.len() as u64);
            self.stream.write_all(&self.gathered).await?;
            self.gathered.clear();
        }
        Ok(())
    }
}
