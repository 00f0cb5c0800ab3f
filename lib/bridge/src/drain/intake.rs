//! What happens to elements between Redis and the sinks: decoded, routed, put into batches, sent, and their claims done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::task::JoinSet;

use crate::config::ClaimMode;
use crate::deliver::{Deliver, Undeliverable};
use crate::drain::claims::{Claims, Settlement, Slot, Span, Spans};
use crate::drain::keeper::{Job, Keeper, Kept};
use crate::drain::lane::{Lane, Offered, Parcel};
use crate::drain::link::Reader;
use crate::drain::memory::BatchMemory;
use crate::drain::progress::Progress;
use crate::element::{Decoder, Inflater, Reason, Rejection};
use crate::letter;
use crate::limit::{Budget, RateLimit};
use crate::metrics::{BusinessLabels, DeadLabels, Metrics};
use crate::redis::{Keys, PARK_FULL, PARK_GONE, Source};
use crate::route::{Route, Routes};

/// How long parking waits after its bound was met.
const PARK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bytes of dead letters in one job.
const LETTER_BYTES: usize = 1 << 20;
/// Bytes of dead letters and parked elements that may wait for Redis before reading stops.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Pause before a batch that cannot be parked is offered to the sinks again.
const RESEND_AFTER: Duration = Duration::from_millis(500);

/// A parcel that came back, and whether a sink has it.
type Returned = (Parcel, Result<(), Undeliverable>);

/// What an intake shares with others.
pub(crate) struct IntakeContext<D> {
    pub(crate) mode: ClaimMode,
    pub(crate) mark: Arc<str>,
    pub(crate) parked_max: u64,
    pub(crate) keys: Keys,
    pub(crate) deliver: D,
    pub(crate) routes: Arc<Routes>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) rate: Arc<RateLimit>,
    pub(crate) metrics: Metrics,
    pub(crate) popped: Counter,
    pub(crate) progress: Arc<Progress>,
}

/// What is written for an element of which it is not known beforehand.
#[derive(Default)]
struct Written {
    /// The business and log type, as the event's header has them.
    name: Vec<u8>,
    /// What is added to the body.
    tail: Vec<u8>,
}

/// Letters that are not given to the keeper yet.
#[derive(Default)]
struct Letters {
    written: Vec<Vec<u8>>,
    bytes: usize,
    spans: Spans,
}

pub(crate) struct Intake<D> {
    context: IntakeContext<D>,
    decoder: Decoder,
    inflater: Option<Inflater>,
    written: Written,
    pub(crate) lanes: Vec<Lane>,
    memory: BatchMemory,
    pub(crate) claims: Claims,
    pub(crate) sends: JoinSet<Returned>,
    pub(crate) keeper: Keeper,
    letters: Letters,
    /// Bytes of letters and parked values that the keeper has.
    kept_bytes: usize,
    /// Bytes of batches on their way.
    sending_bytes: usize,
    /// What the budget was told last.
    accounted_bytes: usize,
    /// The current time, as of the last turn.
    now: Instant,
    /// Whether the last claim of the queue had less than one page may have.
    pub(crate) source_empty: bool,
    /// Whether a claim was answered since somebody looked.
    pub(crate) is_answered: bool,
    pub(crate) dead_letters: u64,
    sent_counters: Vec<Counter>,
    /// Whether Redis is being told what is settled. What is done meanwhile is told together.
    is_settling: bool,
}

impl<D: Deliver> Intake<D> {
    pub(crate) fn new(
        context: IntakeContext<D>,
        lanes: Vec<Lane>,
        inflater: Option<Inflater>,
        keeper: Keeper,
        now: Instant,
    ) -> Self {
        let labels = |lane: &Lane| BusinessLabels { business: lane.name.to_string() };
        // Each reason shows from the start.
        for reason in Reason::ALL {
            let labels = DeadLabels { queue: context.keys.queue.clone(), reason: reason.label() };
            let _ = context.metrics.dead.get_or_create(&labels);
        }
        let sent_counters =
            lanes.iter().map(|lane| context.metrics.sent.get_or_create(&labels(lane)).clone()).collect();
        Self {
            context,
            decoder: Decoder::default(),
            inflater,
            written: Written::default(),
            lanes,
            memory: BatchMemory::default(),
            claims: Claims::default(),
            sends: JoinSet::new(),
            keeper,
            letters: Letters::default(),
            kept_bytes: 0,
            sending_bytes: 0,
            accounted_bytes: 0,
            now,
            source_empty: false,
            is_answered: false,
            dead_letters: 0,
            sent_counters,
            is_settling: false,
        }
    }

