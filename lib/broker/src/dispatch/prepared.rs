//! Two-phase commit: asking producers for the verdict that did not come.

use std::time::Instant;

use bytes::BytesMut;
use kiteq_protocol::message::HeaderView;
use kiteq_protocol::scan::{put_bytes_field, put_varint_field};
use kiteq_protocol::{Command, FrameHeader, Payload};

use super::Dispatcher;
use super::table::{Marks, Phase, Ticket};

/// Questions prepared in one turn of housekeeping; the rest follow in the next.
const CHECKS_PER_TURN: usize = 2000;
const FEEDBACK: &[u8] = b"Server Check";

impl Dispatcher {
    /// Asks for the verdicts that are due. The message has to be read first: its header is part of the question.
    pub(super) fn ask_producers(&mut self, now: Instant) {
        for _ in 0..CHECKS_PER_TURN {
            let Some((_, ticket)) = self.checks.front().copied().filter(|&(due, _)| due <= now) else {
                break;
            };
            self.checks.pop_front();
            let Some(entry) = self.table.find(ticket).filter(|entry| entry.phase == Phase::Prepared) else {
                continue;
            };
            self.checks.push_back((now + self.around.config.recover_period, ticket));
            if entry.marks.has(Marks::LOADING) {
                continue;
            }
            match self.bodies.get(entry.cached).cloned() {
                Some(payload) => {
                    self.ask_producer(ticket, &payload);
                    self.uncache(ticket.message);
                }
                None => self.ask_for_body(ticket),
            }
        }
    }

    /// Sends the question to one live connection of the publisher's group; without one it is asked again later.
    pub(super) fn ask_producer(&mut self, ticket: Ticket, payload: &Payload) {
        let header = payload.header();
        let Ok(view) = HeaderView::parse(header) else {
            tracing::error!(?ticket, "the header of a prepared message does not decode; it will expire");
            return;
        };
        let Some(group) = self.groups.find(view.publish_group) else { return };
        let entry = self.groups.get_mut(group);
        if entry.connections.is_empty() {
            return;
        }
        entry.cursor = (entry.cursor + 1) % entry.connections.len();
        let connection = entry.connections[entry.cursor];
        let Some(connection) = self.connections.get_mut(connection) else { return };
        let mut body = BytesMut::with_capacity(header.len() + 32);
        put_bytes_field(&mut body, 1, header);
        put_varint_field(&mut body, 2, 0);
        put_bytes_field(&mut body, 3, FEEDBACK);
        let mut frame = BytesMut::with_capacity(connection.dialect.overhead() + body.len());
        FrameHeader::new(Command::TxAck, connection.check_opaque(), body.len())
            .put(&mut frame, connection.dialect);
        frame.extend_from_slice(&body);
        connection.outbound.push_frames(&mut frame);
        self.around.metrics.transaction_checks.inc();
    }
}
