//! Claims of instances that are gone go back to where they came from; and a look at each queue's length.
//!
//! An owner is gone when it is an earlier run of this very instance (the same mark, or the same host and instance and no such process),
//! or when its mark has been missing in ZooKeeper for the grace period while ZooKeeper was known. Claims go back newest first, each to
//! the head of its list, so that the old order is restored. Each step of it is one script, which does nothing when the claim is not held
//! any more: several instances may do this at once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kiteq_telemetry::Shutdown;
use tokio::sync::watch;

use crate::config::{BridgeConfig, ClaimMode};
use crate::deliver::AliveMarks;
use crate::drain::{Outage, Progress};
use crate::metrics::{Metrics, QueueLabels};
use crate::redis::{Connection, Dialer, Keys, Owner, RedisError, Reply, Script, Scripts, Source, unix_ms};

/// How often queues are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often foreign claims are looked for when nothing has changed.
const SEARCH_EVERY: Duration = Duration::from_secs(10);
/// Elements of a business that is no longer served which go back in one step.
const UNPARK_ELEMENTS: &str = "1000";
/// Elements that are moved in one step when a claim goes back: some milliseconds of Redis's time.
const PUT_BACK_ELEMENTS: &str = "10000";

/// What was put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PutBack {
    pub(crate) claims: u64,
    pub(crate) elements: u64,
    /// Whether some of it was parked, and is again.
    parked: bool,
}

/// A claim in Redis.
struct Held {
    name: String,
    value: String,
    owner: Owner,
    number: u64,
    source: Source,
}

/// Puts back the claims of the owners that `is_gone` says are gone.
pub(crate) async fn put_back_claims(
    dialer: &Dialer,
    keys: &Keys,
    is_gone: impl FnMut(&Owner) -> bool,
) -> Result<PutBack, RedisError> {
    let mut connection = dialer.connect().await?;
    let scripts = Scripts::load(&mut connection).await?;
    put_back(&mut connection, &scripts, keys, is_gone).await
}

async fn put_back(
    connection: &mut Connection,
    scripts: &Scripts,
    keys: &Keys,
    mut is_gone: impl FnMut(&Owner) -> bool,
) -> Result<PutBack, RedisError> {
    let mut held = held(connection, keys).await?;
    held.retain(|claim| is_gone(&claim.owner));
    held.sort_by(|a, b| (&b.owner, b.number).cmp(&(&a.owner, a.number)));
    let mut done = PutBack::default();
    for claim in held {
        if let Source::Parked(business) = &claim.source {
            // Nobody may have parked anything for it since the list was claimed: it has to be found all the same.
            let (key, now) = (keys.parked_businesses(), unix_ms().to_string());
            let words = [b"HSETNX".as_slice(), key.as_bytes(), business.as_bytes(), now.as_bytes()];
            connection.ask("HSETNX", &words).await?;
        }
        if let Some(elements) = put_back_claim(connection, scripts, keys, &claim).await? {
            done.claims += 1;
            done.elements += elements;
            done.parked |= claim.source != Source::Queue;
        }
    }
    Ok(done)
}

