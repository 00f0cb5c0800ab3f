//! One queue on one server: the task that claims its elements and sees each to its end.
//!
//! A drain owns all that belongs to its queue: the connection that it claims and reads on (`link`), the batches and the table of claims
//! (`intake`), the writer of settled claims, dead letters and parked elements (`keeper`). It works in turns: read what has come, decode
//! it into batches, send the full and the old ones, claim or read on, hand on what is done. Nothing is shared per element.
//!
//! It stops claiming and reading on when its pages in flight, the bytes of all batches, the dead letters or the parked elements of a
//! business are at their bound; it stops reading the socket when the bytes are.

mod claims;
mod intake;
mod keeper;
mod lane;
mod link;
mod memory;
mod outage;
mod page_size;
mod progress;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kiteq_telemetry::Shutdown;

use crate::config::{BridgeConfig, ClaimMode};
use crate::deliver::Deliver;
use crate::element::Inflater;
use crate::limit::{Budget, RateLimit};
use crate::metrics::{Metrics, QueueLabels};
use crate::recovery;
use crate::redis::{Dialer, Keys, Owner, RedisError, Source};
use crate::route::Routes;

use claims::Slot;
use intake::{Intake, IntakeContext};
use keeper::{Job, Keeper, KeeperContext};
use lane::{BatchLimits, Lane};
use link::{Link, LinkContext, LinkEvent};
pub(crate) use outage::Outage;
use page_size::PAGES_AHEAD;
pub(crate) use progress::Progress;

/// How long an empty queue is left alone.
const IDLE_POLL: Duration = Duration::from_millis(10);
/// How often gauges are set, and bounds that somebody else may have cleared are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a rate limit that did not let all pass is left alone.
const RATE_PAUSE: Duration = Duration::from_millis(5);

/// What a drain is made of.
pub(crate) struct DrainParts<D> {
    pub(crate) config: Arc<BridgeConfig>,
    pub(crate) dialer: Dialer,
    pub(crate) keys: Keys,
    pub(crate) owner: Owner,
    pub(crate) deliver: D,
    pub(crate) routes: Arc<Routes>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) rate: Arc<RateLimit>,
    pub(crate) metrics: Metrics,
    pub(crate) progress: Arc<Progress>,
    /// For tasks that have to outlive the drain's own stop.
    pub(crate) helpers: Shutdown,
}

/// What a drain asks for next.
enum Next {
    /// More of a claim.
    Page(u64),
    /// A claim.
    Claim(Source),
}

/// A drain before and while it runs.
pub(crate) struct Drain<D> {
    config: Arc<BridgeConfig>,
    dialer: Dialer,
    keys: Keys,
    owner: Owner,
    budget: Arc<Budget>,
    rate: Arc<RateLimit>,
    metrics: Metrics,
    progress: Arc<Progress>,
    labels: QueueLabels,
    link: Link,
    intake: Intake<D>,
    outage: Outage,
    /// Whether others are told that the queue is not being drained.
    shows_trouble: bool,
    /// Pages to be read on, once there is a connection.
    again: Vec<Slot>,
    /// When an empty queue is looked at again.
    poll_at: Instant,
    /// When something that needs no event is due: a rate limit, gauges.
    tick_at: Instant,
    rate_at: Option<Instant>,
    /// When to give up finishing, once the drain is to stop.
    stop_at: Option<Instant>,
}

