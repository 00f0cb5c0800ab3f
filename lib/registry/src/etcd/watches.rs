//! Everything that is followed over one connection: read once, then watched from the revision after that.
//!
//! All watches share one stream. Answers to their creation come in the order of the requests; changes name their watch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::Status;

use super::Shared;
use super::api::watch_request::RequestUnion;
use super::api::{Event, WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use super::known::{Known, Subject};
use super::rpc::{Rpc, failed, is_of_connection};
use super::tree::{Snapshot, range_end, read};
use crate::alive::Teller;
use crate::nodes::{GROUPS_MAX, addresses};

/// Subjects that are read at a time.
const READS_AT_ONCE: usize = 32;
/// Before a subject that etcd refuses to show is asked for again.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait of a request for room on the connection.
const STALLED: Duration = Duration::from_secs(10);

type Read = (Subject, Result<Snapshot, Status>);

/// Why a connection is of no use any more.
pub(super) type End = String;

/// The followed subjects of one connection.
pub(super) struct Watches<'a> {
    rpc: &'a Rpc,
    shared: &'a Shared,
    known: &'a mut Known,
    teller: Option<Teller<'a>>,
    followed: HashSet<Subject>,
    to_read: VecDeque<Subject>,
    reading: FuturesUnordered<BoxFuture<'static, Read>>,
    /// Subjects that etcd does not show, each with the time of its next chance.
    refused: FuturesUnordered<BoxFuture<'static, Subject>>,
    requests: mpsc::Sender<WatchRequest>,
    outgoing: VecDeque<Outgoing>,
    /// Subjects whose watches have been asked for.
    creating: VecDeque<Subject>,
    watched: HashMap<i64, Subject>,
    is_compaction_logged: bool,
}

/// A request that waits for room.
enum Outgoing {
    Create(Subject),
    Cancel(i64),
}

impl<'a> Watches<'a> {
    pub(super) fn new(
        rpc: &'a Rpc,
        shared: &'a Shared,
        known: &'a mut Known,
        requests: mpsc::Sender<WatchRequest>,
    ) -> Self {
        // Who lives is never carried over.
        known.entries.remove(&Subject::Alive);
        Self {
            rpc,
            shared,
            known,
            teller: None,
            followed: HashSet::new(),
            to_read: VecDeque::new(),
            reading: FuturesUnordered::new(),
            refused: FuturesUnordered::new(),
            requests,
            outgoing: VecDeque::new(),
            creating: VecDeque::new(),
            watched: HashMap::new(),
            is_compaction_logged: false,
        }
    }

    /// Follows what is wanted now, and nothing else.
    pub(super) fn follow_wanted(&mut self) {
        let bindings = self.shared.bindings.names().into_iter().map(Subject::Bindings);
        let brokers = self.shared.brokers.names().into_iter().map(Subject::Brokers);
        let alive = self.teller.is_some().then_some(Subject::Alive);
        let wanted: HashSet<_> = bindings.chain(brokers).chain(alive).collect();
        self.followed.retain(|subject| wanted.contains(subject));
        self.known.entries.retain(|subject, _| wanted.contains(subject));
        let unwanted = self.watched.extract_if(|_, subject| !wanted.contains(subject));
        self.outgoing.extend(unwanted.map(|(id, _)| Outgoing::Cancel(id)));
        for subject in wanted {
            if !self.followed.insert(subject.clone()) {
                continue;
            }
            if self.known.entries.get(&subject).is_some_and(|entry| entry.revision.is_some()) {
                self.outgoing.push_back(Outgoing::Create(subject));
            } else {
                self.to_read.push_back(subject);
            }
        }
        // A table that made room for a while may have lost what is known here.
        let bindings = self.shared.bindings.unread().into_iter().map(Subject::Bindings);
        for subject in bindings.chain(self.shared.brokers.unread().into_iter().map(Subject::Brokers)) {
            self.publish(&subject);
        }
    }

    /// Follows who lives, too, and tells.
    pub(super) fn follow_alive(&mut self, teller: Teller<'a>) {
        self.teller = Some(teller);
        self.follow_wanted();
    }

    pub(super) fn is_telling(&self) -> bool {
        self.teller.is_some()
    }

