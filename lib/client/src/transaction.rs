//! Two-phase publishing: what this process knows of its transactions, and how brokers' questions are answered.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiteq_protocol::MessageId;
use kiteq_protocol::scan::{Fields, Value};
use tokio::sync::Semaphore;

use crate::delivery::{Header, properties};
use crate::encode::put_tx_ack;
use crate::link::{Link, SessionNumber};
use crate::panics::poll_caught;
use crate::route::Pick;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::sync::{lock, read};

/// Check handlers that run at once. A question above it is answered "unknown"; the broker asks again.
const CHECKS_MAX: usize = 64;

/// What is to become of a prepared message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not known yet; the broker asks again, until the message expires.
    Unknown,
    /// Deliver it.
    Commit,
    /// Delete it.
    Rollback,
}

impl Verdict {
    fn status(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Commit => 1,
            Self::Rollback => 2,
        }
    }
}

/// A broker's question: what became of this message's transaction?
#[derive(Debug, Clone)]
pub struct TxCheck {
    id: MessageId,
    header: Header,
}

impl TxCheck {
    /// The message's id, as [`Transaction::id`] gave it.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.header.topic()
    }

    /// The message type.
    #[must_use]
    pub fn message_type(&self) -> &str {
        self.header.message_type()
    }

    /// Unix seconds of publication; zero when unknown.
    #[must_use]
    pub fn created_at(&self) -> i64 {
        self.header.created_at
    }

    /// Unix seconds after which the message is dropped undelivered; zero or less means never.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.header.expires_at
    }

    /// The message's properties: the place for a key by which the application finds its local transaction again.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties(&self.header.encoded)
    }

    /// The value of a property.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<&str> {
        self.properties().find_map(|(name, value)| (name == key).then_some(value))
    }
}

/// Says what became of transactions that this process does not know: those of a process before it, or of another one of
/// its group. Every `Fn(TxCheck) -> impl Future<Output = Verdict>` is one. A panic counts as [`Verdict::Unknown`].
pub trait CheckHandler: Send + Sync + 'static {
    /// Looks up one transaction. Answer [`Verdict::Unknown`] where it may still be running.
    fn check(&self, check: TxCheck) -> impl Future<Output = Verdict> + Send;
}

impl<F, R> CheckHandler for F
where
    F: Fn(TxCheck) -> R + Send + Sync + 'static,
    R: Future<Output = Verdict> + Send,
{
    fn check(&self, check: TxCheck) -> impl Future<Output = Verdict> + Send {
        self(check)
    }
}

/// A [`CheckHandler`] of any type.
pub(crate) trait AnyCheckHandler: Send + Sync {
    fn start(self: Arc<Self>, check: TxCheck) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;
}

impl<H: CheckHandler> AnyCheckHandler for H {
    fn start(self: Arc<Self>, check: TxCheck) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        Box::pin(async move { self.check(check).await })
    }
}

/// The prepared message, for the closure of [`Client::transaction`](crate::Client::transaction).
#[derive(Debug, Clone)]
pub struct Transaction {
    pub(crate) id: MessageId,
    pub(crate) broker: Arc<str>,
}

impl Transaction {
    /// The message's id. An application that stores it with its local transaction can answer checks after a restart.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// `host:port` of the broker that holds the message.
    #[must_use]
    pub fn broker(&self) -> &str {
        &self.broker
    }
}

/// The transactions of this process.
pub(crate) struct Transactions {
    known: Mutex<Known>,
    outcomes_max: usize,
    outcomes_kept_for: Duration,
    check_handler: Option<Arc<dyn AnyCheckHandler>>,
    checks: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    verdicts: HashMap<MessageId, Verdict>,
    /// Decided ones, oldest first.
    decided: VecDeque<(Instant, MessageId)>,
}

impl Transactions {
    pub(crate) fn new(settings: &Settings, check_handler: Option<Arc<dyn AnyCheckHandler>>) -> Self {
        Self {
            known: Mutex::default(),
            outcomes_max: settings.outcomes_max,
            outcomes_kept_for: settings.outcomes_kept_for,
            check_handler,
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
        }
    }

    /// From now on the answer about `id` is "unknown", until the guard is decided or dropped.
    pub(crate) fn begin(&self, id: MessageId) -> Undecided<'_> {
        lock(&self.known).verdicts.insert(id, Verdict::Unknown);
        Undecided { transactions: self, id, decided: false }
    }

    fn decide(&self, id: MessageId, verdict: Verdict, now: Instant) {
        let mut known = lock(&self.known);
        known.verdicts.insert(id, verdict);
        known.decided.push_back((now, id));
        while let Some(&(decided_at, oldest)) = known.decided.front() {
            let is_old = now.duration_since(decided_at) > self.outcomes_kept_for;
            if !is_old && known.decided.len() <= self.outcomes_max {
                break;
            }
            known.decided.pop_front();
            known.verdicts.remove(&oldest);
        }
    }

    fn verdict(&self, id: MessageId) -> Option<Verdict> {
        lock(&self.known).verdicts.get(&id).copied()
    }
}

/// A transaction whose closure has not finished. Dropped undecided, because the closure panicked or its future was
/// dropped, the transaction is forgotten: only the check handler can tell what became of it.
pub(crate) struct Undecided<'a> {
    transactions: &'a Transactions,
    id: MessageId,
    decided: bool,
}