/// Puts back one claim. Gives the elements in it, or nothing when somebody else has done it.
async fn put_back_claim(
    connection: &mut Connection,
    scripts: &Scripts,
    keys: &Keys,
    claim: &Held,
) -> Result<Option<u64>, RedisError> {
    let names = [keys.claims(), keys.claim(&claim.name), keys.back(&claim.name), keys.source(&claim.source)];
    let names = names.each_ref().map(String::as_str);
    let arguments = [claim.name.as_bytes(), claim.value.as_bytes(), PUT_BACK_ELEMENTS.as_bytes()];
    let mut elements = None;
    loop {
        scripts.queue(connection, Script::PutBack, &names, &arguments);
        connection.flush().await?;
        let step = match connection.reply().await? {
            Reply::Error(refusal) => {
                return Err(RedisError::Refused { command: "putting back a claim", refusal });
            }
            Reply::Array(numbers) => numbers.iter().filter_map(Reply::integer).collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        let [left, is_done] = step[..] else {
            return Err(RedisError::Protocol {
                reason: "putting back is not answered two numbers".to_owned(),
            });
        };
        // The first step sees all of it.
        elements = elements.or(u64::try_from(left).ok());
        if is_done == 1 {
            return Ok(elements);
        }
    }
}

async fn held(connection: &mut Connection, keys: &Keys) -> Result<Vec<Held>, RedisError> {
    let key = keys.claims();
    let reply = connection.ask("HGETALL", &[b"HGETALL", key.as_bytes()]).await?;
    let Reply::Array(fields) = reply else { return Ok(Vec::new()) };
    let mut held = Vec::new();
    for pair in fields.chunks_exact(2) {
        let (name, value) = (pair[0].text().unwrap_or_default(), pair[1].text().unwrap_or_default());
        let owner = Owner::parse(&name);
        let source = value.rsplit_once(' ').and_then(|(source, _)| Source::parse(source));
        match (owner, source) {
            (Some((owner, number)), Some(source)) => held.push(Held { name, value, owner, number, source }),
            _ => tracing::warn!(%key, "{name:?} with {value:?} is no claim of a bridge: it is left alone"),
        }
    }
    Ok(held)
}

/// Decides who is gone.
#[derive(Debug)]
pub(crate) struct Judge {
    ours: Owner,
    grace: Duration,
    /// When a mark was first seen missing.
    missing: HashMap<String, Instant>,
}

impl Judge {
    pub(crate) fn new(ours: Owner, grace: Duration) -> Self {
        Self { ours, grace, missing: HashMap::new() }
    }

    /// Whether the owner is gone, as far as is known now.
    fn is_gone(&mut self, owner: &Owner, alive: &AliveMarks, now: Instant) -> bool {
        if owner.same_run(&self.ours) {
            return false;
        }
        if is_earlier_run(&owner.mark, &self.ours.mark) {
            return true;
        }
        let Some(alive) = alive else {
            self.missing.clear();
            return false;
        };
        if alive.contains(&owner.mark) {
            self.missing.remove(&owner.mark);
            return false;
        }
        let since = *self.missing.entry(owner.mark.clone()).or_insert(now);
        now.saturating_duration_since(since) >= self.grace
    }

    fn is_waiting(&self) -> bool {
        !self.missing.is_empty()
    }
}

/// Whether a mark is of the same host and instance and its process is no more. The same mark is: a host gives a process id again.
fn is_earlier_run(mark: &str, ours: &str) -> bool {
    let (Some((name, pid)), Some((our_name, _))) = (mark.rsplit_once(':'), ours.rsplit_once(':')) else {
        return false;
    };
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    name == our_name && is_number && (mark == ours || !Path::new("/proc").join(pid).exists())
}

/// One queue that is watched.
pub(crate) struct Watched {
    pub(crate) keys: Keys,
    pub(crate) progress: Arc<Progress>,
    pub(crate) labels: QueueLabels,
}

/// Watches the queues of one server.
pub(crate) struct Warden {
    pub(crate) config: Arc<BridgeConfig>,
    pub(crate) dialer: Dialer,
    pub(crate) ours: Owner,
    pub(crate) queues: Vec<Watched>,
    pub(crate) alive: watch::Receiver<AliveMarks>,
    pub(crate) metrics: Metrics,
}

impl Warden {
    /// Works until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut outage = Outage::of_refusals(&self.dialer.address, "watching of", "its queues");
        while !shutdown.is_cancelled() {
            let watched = shutdown.token().run_until_cancelled(self.watch(&mut outage)).await;
            if let Some(Err(error)) = watched {
                let pause = outage.failed(&error);
                let _ = shutdown.token().run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }

    /// Works until the connection breaks.
    async fn watch(&mut self, outage: &mut Outage) -> Result<(), RedisError> {
        let mut connection = self.dialer.connect().await?;
        let scripts = match self.config.claim_mode {
            ClaimMode::Script => Some(Scripts::load(&mut connection).await?),
            ClaimMode::Pop => None,
        };
        let mut judge = Judge::new(self.ours.clone(), self.config.peer_grace);
        let (mut search_at, mut is_first) = (Instant::now(), true);
        loop {
            let now = Instant::now();
            if let Some(scripts) = scripts.as_ref().filter(|_| now >= search_at || judge.is_waiting()) {
                search_at = now + SEARCH_EVERY;
                let has_parked = self.search(&mut connection, scripts, &mut judge, now).await?;
                if has_parked || is_first {
                    for queue in &self.queues {
                        self.unpark(&mut connection, scripts, &queue.keys).await?;
                    }
                }
                is_first = false;
            }
            for queue in &self.queues {
                self.look(&mut connection, queue).await?;
            }
            outage.over();
            let changed = tokio::time::timeout(LOOK_EVERY, self.alive.changed()).await;
            match changed {
                Ok(Ok(())) => search_at = Instant::now(),
                // Nobody tells any more: only the clock is left.
                Ok(Err(_)) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => {}
            }
        }
    }

    /// Looks for claims to put back. Whether something of them was parked.
    async fn search(
        &self,
        connection: &mut Connection,
        scripts: &Scripts,
        judge: &mut Judge,
        now: Instant,
    ) -> Result<bool, RedisError> {
        let mut has_parked = false;
        let alive = self.alive.borrow().clone();
        let mut seen = Vec::new();
        for Watched { keys, progress, labels } in &self.queues {
            let done = put_back(connection, scripts, keys, |owner| {
                seen.push(owner.mark.clone());
                judge.is_gone(owner, &alive, now)
            });
            let done = done.await?;
            has_parked |= done.parked;
            if done.claims > 0 {
                progress.put_back.fetch_add(done.claims, Ordering::Relaxed);
                self.metrics.put_back.get_or_create(labels).inc_by(done.elements);
                let PutBack { claims, elements, .. } = done;
                let queue = &keys.queue;
                tracing::info!(redis = %self.dialer.address, %queue, "{claims} claims with {elements} elements of instances that are gone were put back");
            }
        }
        judge.missing.retain(|mark, _| seen.contains(mark));
        Ok(has_parked)
    }

    /// Looks how long a queue is, and for whom elements are parked: another bridge may have parked them, or put them back.
    async fn look(&self, connection: &mut Connection, queue: &Watched) -> Result<(), RedisError> {
        connection.queue(&[b"LLEN", queue.keys.queue.as_bytes()]);
        for business in &self.config.businesses {
            connection.queue(&[b"LLEN", queue.keys.parked(business).as_bytes()]);
        }
        connection.flush().await?;
        let length = connection.reply().await?.integer();
        let mut parked = Vec::new();
        for business in &self.config.businesses {
            if connection.reply().await?.integer().is_some_and(|elements| elements > 0) {
                parked.push(business.clone());
            }
        }
        queue.progress.found_parked(parked);
        // A key of another type is the drain's to complain about.
        let Some(length) = length else { return Ok(()) };
        queue.progress.waiting.store(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
        let waiting = i64::try_from(queue.progress.all_waiting()).unwrap_or(i64::MAX);
        self.metrics.queue_length.get_or_create(&queue.labels).set(waiting);
        Ok(())
    }

    /// Elements that were parked for a business that is not served any more go through the queue again, to another or the dead letters.
    async fn unpark(
        &self,
        connection: &mut Connection,
        scripts: &Scripts,
        keys: &Keys,
    ) -> Result<(), RedisError> {
        let hash = keys.parked_businesses();
        let Reply::Array(businesses) = connection.ask("HKEYS", &[b"HKEYS", hash.as_bytes()]).await? else {
            return Ok(());
        };
        for business in businesses.iter().filter_map(Reply::text) {
            if self.config.businesses.contains(&business) {
                continue;
            }
            tracing::warn!(queue = %keys.queue, "business {business} is not served any more: its parked elements go back");
            let names = [keys.parked(&business), keys.queue.clone(), hash.clone()];
            let names = names.each_ref().map(String::as_str);
            let mut left = 1;
            while left > 0 {
                let arguments: [&[u8]; 2] = [business.as_bytes(), UNPARK_ELEMENTS.as_bytes()];
                scripts.queue(connection, Script::Unpark, &names, &arguments);
                connection.flush().await?;
                left = match connection.reply().await? {
                    Reply::Error(refusal) => {
                        return Err(RedisError::Refused { command: "unparking", refusal });
                    }
                    reply => reply.integer().unwrap_or(0),
                };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn alive(marks: &[&str]) -> AliveMarks {
        Some(Arc::new(marks.iter().map(|mark| (*mark).to_owned()).collect::<BTreeSet<_>>()))
    }

    #[test]
    fn an_earlier_run_of_ours_is_gone_and_this_run_is_not() {
        let ours = Owner::new(&format!("h_i:{}", std::process::id()));
        let mut judge = Judge::new(ours.clone(), Duration::ZERO);
        let now = Instant::now();
        assert!(!judge.is_gone(&ours.of_task(3), &alive(&[]), now));
        assert!(judge.is_gone(&Owner::new(&ours.mark), &None, now), "the process id was given again");
        assert!(judge.is_gone(&Owner::new("h_i:999999999"), &None, now));
        assert!(!judge.is_gone(&Owner::new("h_i:1"), &None, now), "that process lives");
        assert!(!judge.is_gone(&Owner::new("h_j:999999999"), &None, now));
    }

    #[test]
    fn a_peer_is_gone_once_its_mark_was_missing_for_the_grace() {
        let mut judge = Judge::new(Owner::new("h_i:1"), Duration::from_secs(10));
        let peer = Owner::new("other_i:7");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!judge.is_gone(&peer, &alive(&[]), at(0)));
        assert!(!judge.is_gone(&peer, &None, at(11)), "nobody knows");
        assert!(!judge.is_gone(&peer, &alive(&[]), at(12)), "the time when nobody knew does not count");
        assert!(!judge.is_gone(&peer, &alive(&["other_i:7"]), at(21)));
        assert!(!judge.is_gone(&peer, &alive(&[]), at(22)));
        assert!(judge.is_gone(&peer, &alive(&[]), at(32)));
    }
}