    /// Does the next thing that there is to do, other than taking an answer.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn step(&mut self) -> Result<(), End> {
        while self.reading.len() < READS_AT_ONCE {
            let Some(subject) = self.to_read.pop_front() else { break };
            self.reading.push(read_subject(self.rpc.clone(), subject).boxed());
        }
        let requests = self.requests.clone();
        tokio::select! {
            Some((subject, outcome)) = self.reading.next() => self.take_read(subject, outcome),
            Some(subject) = self.refused.next() => {
                self.read_again(subject);
                Ok(())
            }
            room = requests.reserve(), if !self.outgoing.is_empty() => {
                let Ok(room) = room else { return Err("the stream of watches has ended".to_owned()) };
                if let Some(request) = request(&mut self.outgoing, &mut self.creating, self.known) {
                    room.send(request);
                }
                Ok(())
            }
            () = sleep(STALLED), if !self.outgoing.is_empty() => Err(format!("no request was taken in {STALLED:?}")),
            else => std::future::pending().await,
        }
    }

    fn read_again(&mut self, subject: Subject) {
        if self.followed.contains(&subject) {
            self.to_read.push_back(subject);
        }
    }

    fn take_read(&mut self, subject: Subject, outcome: Result<Snapshot, Status>) -> Result<(), End> {
        if !self.followed.contains(&subject) {
            return Ok(());
        }
        let entry = self.known.entries.entry(subject.clone()).or_default();
        match outcome {
            Ok(snapshot) => {
                entry.is_refused = false;
                entry.replace(&subject, &subject.prefix(), &snapshot);
                self.publish(&subject);
                self.outgoing.push_back(Outgoing::Create(subject));
                Ok(())
            }
            Err(status) if is_of_connection(&status) => Err(failed(self.shared.place(), &status).to_string()),
            Err(status) => {
                if !std::mem::replace(&mut entry.is_refused, true) {
                    let error = failed(self.shared.place(), &status);
                    tracing::warn!(keys = subject.prefix(), %error, "these cannot be read; they are asked for again");
                }
                self.refused.push(sleep(REFUSED_PAUSE).map(|()| subject).boxed());
                Ok(())
            }
        }
    }

    /// Takes what the stream of watches says.
    pub(super) fn take(&mut self, response: &WatchResponse) -> Result<(), End> {
        if response.created {
            let Some(subject) = self.creating.pop_front() else {
                return Err("a watch that nobody asked for".to_owned());
            };
            if response.canceled {
                return self.canceled(subject, response);
            }
            if self.followed.contains(&subject) {
                self.watched.insert(response.watch_id, subject);
            } else {
                self.outgoing.push_back(Outgoing::Cancel(response.watch_id));
            }
            return Ok(());
        }
        if response.canceled {
            // One that is unknown here was not wanted any more.
            let Some(subject) = self.watched.remove(&response.watch_id) else { return Ok(()) };
            return self.canceled(subject, response);
        }
        let Some(subject) = self.watched.get(&response.watch_id).cloned() else { return Ok(()) };
        let Some(entry) = self.known.entries.get_mut(&subject) else { return Ok(()) };
        let prefix = subject.prefix();
        let is_news = |event: &&Event| event.kv.as_ref().map(|pair| pair.mod_revision) > entry.revision;
        let news: Vec<_> = response.events.iter().filter(is_news).collect();
        for event in news {
            entry.apply(&subject, &prefix, event);
        }
        // A watch that catches up is told the newest revision although older changes are still to come: what it has seen
        // is what counts. Without changes it has seen all.
        let seen = match response.events.last() {
            Some(event) => event.kv.as_ref().map(|pair| pair.mod_revision),
            None => response.header.as_ref().map(|header| header.revision),
        };
        if !response.fragment {
            entry.revision = entry.revision.max(seen);
        }
        self.publish(&subject);
        Ok(())
    }

    fn canceled(&mut self, subject: Subject, response: &WatchResponse) -> Result<(), End> {
        let Some(entry) = self.known.entries.get_mut(&subject) else { return Ok(()) };
        let revision = entry.revision.take();
        if response.compact_revision > 0 {
            if !std::mem::replace(&mut self.is_compaction_logged, true) {
                tracing::info!(
                    keys = subject.prefix(),
                    ?revision,
                    compacted = response.compact_revision,
                    "changes have been compacted before they were seen; the keys are read afresh"
                );
            }
            if let (Subject::Alive, Some(teller)) = (&subject, &self.teller) {
                teller.forget();
            }
            self.read_again(subject);
            return Ok(());
        }
        // The token of the stream may be too old: then the next one is better. If it is the rights, reading says so.
        Err(format!("watch of {} ended: {}", subject.prefix(), response.cancel_reason))
    }

    fn publish(&self, subject: &Subject) {
        let Some(entry) = self.known.entries.get(subject).filter(|entry| entry.revision.is_some()) else {
            return;
        };
        match (subject, &self.teller) {
            (Subject::Bindings(topic), _) => self.shared.bindings.set(topic, entry.bindings()),
            (Subject::Brokers(topic), _) => self.shared.brokers.set(topic, addresses(topic, entry.names())),
            (Subject::Alive, Some(teller)) => teller.tell(entry.names()),
            (Subject::Alive, None) => {}
        }
    }
}

async fn read_subject(rpc: Rpc, subject: Subject) -> Read {
    let keys_max = if subject.has_values() { GROUPS_MAX } else { usize::MAX };
    let outcome = read(&rpc, &subject.prefix(), !subject.has_values(), keys_max).await;
    (subject, outcome)
}

/// The next request; `None` when it is not needed any more.
fn request(
    outgoing: &mut VecDeque<Outgoing>,
    creating: &mut VecDeque<Subject>,
    known: &Known,
) -> Option<WatchRequest> {
    let union = match outgoing.pop_front()? {
        Outgoing::Cancel(watch_id) => RequestUnion::CancelRequest(WatchCancelRequest { watch_id }),
        Outgoing::Create(subject) => {
            let revision = known.entries.get(&subject)?.revision?;
            let prefix = subject.prefix();
            creating.push_back(subject);
            RequestUnion::CreateRequest(WatchCreateRequest {
                range_end: range_end(&prefix),
                key: prefix.into_bytes(),
                start_revision: revision + 1,
                // Now and then the server says how far a quiet watch has come, so that it is not compacted away.
                progress_notify: true,
                fragment: true,
            })
        }
    };
    Some(WatchRequest { request_union: Some(union) })
}