impl Undecided<'_> {
    pub(crate) fn decide(mut self, verdict: Verdict) {
        self.decided = true;
        self.transactions.decide(self.id, verdict, Instant::now());
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        if !self.decided {
            lock(&self.transactions.known).verdicts.remove(&self.id);
        }
    }
}

impl Shared {
    /// Sends a verdict to the broker that acked the message; where it cannot be reached, to another one of the topic, which
    /// carries it out if they share a store and ignores it if not. Lost, its check gets the same answer.
    pub(crate) fn send_verdict(
        &self,
        broker: &str,
        topic: &str,
        header: &[u8],
        verdict: Verdict,
        feedback: &str,
    ) {
        let send = |link: &Link| {
            let opaque = link.next_opaque();
            link.post(None, |buf, dialect| {
                put_tx_ack(buf, dialect, opaque, header, verdict.status(), feedback);
            })
        };
        let link = lock(&self.links).get(broker).cloned();
        if link.is_some_and(|link| send(&link)) {
            return;
        }
        let route = read(&self.routes).get(topic).cloned();
        match route.map(|route| route.pick(None)) {
            Some(Pick::Link(other)) if send(&other) => {
                tracing::debug!(broker, instead = %other.address, ?verdict, "not connected: the verdict went to another broker");
            }
            _ => tracing::debug!(broker, ?verdict, "not connected: the verdict waits for the broker's check"),
        }
    }

    /// Answers a broker's TX_ACK over the connection that brought it.
    pub(crate) fn answer_check(
        self: &Arc<Self>,
        link: &Arc<Link>,
        session: SessionNumber,
        opaque: u32,
        body: &Bytes,
    ) {
        let Some(check) = read_check(body) else {
            tracing::warn!(broker = %link.address, opaque, "ignored a transaction check that cannot be read");
            return;
        };
        let question = Question { link: Arc::clone(link), session, opaque };
        let header = check.header.encoded.clone();
        match (self.transactions.verdict(check.id), &self.transactions.check_handler) {
            (Some(verdict), _) => question.answer(&header, verdict, ""),
            (None, Some(handler)) => match Arc::clone(&self.transactions.checks).try_acquire_owned() {
                Ok(permit) => {
                    let mut future = Arc::clone(handler).start(check);
                    let stop = self.stop.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            result = poll_fn(|context| poll_caught(future.as_mut(), context)) => match result {
                                Ok(verdict) => question.answer(&header, verdict, ""),
                                Err(panic) => {
                                    tracing::error!(panic, "the check handler panicked");
                                    question.answer(&header, Verdict::Unknown, "the check handler panicked");
                                }
                            },
                        }
                        drop(permit);
                    });
                }
                Err(_) => question.answer(&header, Verdict::Unknown, "too many checks at once"),
            },
            (None, None) => question.answer(&header, Verdict::Unknown, "not a transaction of this process"),
        }
    }
}

/// Where the answer to a check goes.
struct Question {
    link: Arc<Link>,
    session: SessionNumber,
    opaque: u32,
}

impl Question {
    fn answer(&self, header: &[u8], verdict: Verdict, feedback: &str) {
        self.link.post(Some(self.session), |buf, dialect| {
            put_tx_ack(buf, dialect, self.opaque, header, verdict.status(), feedback);
        });
    }
}

/// The header in a TX_ACK body.
fn read_check(body: &Bytes) -> Option<TxCheck> {
    let header = Fields::of(body).flatten().find_map(|field| match (field.number, field.value) {
        (1, Value::Bytes(header)) => Some(body.slice_ref(header)),
        _ => None,
    })?;
    let header = Header::parse(header).ok()?;
    let id = MessageId::parse(header.id_text()).ok()?;
    Some(TxCheck { id, header })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transactions(outcomes_max: usize) -> Transactions {
        Transactions::new(&Settings { outcomes_max, ..Settings::new("g") }, None)
    }

    fn id(number: u8) -> MessageId {
        MessageId([number; 16])
    }

    #[test]
    fn a_transaction_is_unknown_then_decided() {
        let transactions = transactions(10);
        let undecided = transactions.begin(id(1));
        assert_eq!(transactions.verdict(id(1)), Some(Verdict::Unknown));
        undecided.decide(Verdict::Commit);
        assert_eq!(transactions.verdict(id(1)), Some(Verdict::Commit));
    }

    #[test]
    fn one_that_is_dropped_undecided_is_forgotten() {
        let transactions = transactions(10);
        drop(transactions.begin(id(1)));
        assert_eq!(transactions.verdict(id(1)), None);
    }

    #[test]
    fn outcomes_are_bounded_in_number_and_time() {
        let transactions = transactions(2);
        let start = Instant::now();
        for number in 1..=3 {
            transactions.decide(id(number), Verdict::Commit, start);
        }
        assert_eq!([1, 2, 3].map(|number| transactions.verdict(id(number)).is_some()), [false, true, true]);
        let later = start + transactions.outcomes_kept_for + Duration::from_secs(1);
        transactions.decide(id(4), Verdict::Rollback, later);
        assert_eq!([2, 3, 4].map(|number| transactions.verdict(id(number)).is_some()), [false, false, true]);
    }
}