    /// Begins a turn: looks at the clock and at the sinks, and sends batches that are old enough.
    pub(crate) fn begin_turn(&mut self, now: Instant) {
        self.now = now;
        for place in 0..self.lanes.len() {
            self.lanes[place].look();
            if self.lanes[place].due_at().is_some_and(|due| due <= now) {
                self.send(place);
            }
        }
    }

    /// Ends a turn: hands on what it has brought together.
    pub(crate) fn end_turn(&mut self) {
        self.flush_letters();
        self.park();
        self.settle();
        self.account();
    }

    /// Sends what is being filled, whatever its age.
    pub(crate) fn send_all(&mut self) {
        (0..self.lanes.len()).for_each(|place| self.send(place));
    }

    /// When the next batch is old enough, or parking may be tried again.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.lanes.iter().flat_map(|lane| [lane.due_at(), lane.park_after]).flatten().min()
    }

    /// Redis holds parked elements of a business.
    pub(crate) fn found_parked(&mut self, business: &str) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| *lane.name == *business) {
            lane.may_have_parked = true;
        }
    }

    /// The business whose parked elements have reached their bound, if there is one.
    pub(crate) fn park_full(&self) -> Option<&str> {
        self.lanes.iter().find(|lane| lane.park_after.is_some()).map(|lane| &*lane.name)
    }

    fn send(&mut self, place: usize) {
        if let Some(parcel) = self.lanes[place].take(self.now) {
            self.send_parcel(parcel);
        }
    }

    fn send_parcel(&mut self, parcel: Parcel) {
        let place = parcel.lane;
        self.sending_bytes += parcel.batch.frame_bytes();
        let labels = BusinessLabels { business: self.lanes[place].name.to_string() };
        let metrics = &self.context.metrics;
        metrics.batch_events.get_or_create(&labels).observe(parcel.batch.events() as f64);
        metrics.batch_bytes.get_or_create(&labels).observe(parcel.batch.frame_bytes() as f64);
        let (deliver, business) = (self.context.deliver.clone(), Arc::clone(&self.lanes[place].name));
        let keeps_trying = self.context.mode == ClaimMode::Pop;
        self.sends.spawn(async move {
            loop {
                let sent = deliver.deliver(&business, &parcel.batch).await;
                // Without a claim there is nowhere to park it from.
                if sent.is_ok() || !keeps_trying {
                    return (parcel, sent);
                }
                tokio::time::sleep(RESEND_AFTER).await;
            }
        });
    }

    /// A batch came back.
    pub(crate) fn returned(&mut self, (parcel, sent): Returned) {
        self.sending_bytes -= parcel.batch.frame_bytes();
        let (events, lane) = (parcel.spans.elements(), &mut self.lanes[parcel.lane]);
        let labels = BusinessLabels { business: lane.name.to_string() };
        let metrics = &self.context.metrics;
        match sent {
            Ok(()) => {
                let now = Instant::now();
                let since = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
                metrics.send_seconds.get_or_create(&labels).observe(since(parcel.full_at));
                metrics.end_to_end_seconds.get_or_create(&labels).observe(since(parcel.claimed_at));
                self.sent_counters[parcel.lane].inc_by(events);
                self.context.progress.sent.fetch_add(events, Ordering::Relaxed);
                self.claims.finish(parcel.spans.iter());
            }
            Err(Undeliverable) => {
                metrics.undelivered.get_or_create(&labels).inc_by(events);
                lane.to_park.extend(parcel.spans.iter());
            }
        }
        self.memory.give(parcel.batch);
    }

    fn settle(&mut self) {
        if self.is_settling {
            return;
        }
        let mut settled = self.claims.take_done();
        settled.retain(|settlement| {
            let claim = settlement.pages.first().and_then(|slot| self.claims.claim_of(*slot));
            // Popped without a claim, or nothing was claimed, or it is not ours any more.
            let is_ours = self.context.mode == ClaimMode::Script
                && claim.is_some_and(|claim| claim.elements != Some(0) && !claim.is_gone);
            if !is_ours {
                self.claims.close(settlement);
            }
            is_ours
        });
        if !settled.is_empty() {
            self.is_settling = true;
            self.keeper.give(Job::Settle(settled));
        }
    }

    fn park(&mut self) {
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            if lane.park_after.is_some_and(|at| at > self.now) {
                continue;
            }
            let was_full = lane.park_after.take().is_some();
            if lane.to_park.is_empty() {
                if was_full && self.context.mode == ClaimMode::Pop {
                    // Nothing waits that would tell.
                    lane.park_after = Some(self.now + PARK_AGAIN_AFTER);
                    self.keeper.give(Job::CountParked { lane: place });
                }
                continue;
            }
            let spans = std::mem::take(&mut lane.to_park);
            if self.context.mode == ClaimMode::Pop {
                let values = std::mem::take(&mut lane.to_park_values);
                self.keeper.give(Job::ParkValues { lane: place, values, spans });
                continue;
            }
            // Page by page, for what does not fit below the bound is refused whole.
            for (claim, spans, ranges) in self.claims.ranges(&spans) {
                self.keeper.give(Job::Park { lane: place, claim, spans, ranges });
            }
        }
    }

    fn reject(&mut self, place: (Slot, u32), rejection: &Rejection, element: &[u8]) {
        self.count_dead(rejection.reason);
        let letter = letter::with_element(rejection, &self.context.mark, element);
        self.letters.bytes += letter.len();
        self.letters.written.push(letter);
        self.letters.spans.add(place.0, place.1);
        if self.letters.bytes >= LETTER_BYTES {
            self.flush_letters();
        }
    }

    fn count_dead(&self, reason: Reason) {
        let labels = DeadLabels { queue: self.context.keys.queue.clone(), reason: reason.label() };
        self.context.metrics.dead.get_or_create(&labels).inc();
        self.context.progress.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    fn flush_letters(&mut self) {
        let Letters { written, bytes, spans } = std::mem::take(&mut self.letters);
        if !written.is_empty() {
            self.kept_bytes += bytes;
            self.keeper.give(Job::Dead { letters: written, spans });
        }
    }

    /// Redis has done a job.
    pub(crate) fn kept(&mut self, Kept { job, answer }: Kept) {
        match job {
            Job::Settle(settled) => self.settled(&settled, answer),
            Job::Dead { letters, spans } => {
                self.kept_bytes -= letters.iter().map(Vec::len).sum::<usize>();
                self.dead_letters = u64::try_from(answer).unwrap_or(0);
                self.claims.finish(spans.iter());
            }
            Job::Oversize { span, .. } => {
                if answer != PARK_GONE {
                    self.dead_letters = u64::try_from(answer).unwrap_or(0);
                }
                self.claims.finish([span]);
            }
            Job::Park { lane, spans, .. } => self.parked(lane, &spans, answer),
            Job::ParkValues { lane, values, spans } => {
                self.kept_bytes -= values.iter().map(Vec::len).sum::<usize>();
                self.parked(lane, &spans.iter().collect::<Vec<_>>(), answer);
                self.mind_parked(lane, answer);
            }
            Job::CountParked { lane } => self.mind_parked(lane, answer),
            Job::CountDead => self.dead_letters = u64::try_from(answer).unwrap_or(0),
        }
    }

    fn settled(&mut self, settled: &[Settlement], held: i64) {
        self.is_settling = false;
        let taken = i64::try_from(settled.len()).unwrap_or(i64::MAX) - held;
        if taken > 0 {
            tracing::warn!(
                queue = %self.context.keys.queue,
                "{taken} claims were put back by another instance, which took this one for dead: elements arrive twice"
            );
        }
        for settlement in settled {
            let ended = self.claims.close(settlement);
            self.context.progress.settled.fetch_add(u64::from(ended), Ordering::Relaxed);
        }
    }

    fn parked(&mut self, place: usize, spans: &[Span], answer: i64) {
        let lane = &mut self.lanes[place];
        if answer == PARK_FULL {
            lane.to_park.extend(spans.iter().copied());
            lane.park_after = Some(self.now + PARK_AGAIN_AFTER);
            lane.may_have_parked = true;
            return;
        }
        if answer != PARK_GONE {
            let elements: u64 = spans.iter().map(|span| u64::from(span.count)).sum();
            lane.may_have_parked = true;
            let labels = BusinessLabels { business: lane.name.to_string() };
            self.context.metrics.parked.get_or_create(&labels).inc_by(elements);
            self.context.progress.parked.fetch_add(elements, Ordering::Relaxed);
        }
        self.claims.finish(spans.iter().copied());
    }

    /// Popped elements are parked also beyond the bound, for they are nowhere else; then nothing more is popped.
    fn mind_parked(&mut self, place: usize, parked: i64) {
        let is_full = u64::try_from(parked).unwrap_or(0) >= self.context.parked_max;
        self.lanes[place].park_after = is_full.then(|| self.now + PARK_AGAIN_AFTER);
    }

    fn account(&mut self) {
        let filling: usize = self.lanes.iter().map(Lane::bytes).sum();
        let now = filling + self.sending_bytes;
        self.context.budget.change(std::mem::replace(&mut self.accounted_bytes, now), now);
    }

    /// Decodes an element and puts it into the batch of its business.
    #[inline]
    fn take(&mut self, place: (Slot, u32), bytes: &[u8]) -> Result<(), Rejection> {
        let Self { decoder, inflater, written, lanes, memory, context, claims, now, .. } = self;
        let plain = match inflater {
            Some(inflater) => inflater.inflate(bytes)?,
            None => bytes,
        };
        // It is not moved: reading it as a whole would have to wait for its parts to be written.
        let decoded = decoder.decode(plain);
        let element = match decoded {
            Ok(ref element) => element,
            Err(rejection) => return Err(rejection),
        };
        let (lane_place, business, known_tail) = match context
            .routes
            .find(&element.business, element.log_type.digits())
        {
            Some(Route::Own(own)) => (own.place, None, element.has_plain_business().then_some(&*own.tail)),
            Some(Route::Default(place)) => {
                element.write_name(&mut written.name);
                (place, Some(written.name.as_slice()), None)
            }
            None => {
                element.write_name(&mut written.name);
                let name = String::from_utf8_lossy(&written.name);
                let detail = format!("neither {name:?} nor the default is served");
                return Err(Rejection::new(Reason::NoRoute, detail));
            }
        };
        let tail = known_tail.unwrap_or_else(|| {
            element.write_tail(&mut written.tail);
            &written.tail
        });
        let lane = &mut lanes[lane_place];
        if !lane.is_available {
            lane.to_park.add(place.0, place.1);
            if context.mode == ClaimMode::Pop {
                self.kept_bytes += bytes.len();
                lane.to_park_values.push(bytes.to_vec());
            }
            return Ok(());
        }
        let mut offered = lane.offer(element, business, tail, place, memory);
        if offered == Offered::Full {
            let full = lane.take(*now);
            offered = lane.offer(element, business, tail, place, memory);
            Self::began(lane, claims, place.0, *now);
            if let Some(parcel) = full {
                self.send_parcel(parcel);
            }
        } else {
            Self::began(lane, claims, place.0, *now);
        }
        match offered {
            Offered::Taken => {
                if self.lanes[lane_place].is_full() {
                    self.send(lane_place);
                }
                Ok(())
            }
            Offered::Full | Offered::TooLarge => {
                Err(Rejection::new(Reason::TooLarge, "its event does not fit a frame"))
            }
        }
    }

    fn is_of_queue(&self, slot: Slot) -> bool {
        self.claims.claim_of(slot).is_some_and(|claim| claim.source == Source::Queue)
    }

    #[inline]
    fn began(lane: &mut Lane, claims: &Claims, slot: Slot, now: Instant) {
        lane.began(|| claims.page(slot).map_or(now, |page| page.asked_at), now);
    }
}