impl<D: Deliver> Drain<D> {
    pub(crate) fn new(parts: DrainParts<D>) -> Self {
        let DrainParts {
            config,
            dialer,
            keys,
            owner,
            deliver,
            routes,
            budget,
            rate,
            metrics,
            progress,
            helpers,
        } = parts;
        let now = Instant::now();
        let mode = config.claim_mode;
        let keeper = Keeper::start(
            KeeperContext {
                dialer: dialer.clone(),
                keys: keys.clone(),
                owner: owner.clone(),
                mode,
                businesses: routes.names().to_vec(),
                parked_max: config.parked_max,
            },
            &helpers,
        );
        let link = LinkContext {
            dialer: dialer.clone(),
            keys: keys.clone(),
            owner: owner.clone(),
            mode,
            element_bytes_max: match mode {
                ClaimMode::Script => config.batch.frame_bytes_max,
                // What was popped is nowhere else, so it has to be held.
                ClaimMode::Pop => usize::MAX,
            },
            // A bridge that may not go as fast as it can leaves the rest to others: no more than it reads in a second.
            claim_max: config.rate_limit.map_or(0, |rate| rate.max(config.claim_elements as u64)),
        };
        let limits = BatchLimits::new(&config.batch, config.sinks.protocol);
        let lane = |(place, name): (usize, &String)| {
            Lane::new(name, place, &limits, deliver.availability(name), now)
        };
        let lanes = routes.names().iter().enumerate().map(lane).collect();
        let inflater = config.compressed.then(|| Inflater::new(config.inflated_bytes_max));
        let labels = QueueLabels { redis: dialer.address.to_string(), queue: keys.queue.clone() };
        let context = IntakeContext {
            mode,
            mark: owner.mark.as_str().into(),
            parked_max: config.parked_max,
            keys: keys.clone(),
            deliver,
            routes,
            budget: Arc::clone(&budget),
            rate: Arc::clone(&rate),
            metrics: metrics.clone(),
            popped: metrics.popped.get_or_create(&labels).clone(),
            progress: Arc::clone(&progress),
        };
        Self {
            outage: Outage::new(&dialer.address, "draining of queue", &keys.queue),
            link: Link::new(link, now),
            intake: Intake::new(context, lanes, inflater, keeper, now),
            config,
            dialer,
            keys,
            owner,
            budget,
            rate,
            metrics,
            progress,
            labels,
            shows_trouble: true,
            again: Vec::new(),
            poll_at: now,
            tick_at: now,
            rate_at: None,
            stop_at: None,
        }
    }

