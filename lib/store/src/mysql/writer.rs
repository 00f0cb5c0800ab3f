//! The tasks that write: each has a connection and some of the databases.
//!
//! A writer takes everything that waits, up to a batch, puts it into one transaction and answers after its commit: while that
//! is under way the next batch gathers. Everything about one message goes through one writer, in the order of the calls.
//!
//! # When it fails
//!
//! Every statement names the owner and the run of the rows that it changes, and an id is stored once, so a transaction of which
//! it is not known whether it was carried out is simply carried out again, once, if there is a connection in time. If there is
//! none, publishers are refused and the ids are looked for later: a message that was stored all the same comes with a page.
//! What nobody waits for (settled, noted, killed, shelved) is kept and tried again until it succeeds; there cannot be more of
//! it than there were resident messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kiteq_protocol::{Message, MessageId};
use sqlx::Row;
use tokio::sync::mpsc::UnboundedReceiver;

use super::fault::{Fault, FaultKind};
use super::layout::{DUE, digit_of, held};
use super::link::Link;
use super::shared::{Shared, unix_seconds};
use super::slots::{Admission, Slots, State};
use super::text::{put_ids, put_number};
use super::turn::{
    Decision, Insert, Step, Turn, Twin, put_force_id, put_update_by_id, put_where_ours, row_bytes_max,
};
use super::work::{Barrier, Later, Leaving, Part, Work};
use crate::error::StoreError;
use crate::held::{AppendOutcome, Slot, Verdict, VerdictOutcome};
use crate::mailbox::lock;
use crate::paging::ShelfPlace;

/// Text of one transaction, about, unless the server takes less.
const TURN_BYTES_MAX: usize = 8 << 20;

/// How often a transaction that gave way to another one is tried again.
const GAVE_WAY_MAX: u32 = 8;

/// After a failure nothing is tried for so long: publishers are refused at once meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// Such a pause doubles so often at most, for what nobody waits for.
const DOUBLINGS_MAX: u32 = 5;

/// After what nobody waits for made a transaction fail, it has transactions of its own for so long.
const APART: Duration = Duration::from_secs(10);

/// When ids whose fate is not known are looked for, after a connection is there: a server may carry out late what it had
/// received.
const RECHECKS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
];

/// Ids whose fate is not known that a writer remembers.
const DOUBTFUL_MAX: usize = 200_000;

/// What a server takes beside the statements.
const PACKET_MARGIN: usize = 64 << 10;

/// Ids of one lookup.
const LOOKUP_MAX: usize = 500;

pub(super) struct Writer {
    shared: Arc<Shared>,
    number: usize,
    link: Link,
    work: UnboundedReceiver<Work>,
    queue: VecDeque<Work>,
    /// What nobody waits for and was not written yet.
    laters: Vec<Later>,
    laters_at: Instant,
    /// How often it failed in a row, and why it did the last time.
    laters_failures: u32,
    laters_error: Option<StoreError>,
    /// How many are tried together.
    laters_max: usize,
    apart_until: Instant,
    doubtful: Vec<Doubtful>,
    /// Why nothing is tried, and until when.
    pause: Option<(Instant, StoreError)>,
    barriers: Vec<Arc<Barrier>>,
    closing: Option<Arc<Barrier>>,
}

/// An id that may have been stored.
struct Doubtful {
    id: MessageId,
    check_at: Instant,
    checks: usize,
}