impl<D: Deliver> Reader for Intake<D> {
    fn claims(&mut self) -> &mut Claims {
        &mut self.claims
    }

    fn claimed(&mut self, slot: Slot, elements: u64) {
        self.is_answered = true;
        let Some(wanted) = self.claims.page(slot).map(|page| page.wanted) else { return };
        self.claims.answered(slot, elements);
        let taken = self.claims.page(slot).map_or(0, |page| page.wanted);
        if self.is_of_queue(slot) {
            self.source_empty = taken < wanted;
            self.context.progress.left_the_queue(elements);
        }
        self.context.rate.give_back((wanted - taken) as usize);
    }

    #[inline]
    fn element(&mut self, slot: Slot, index: u32, bytes: &[u8]) {
        if let Err(rejection) = self.take((slot, index), bytes) {
            self.reject((slot, index), &rejection, bytes);
        }
    }

    fn oversize(&mut self, slot: Slot, index: u32, bytes: usize) {
        let rejection = Rejection::new(Reason::TooLarge, "it does not fit a frame");
        self.count_dead(rejection.reason);
        let list = self.context.keys.dead_oversize();
        let letter = letter::without_element(&rejection, &self.context.mark, bytes, &list);
        let span = Span { slot, first: index, count: 1 };
        let claim = self.claims.page(slot).map_or(0, |page| page.claim);
        let (place, _) = self.claims.range(span);
        self.keeper.give(Job::Oversize { span, claim, place, letter });
    }

    fn ended(&mut self, slot: Slot) {
        let Some((read, missing)) = self.claims.page(slot).map(|page| (page.read, page.wanted > page.read))
        else {
            return;
        };
        let is_known = self.claims.claim_of(slot).is_some_and(|claim| claim.elements.is_some());
        if !is_known {
            // Popped: what came is all there is.
            self.claimed(slot, u64::from(read));
        } else if missing && self.claims.give_up(slot) {
            tracing::warn!(
                queue = %self.context.keys.queue,
                "a claim was put back by another instance while it was read: the rest of its elements goes there"
            );
        }
        if self.is_of_queue(slot) {
            self.context.progress.popped.fetch_add(u64::from(read), Ordering::Relaxed);
            self.context.popped.inc_by(u64::from(read));
        }
        self.claims.read_all(slot);
    }

    fn is_full(&self) -> bool {
        // What is being filled is not in the budget before the turn ends; one reading of the socket adds little.
        self.context.budget.is_full() || self.kept_bytes + self.letters.bytes >= KEPT_BYTES_MAX
    }
}