    /// Drains until `shutdown`, then finishes what is claimed within the drain timeout and puts back the rest.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            let now = Instant::now();
            self.turn(now).await;
            if self.is_finished(now) {
                break;
            }
            self.wait(&shutdown).await;
        }
        self.put_back().await;
    }

    fn is_finished(&self, now: Instant) -> bool {
        self.stop_at.is_some_and(|at| now >= at || self.intake.claims.pages() == 0)
    }

    async fn turn(&mut self, now: Instant) {
        self.intake.begin_turn(now);
        if let Err(error) = self.link.read(&mut self.intake) {
            self.failed(&error, now);
        } else if self.link.is_up() {
            if std::mem::take(&mut self.intake.is_answered) {
                self.outage.over();
                if self.shows_trouble {
                    self.report();
                }
            }
            self.ask(now);
            let waiting = self.intake.claims.waiting();
            self.progress.claimed_waiting.store(waiting, Ordering::Relaxed);
            if let Err(error) = self.link.flush().await {
                self.failed(&error, now);
            }
        }
        if self.stop_at.is_some() && self.link.unread() == 0 {
            self.intake.send_all();
        }
        self.intake.end_turn();
        if now >= self.tick_at {
            self.tick(now);
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, shutdown: &Shutdown) {
        let until = self.wake_at();
        let budget = Arc::clone(&self.budget);
        let freed = budget.freed();
        let reads = !link::Reader::is_full(&self.intake);
        if !reads {
            self.link.touch(Instant::now());
        }
        tokio::select! {
            biased;
            Some(returned) = self.intake.sends.join_next(), if !self.intake.sends.is_empty() => match returned {
                Ok(returned) => self.intake.returned(returned),
                // Its elements stay in their claims, and the claims in Redis, for the next start.
                Err(error) => shutdown.fail(format!("sending a batch: {error}; please report it")),
            },
            Some(kept) = self.intake.keeper.kept.recv() => self.intake.kept(kept),
            event = self.link.event(), if reads => match event {
                LinkEvent::More => {}
                LinkEvent::Failed(error) => self.failed(&error, Instant::now()),
            },
            () = freed, if !reads => {}
            () = shutdown.cancelled(), if self.stop_at.is_none() => {
                self.stop_at = Some(Instant::now() + self.config.drain_timeout);
            }
            () = tokio::time::sleep_until(until.into()) => {
                let now = Instant::now();
                if reads && self.link.overdue_at().is_some_and(|at| at <= now) {
                    let error = self.link.overdue();
                    self.failed(&error, now);
                }
            }
        }
    }

    fn wake_at(&self) -> Instant {
        // Where nothing may be claimed, an event ends that, or the end of the pause that a limit makes.
        let may_poll = self.link.is_up() && self.link.unread() == 0 && self.may_claim();
        let poll = (may_poll && self.rate_at.is_none()).then_some(self.poll_at);
        let soon = [
            Some(self.tick_at),
            self.intake.due_at(),
            self.link.overdue_at(),
            self.rate_at,
            self.stop_at,
            poll,
        ];
        soon.into_iter().flatten().min().unwrap_or(self.tick_at)
    }

    /// The connection is of no use any more.
    fn failed(&mut self, error: &RedisError, now: Instant) {
        let pause = self.outage.failed(error);
        self.link.down(now + pause);
        self.rate_at = None;
        let unread = self.link.take_unread();
        if self.config.claim_mode == ClaimMode::Pop {
            if !unread.is_empty() {
                tracing::error!(
                    queue = %self.keys.queue,
                    "elements that were on their way from Redis are lost: the queue is popped without claims"
                );
            }
            unread.into_iter().for_each(|slot| link::Reader::ended(&mut self.intake, slot));
        } else {
            let later = std::mem::take(&mut self.again);
            self.again = unread.into_iter().chain(later).collect();
        }
        self.report();
    }

    /// Asks for what was asked for before, then for more.
    fn ask(&mut self, now: Instant) {
        for slot in std::mem::take(&mut self.again) {
            self.link.ask(slot, &self.intake.claims);
        }
        // Whatever else happens in a pause does not cut it short: what little a limit grants in between would make pages of a few elements.
        if self.rate_at.is_some_and(|at| now < at) {
            return;
        }
        self.rate_at = None;
        while self.rate_at.is_none()
            && let Some(next) = self.next(now)
        {
            let page = self.link.page_elements(self.config.claim_elements) as u64;
            let most = match &next {
                Next::Page(claim) => self.intake.claims.unasked(*claim).min(page),
                Next::Claim(_) => page,
            };
            let wanted = self.rate.take(most as usize, now) as u32;
            if u64::from(wanted) < most {
                self.rate_at = Some(now + RATE_PAUSE);
            }
            if wanted == 0 {
                return;
            }
            let slot = match next {
                Next::Page(claim) => self.intake.claims.next_page(claim, wanted, now),
                Next::Claim(source) => self.claim(source, wanted, now),
            };
            self.link.ask(slot, &self.intake.claims);
        }
    }

    fn claim(&mut self, source: Source, wanted: u32, now: Instant) -> Slot {
        match &source {
            Source::Queue => self.poll_at = now + IDLE_POLL,
            Source::Parked(business) => {
                let lanes = self.intake.lanes.iter_mut();
                lanes.filter(|lane| *lane.name == **business).for_each(|lane| lane.may_have_parked = false);
            }
        }
        self.intake.claims.open(source, wanted, now)
    }

    /// What to ask for now, if for anything. What is claimed already comes before what is not, and elements that were parked come before
    /// all others: they are older.
    fn next(&self, now: Instant) -> Option<Next> {
        let Intake { claims, lanes, .. } = &self.intake;
        if self.stop_at.is_some() || self.link.is_far_ahead() || !self.has_room(PAGES_AHEAD) {
            return None;
        }
        let open_lane =
            |business: &str| lanes.iter().any(|lane| lane.is_available && *lane.name == *business);
        let parked = claims.next_of(|source| matches!(source, Source::Parked(name) if open_lane(name)));
        if let Some(claim) = parked {
            return Some(Next::Page(claim));
        }
        if let Some(lane) = lanes.iter().find(|lane| lane.is_available && lane.may_have_parked) {
            return Some(Next::Claim(Source::Parked(lane.name.to_string())));
        }
        if !self.may_claim() {
            return None;
        }
        if let Some(claim) = claims.next_of(|source| *source == Source::Queue) {
            return Some(Next::Page(claim));
        }
        // One at a time: an answered claim leaves nothing behind for another.
        let idle = self.intake.source_empty && (self.link.unread() > 0 || now < self.poll_at);
        let next = self.config.claim_mode == ClaimMode::Pop || !claims.is_claiming(&Source::Queue);
        (next && !idle).then_some(Next::Claim(Source::Queue))
    }

    /// Whether no bound keeps the drain from reading anything at all. Parked elements have pages to spare: when all others hold what
    /// cannot be parked, room is made by sending what is.
    fn has_room(&self, spare: usize) -> bool {
        self.intake.claims.pages() < self.config.claims_in_flight_max + spare
            && !link::Reader::is_full(&self.intake)
            && !self.is_dead_full()
    }

    /// Whether the queue is claimed from, and its claims are read on.
    fn may_claim(&self) -> bool {
        self.stop_at.is_none() && self.has_room(0) && self.intake.park_full().is_none()
    }

    fn is_dead_full(&self) -> bool {
        self.config.dead_letters_max.is_some_and(|max| self.intake.dead_letters >= max)
    }

    fn tick(&mut self, now: Instant) {
        self.tick_at = now + TICK;
        for business in self.progress.take_parked() {
            self.intake.found_parked(&business);
        }
        if self.config.dead_letters_max.is_some() {
            self.intake.keeper.give(Job::CountDead);
        }
        if self.link.is_up() && self.link.unread() == 0 && !self.may_claim() {
            // Nothing is asked, so nothing would be answered.
            self.outage.over();
        }
        let claims = &self.intake.claims;
        let age = claims.oldest().map_or(0.0, |then| now.saturating_duration_since(then).as_secs_f64());
        let (open, labels) = (claims.held() as u64, &self.labels);
        self.progress.claims.store(open, Ordering::Relaxed);
        self.progress.in_flight.store(claims.in_flight(), Ordering::Relaxed);
        self.metrics.claims.get_or_create(labels).set(i64::try_from(open).unwrap_or(i64::MAX));
        self.metrics.claim_age_seconds.get_or_create(labels).set(age);
        let used = i64::try_from(self.budget.used_bytes()).unwrap_or(i64::MAX);
        self.metrics.pipeline_bytes.set(used);
        self.report();
    }

    /// Says why the queue is not being drained, where it can be seen, and in the log when it is a bound that was met.
    fn report(&mut self) {
        let bound = if let Some(business) = self.intake.park_full() {
            Some(format!("business {business} has no sink, and as many elements are parked for it as may be"))
        } else if self.is_dead_full() {
            Some(format!(
                "there are as many dead letters in {} as may be: look at them and delete them",
                self.keys.dead()
            ))
        } else {
            None
        };
        let trouble = self.outage.reason().map(str::to_owned);
        let starting = (!self.link.is_up()).then(|| "connecting".to_owned());
        let shown = trouble.or(bound.clone()).or(starting);
        self.shows_trouble = shown.is_some();
        let new = self.progress.set_trouble(shown);
        if let (true, Some(bound)) = (new, bound) {
            tracing::warn!(redis = %self.dialer.address, queue = %self.keys.queue, "claiming waits: {bound}");
        }
    }

    /// Puts back what could not be finished.
    async fn put_back(self) {
        let Self { intake, dialer, keys, owner, config, progress, .. } = self;
        let left = intake.claims.held() as u64;
        let in_flight = intake.claims.in_flight();
        // Sends and writes end here: what they have not done is done again by whoever claims it next.
        drop(intake);
        progress.claims.store(left, Ordering::Relaxed);
        if config.claim_mode == ClaimMode::Pop {
            progress.lost.fetch_add(in_flight, Ordering::Relaxed);
            return;
        }
        if left == 0 {
            return;
        }
        match recovery::put_back_claims(&dialer, &keys, |other| *other == owner).await {
            Ok(put_back) => {
                progress.put_back.fetch_add(put_back.claims, Ordering::Relaxed);
                progress.claims.store(0, Ordering::Relaxed);
                tracing::info!(queue = %keys.queue, "{} claims were put back at the stop", put_back.claims);
            }
            Err(error) => tracing::warn!(
                redis = %dialer.address, queue = %keys.queue,
                "{left} claims stay in Redis: {error}; the next start of this instance puts them back, or a peer does"
            ),
        }
    }
}