/// Where a batch ended.
enum Filled {
    All,
    /// There is more; the turn comes first.
    More,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, number: usize, work: UnboundedReceiver<Work>) -> Self {
        let link = Link::new(shared.master.clone());
        Self {
            shared,
            number,
            link,
            work,
            queue: VecDeque::new(),
            laters: Vec::new(),
            laters_at: Instant::now(),
            laters_failures: 0,
            laters_error: None,
            laters_max: usize::MAX,
            apart_until: Instant::now(),
            doubtful: Vec::new(),
            pause: None,
            barriers: Vec::new(),
            closing: None,
        }
    }

    /// Works until it is told to close, or until nobody can give it work any more.
    pub(super) async fn run(mut self) {
        let mut received = Vec::new();
        loop {
            if self.queue.is_empty() && !self.wait(&mut received).await {
                break;
            }
            while let Ok(work) = self.work.try_recv() {
                self.queue.push_back(work);
            }
            let (turn, mut recheck) = self.gather();
            self.carry_out(turn).await;
            self.recheck(&mut recheck).await;
            // Those that came before a barrier may be in later turns.
            if self.laters.is_empty() || self.laters_error.is_some() {
                let failure = self.laters_error.clone().filter(|_| !self.laters.is_empty());
                for barrier in self.barriers.drain(..) {
                    barrier.reached(failure.clone());
                }
            }
            if let Some(closing) = self.closing.take() {
                closing.reached(self.finish().await);
                break;
            }
        }
        self.link.close().await;
    }

    /// Waits for work, or for the time of something that waits here. False when there will be none.
    async fn wait(&mut self, received: &mut Vec<Work>) -> bool {
        let tick = Instant::now() + Duration::from_secs(1);
        let laters_at = if self.laters.is_empty() { tick } else { self.laters_at };
        let wakes_at = self.doubtful.iter().map(|doubtful| doubtful.check_at).fold(laters_at, Instant::min);
        // A pause that is over is looked into, so that health tells the present.
        tokio::select! {
            count = self.work.recv_many(received, usize::MAX) => {
                self.queue.extend(received.drain(..));
                count > 0
            }
            () = tokio::time::sleep_until(wakes_at.max(Instant::now() + Duration::from_millis(10)).into()) => true,
        }
    }

    /// Takes what waits into a turn, until that is full or something must wait for it.
    fn gather(&mut self) -> (Turn, Vec<MessageId>) {
        let shared = self.shared.clone();
        let now = unix_seconds();
        let mut turn = Turn::default();
        let mut recheck = Vec::new();
        if self.laters_at <= Instant::now() {
            // Half of a turn: who waits for an answer must not wait for all of a long queue.
            let count = self.laters.len().min(shared.options.batch_rows_max.div_ceil(2)).min(self.laters_max);
            turn.laters.extend(self.laters.drain(..count));
        }
        while let Some(work) = self.queue.pop_front() {
            if turn.rows() >= shared.options.batch_rows_max || turn.bytes >= self.turn_bytes_max() {
                self.queue.push_front(work);
                break;
            }
            let filled = match work {
                Work::Append { part, indexes } => self.gather_append(&mut turn, part, &indexes, now),
                Work::Decide { part, indexes } => self.gather_decide(&mut turn, part, &indexes),
                Work::Later(mut laters) => {
                    // What is kept back from earlier must come first.
                    if self.laters.is_empty() {
                        turn.laters.append(&mut laters);
                    } else {
                        self.laters.append(&mut laters);
                    }
                    Filled::All
                }
                Work::Recheck(ids) => {
                    recheck.extend(ids);
                    Filled::All
                }
                Work::Barrier(barrier) => {
                    self.barriers.push(barrier);
                    Filled::All
                }
                Work::Close(barrier) => {
                    self.closing = Some(barrier);
                    self.queue.clear();
                    Filled::All
                }
            };
            if matches!(filled, Filled::More) {
                break;
            }
        }
        (turn, recheck)
    }

    fn turn_bytes_max(&self) -> usize {
        TURN_BYTES_MAX.min(self.text_bytes_max() / 2)
    }

    fn text_bytes_max(&self) -> usize {
        self.shared.packet_bytes_max.saturating_sub(PACKET_MARGIN)
    }

    fn gather_append(
        &mut self,
        turn: &mut Turn,
        part: Arc<Part<Message, AppendOutcome>>,
        indexes: &[u32],
        now: i64,
    ) -> Filled {
        let shared = self.shared.clone();
        for (done, &index) in indexes.iter().enumerate() {
            let messages = part.items();
            let message = &messages[index as usize];
            let row_bytes = row_bytes_max(message);
            let is_full = turn.rows() >= shared.options.batch_rows_max
                || turn.bytes > 0 && turn.bytes + row_bytes > self.turn_bytes_max();
            // A verdict that came before the message is carried out before it.
            let is_decided = turn.decisions.iter().any(|decision| decision.id == message.id);
            if is_full || is_decided {
                drop(messages);
                let indexes = indexes[done..].to_vec();
                self.queue.push_front(Work::Append { part, indexes });
                return Filled::More;
            }
            if row_bytes > self.text_bytes_max() {
                let limit_bytes = (self.text_bytes_max().saturating_sub(1024) / 2) as u64;
                let bytes = message.payload.len() as u64;
                part.set(index, AppendOutcome::Refused(StoreError::TooLarge { bytes, limit_bytes }));
                continue;
            }
            if let Some(position) = turn.position_of(&message.id) {
                turn.twins.push(Twin { part: part.clone(), index, of: position });
                continue;
            }
            let slot = match lock(&shared.slots).admit(message.id) {
                Admission::Held => {
                    part.set(index, AppendOutcome::Duplicate);
                    continue;
                }
                Admission::Reserved(slot) => Some(slot),
                Admission::Full => None,
            };
            let insert = Insert {
                part: part.clone(),
                index,
                id: message.id,
                slot,
                header_len: message.payload.header().len(),
                payload_len: message.payload.len(),
                is_committed: message.committed,
            };
            turn.insert(&shared, message, insert, now);
        }
        Filled::All
    }

    fn gather_decide(
        &mut self,
        turn: &mut Turn,
        part: Arc<Part<(MessageId, Verdict), VerdictOutcome>>,
        indexes: &[u32],
    ) -> Filled {
        for (done, &index) in indexes.iter().enumerate() {
            let (id, verdict) = part.items()[index as usize];
            let must_wait = turn.position_of(&id).is_some()
                || turn.decisions.iter().any(|decision| decision.id == id)
                || turn.laters.iter().any(|later| *later.id() == id);
            if must_wait {
                let indexes = indexes[done..].to_vec();
                self.queue.push_front(Work::Decide { part, indexes });
                return Filled::More;
            }
            let slot = {
                let slots = lock(&self.shared.slots);
                let slot = slots.find(&id);
                match slot.and_then(|slot| slots.get(slot)) {
                    Some(entry) if entry.state == State::Committed => {
                        part.set(index, VerdictOutcome::Ignored);
                        continue;
                    }
                    Some(_) => slot,
                    None => None,
                }
            };
            turn.decisions.push(Decision { part: part.clone(), index, id, verdict, slot });
        }
        Filled::All
    }

    /// Carries a turn out and answers it.
    async fn carry_out(&mut self, mut turn: Turn) {
        if turn.is_urgent() && !turn.laters.is_empty() && Instant::now() < self.apart_until {
            // First, as it may be what makes room on a full disk.
            let mut apart = Turn::default();
            std::mem::swap(&mut apart.laters, &mut turn.laters);
            self.carry_out_once(apart).await;
        }
        self.carry_out_once(turn).await;
    }

    /// Carries out one transaction, whatever it takes.
    async fn carry_out_once(&mut self, mut turn: Turn) {
        let is_urgent = turn.is_urgent();
        if !is_urgent && turn.laters.is_empty() {
            if self.pause.is_some() || !self.link.is_connected() {
                self.look_for_server().await;
            }
            return;
        }
        if let Some((until, error)) = &self.pause
            && Instant::now() < *until
        {
            let error = error.clone();
            self.refuse(&turn, &error, false);
            self.keep(std::mem::take(&mut turn.laters), &error);
            return;
        }
        let deadline = Instant::now() + self.shared.options.timeout * 2;
        let (mut gave_way, mut is_doubtful, mut was_lost) = (0, false, false);
        let mut with_laters = true;
        loop {
            let now = unix_seconds();
            let script = turn.script(&self.shared, now, with_laters);
            let fault = match self.link.run(&script.sql).await {
                Ok(answers) => {
                    let affected: Vec<u64> = answers.iter().map(|answer| answer.affected).collect();
                    self.succeeded(&mut turn, &script.steps, &affected, with_laters, is_doubtful).await;
                    return;
                }
                Err(fault) => fault,
            };
            let was_sent = fault.kind == FaultKind::Lost;
            is_doubtful |= was_sent;
            if fault.spares_connection() {
                self.link.roll_back().await;
            }
            let is_in_time = Instant::now() < deadline;
            match fault.kind {
                FaultKind::Refused | FaultKind::GaveWay | FaultKind::DiskFull
                    if with_laters && is_urgent && !turn.laters.is_empty() =>
                {
                    // What somebody waits for must not wait, or fail, for what nobody waits for.
                    with_laters = false;
                    self.apart_until = Instant::now() + APART;
                }
                FaultKind::Refused | FaultKind::GaveWay if !is_urgent => {
                    // A row that is locked, or a statement that does not work: nothing that keeps others from writing.
                    if self.laters_failures.is_power_of_two() {
                        tracing::warn!(%fault, changes = turn.laters.len(), "messages stay as they are for now; it is tried again");
                    }
                    self.keep(std::mem::take(&mut turn.laters), &fault.to_error());
                    return;
                }
                FaultKind::GaveWay if gave_way < GAVE_WAY_MAX && is_in_time => {
                    gave_way += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10 * u64::from(gave_way))))
                        .await;
                }
                FaultKind::Lost if !was_lost && is_in_time => was_lost = true,
                _ => {
                    self.failed(&mut turn, &fault, is_doubtful);
                    return;
                }
            }
        }
    }

    /// Nothing is to be done: sees whether something could be. Whether a server takes writes, only a write tells.
    async fn look_for_server(&mut self) {
        if self.pause.as_ref().is_some_and(|(until, _)| Instant::now() < *until) {
            return;
        }
        let sql = format!(
            "UPDATE {} SET seen_at={} WHERE epoch={}",
            self.shared.layout.brokers(),
            super::shared::unix_millis(),
            self.shared.epoch.0
        );
        match self.link.run(&sql).await {
            Ok(_) => self.is_well(),
            Err(fault) => self.is_ill(&fault),
        }
    }

    fn is_well(&mut self) {
        self.pause = None;
        self.shared.set_health(self.number, None);
    }

    fn is_ill(&mut self, fault: &Fault) {
        let error = fault.to_error();
        self.shared.set_health(self.number, Some(&error));
        self.pause = Some((Instant::now() + PAUSE, error));
    }

    fn failed(&mut self, turn: &mut Turn, fault: &Fault, is_doubtful: bool) {
        self.is_ill(fault);
        self.refuse(turn, &fault.to_error(), is_doubtful);
        self.keep(std::mem::take(&mut turn.laters), &fault.to_error());
    }

    /// Answers what somebody waits for.
    fn refuse(&mut self, turn: &Turn, error: &StoreError, is_doubtful: bool) {
        let mut slots = lock(&self.shared.slots);
        for insert in turn.inserts.iter().flatten() {
            insert.part.set(insert.index, AppendOutcome::Refused(error.clone()));
            if let Some(slot) = insert.slot {
                slots.release(slot);
                if is_doubtful {
                    doubt(&mut self.doubtful, insert.id);
                }
            }
        }
        for Twin { part, index, .. } in &turn.twins {
            part.set(*index, AppendOutcome::Refused(error.clone()));
        }
        for decision in &turn.decisions {
            decision.part.set(decision.index, VerdictOutcome::Failed(error.clone()));
        }
    }

    /// Keeps what nobody waits for, for later; of the notes about one message the last counts.
    fn keep(&mut self, laters: Vec<Later>, error: &StoreError) {
        if laters.is_empty() {
            return;
        }
        self.laters_at = Instant::now() + PAUSE * 2u32.pow(self.laters_failures.min(DOUBLINGS_MAX));
        self.laters_failures += 1;
        self.laters_error = Some(error.clone());
        // In fewer and fewer together, until the one that does not work is found. It goes to the end then.
        self.laters_max = (laters.len() / 2).max(1);
        let mut all = laters;
        if all.len() > 1 {
            all.append(&mut self.laters);
        } else {
            all.splice(0..0, self.laters.drain(..));
        }
        let mut noted = hashbrown::HashSet::new();
        all.reverse();
        all.retain(|later| !matches!(later, Later::Note { entry, .. } if !noted.insert(entry.id)));
        all.reverse();
        self.laters = all;
    }

    async fn succeeded(
        &mut self,
        turn: &mut Turn,
        steps: &[Step],
        affected: &[u64],
        with_laters: bool,
        is_repeated: bool,
    ) {
        self.is_well();
        for (step, &count) in steps.iter().zip(affected) {
            match *step {
                Step::Other => {}
                Step::Inserted(digit) => self.inserted(turn, digit, count).await,
                Step::Decided(index) => self.decided(&turn.decisions[index], count > 0).await,
                // A try whose end was not heard may have done it already.
                Step::Ours(expected) => self.suspect(count < expected && !is_repeated),
                Step::Killed => {
                    self.suspect(count == 0 && !is_repeated);
                    self.shared.counters.dead_letters.fetch_add(count as i64, Ordering::Relaxed);
                }
            }
        }
        for Twin { part, index, of: (digit, position) } in &turn.twins {
            let of = &turn.inserts[*digit][*position];
            let outcome = match of.part.get(of.index) {
                AppendOutcome::Refused(error) => AppendOutcome::Refused(error),
                _ => AppendOutcome::Duplicate,
            };
            part.set(*index, outcome);
        }
        let laters = std::mem::take(&mut turn.laters);
        if with_laters {
            if !laters.is_empty() {
                self.laters_at = Instant::now();
                self.laters_failures = 0;
                self.laters_error = None;
                self.laters_max = self.laters_max.saturating_mul(2);
            }
            self.are_written(&laters);
        } else {
            // They have a transaction of their own, at once.
            let newer = std::mem::replace(&mut self.laters, laters);
            self.laters.extend(newer);
            self.laters_at = Instant::now();
        }
    }

    fn suspect(&self, is_suspect: bool) {
        if is_suspect {
            self.shared.counters.suspects_loss.store(true, Ordering::Relaxed);
        }
    }

    fn are_written(&self, laters: &[Later]) {
        let counters = &self.shared.counters;
        for later in laters {
            if let Later::Leave { how: Leaving::Shelved { place: ShelfPlace::On(shelf), .. }, .. } = later {
                self.shared.knows_shelf(shelf);
            }
        }
        let mut slots = lock(&self.shared.slots);
        for later in laters {
            let Later::Leave { entry, how } = later else { continue };
            slots.left(&entry.id);
            match how {
                Leaving::Settled => counters.settled.fetch_add(1, Ordering::Relaxed),
                Leaving::Shelved { .. } => counters.waiting.fetch_add(1, Ordering::Relaxed),
                Leaving::Killed { .. } => 0,
            };
        }
    }

    /// Answers the inserts of a table, of which `count` rows were new.
    async fn inserted(&mut self, turn: &Turn, digit: usize, count: u64) {
        let inserts = &turn.inserts[digit];
        if count == inserts.len() as u64 {
            let mut slots = lock(&self.shared.slots);
            let deferred = inserts.iter().filter(|insert| !stored(&mut slots, insert)).count();
            self.shared.counters.waiting.fetch_add(deferred as i64, Ordering::Relaxed);
            return;
        }
        let ids: Vec<MessageId> = inserts.iter().map(|insert| insert.id).collect();
        let found = self.look_up(digit, &ids).await;
        let mut slots = lock(&self.shared.slots);
        // A message that waits may have waited before; what is new and not resident is counted.
        let mut deferred = count as i64;
        for (index, insert) in inserts.iter().enumerate() {
            match &found {
                Ok(places) => {
                    let expected = if insert.slot.is_some() { held(self.shared.epoch) } else { DUE };
                    let outcome = match places.get(&insert.id) {
                        // Ours and without a slot so far: stored just now, or in a transaction whose end was not heard.
                        Some(Some(place)) if *place == expected => {
                            deferred -= i64::from(stored(&mut slots, insert));
                            continue;
                        }
                        Some(_) => AppendOutcome::Duplicate,
                        // The one that was in the way is gone, or the table takes no more rows.
                        None => AppendOutcome::Refused(StoreError::Unavailable {
                            place: self.shared.layout.table(digit).to_owned(),
                            reason: "the row was not taken; if this goes on, look whether its id column has reached its \
                                     largest number"
                                .to_owned(),
                        }),
                    };
                    if let Some(slot) = insert.slot {
                        slots.release(slot);
                    }
                    insert.part.set(insert.index, outcome);
                }
                Err(error) => {
                    if let Some(slot) = insert.slot {
                        slots.release(slot);
                        doubt(&mut self.doubtful, ids[index]);
                    }
                    insert.part.set(insert.index, AppendOutcome::Refused(error.clone()));
                }
            }
        }
        if found.is_ok() {
            self.shared.counters.waiting.fetch_add(deferred.max(0), Ordering::Relaxed);
        }
    }

    /// Where the rows with these ids are; `None` for one that is not ours.
    async fn look_up(
        &mut self,
        digit: usize,
        ids: &[MessageId],
    ) -> Result<hashbrown::HashMap<MessageId, Option<i64>>, StoreError> {
        let mut places = hashbrown::HashMap::new();
        for ids in ids.chunks(LOOKUP_MAX) {
            let mut sql = "SELECT message_id,next_deliver_time,kite_server=".to_owned();
            super::text::put_quoted(&mut sql, &self.shared.owner);
            sql.push_str(" FROM ");
            sql.push_str(self.shared.layout.table(digit));
            put_force_id(&mut sql, &self.shared, digit);
            sql.push_str(" WHERE message_id IN ");
            put_ids(&mut sql, ids);
            let answers = self.link.run(&sql).await.map_err(|fault| fault.to_error())?;
            for row in answers.iter().flat_map(|answer| &answer.rows) {
                let id: Vec<u8> = row.try_get_unchecked(0).unwrap_or_default();
                let place = row.try_get_unchecked::<i64, _>(1).ok();
                let is_ours = row.try_get_unchecked::<i64, _>(2).is_ok_and(|is_ours| is_ours != 0);
                if let Ok(id) = MessageId::parse(&id) {
                    places.insert(id, place.filter(|_| is_ours));
                }
            }
        }
        Ok(places)
    }

    async fn decided(&mut self, decision: &Decision, has_hit: bool) {
        let outcome = match (decision.slot, decision.verdict) {
            (None, Verdict::Rollback) if has_hit => {
                self.shared.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                VerdictOutcome::Deferred
            }
            (None, Verdict::Commit) if has_hit => VerdictOutcome::Deferred,
            (None, _) => VerdictOutcome::Ignored,
            (Some(slot), Verdict::Commit) if has_hit => {
                lock(&self.shared.slots).commit(slot);
                VerdictOutcome::Committed(slot)
            }
            (Some(_), Verdict::Commit) => {
                self.suspect(true);
                VerdictOutcome::Ignored
            }
            (Some(slot), Verdict::Rollback) => self.rolled_back(decision, slot, has_hit).await,
        };
        decision.part.set(decision.index, outcome);
    }

    async fn rolled_back(&mut self, decision: &Decision, slot: Slot, has_hit: bool) -> VerdictOutcome {
        if !has_hit {
            self.suspect(true);
            match self.look_up(digit_of(&decision.id), &[decision.id]).await {
                // It was committed meanwhile, by a verdict that another broker got.
                Ok(places) if !places.is_empty() => return VerdictOutcome::Ignored,
                // An earlier try did it, or somebody else: gone it is.
                Ok(_) => {}
                Err(error) => return VerdictOutcome::Failed(error),
            }
        }
        lock(&self.shared.slots).end(slot);
        VerdictOutcome::RolledBack(slot)
    }

    /// Looks for messages that may have been stored without anybody knowing.
    async fn recheck(&mut self, ids: &mut Vec<MessageId>) {
        for id in ids.drain(..) {
            doubt(&mut self.doubtful, id);
        }
        if self.doubtful.is_empty() || !self.link.is_connected() {
            return;
        }
        let now = Instant::now();
        {
            // A message that was sent again has its slot by now.
            let slots = lock(&self.shared.slots);
            self.doubtful.retain(|doubtful| !slots.is_held(&doubtful.id));
        }
        let mut due: [Vec<MessageId>; super::layout::DIGITS] = Default::default();
        for doubtful in self.doubtful.iter().filter(|doubtful| doubtful.check_at <= now) {
            due[digit_of(&doubtful.id)].push(doubtful.id);
        }
        for (digit, ids) in due.iter().enumerate() {
            for ids in ids.chunks(LOOKUP_MAX) {
                let mut sql = String::new();
                put_update_by_id(&mut sql, &self.shared, digit);
                sql.push_str(" SET next_deliver_time=");
                put_number(&mut sql, DUE);
                put_where_ours(&mut sql, &self.shared);
                sql.push_str(" IN ");
                put_ids(&mut sql, ids);
                match self.link.run(&sql).await {
                    Ok(answers) => {
                        let found: u64 = answers.iter().map(|answer| answer.affected).sum();
                        if found > 0 {
                            tracing::info!(
                                messages = found,
                                "messages whose publish was refused were stored all the same; they are delivered"
                            );
                            self.shared.counters.waiting.fetch_add(found as i64, Ordering::Relaxed);
                        }
                    }
                    Err(fault) => {
                        tracing::debug!(%fault, "could not look for doubtful messages; they are looked for again");
                        return;
                    }
                }
            }
        }
        self.doubtful.retain_mut(|doubtful| {
            if doubtful.check_at > now {
                return true;
            }
            doubtful.checks += 1;
            let next = RECHECKS.get(doubtful.checks);
            doubtful.check_at = now + next.copied().unwrap_or_default();
            next.is_some()
        });
    }

    /// Writes the rest before the end; says what could not be written.
    async fn finish(&mut self) -> Option<StoreError> {
        let deadline = Instant::now() + self.shared.options.timeout * 2;
        while !self.laters.is_empty() {
            self.pause = None;
            let count = self.laters.len().min(self.shared.options.batch_rows_max).min(self.laters_max);
            let mut turn = Turn::default();
            turn.laters.extend(self.laters.drain(..count));
            self.carry_out_once(turn).await;
            if self.laters_failures > 0 {
                if Instant::now() > deadline {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.laters_error.take().filter(|_| !self.laters.is_empty())
    }
}

/// Answers an insert whose row is there; whether it is resident.
fn stored(slots: &mut Slots, insert: &Insert) -> bool {
    let outcome = match insert.slot {
        Some(slot) => {
            slots.fill(slot, insert.header_len, insert.payload_len, insert.is_committed);
            AppendOutcome::Stored(slot)
        }
        None => AppendOutcome::Deferred,
    };
    insert.part.set(insert.index, outcome);
    insert.slot.is_some()
}

fn doubt(doubtful: &mut Vec<Doubtful>, id: MessageId) {
    if doubtful.len() >= DOUBTFUL_MAX {
        // The next start finds it, as it finds everything of an earlier run.
        tracing::warn!(%id, "too many publishes whose fate is not known; this one is looked for at the next start");
        return;
    }
    doubtful.push(Doubtful { id, check_at: Instant::now(), checks: 0 });
}
