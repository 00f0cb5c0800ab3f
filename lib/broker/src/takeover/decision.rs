//! Whose messages to take, and why not. Nothing here waits or asks: what is known and the time come from the caller.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use kiteq_store::Owner;

use super::machine::Machine;

/// What is known of the brokers that share the store.
#[derive(Debug)]
pub(super) struct Decider {
    me: String,
    grace: Duration,
    /// Owners to take from although nobody registers under such a name.
    listed: Vec<String>,
    machine: Machine,
    /// Since when each owner has been seen to be gone, without a break in what is known.
    gone_since: HashMap<String, Instant>,
    /// Owners from whom nothing was left to take, and when to look again.
    emptied: HashMap<String, Instant>,
}

/// Why an owner's messages may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Because {
    /// It left in good order.
    Left,
    /// It has not been registered for longer than the grace.
    Gone,
    /// The configuration says so.
    Listed,
    /// A Go broker of this machine wrote it, and none runs here any more.
    FormerBroker,
}

/// Why an owner's messages are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhyNot {
    /// It is registered.
    Alive,
    /// It may be back soon.
    InGrace,
    /// A bare host name, as Go brokers write it, of another machine: nobody registers under it, so nobody can tell whether
    /// it lives.
    NotAnAddress,
    /// A bare host name that is this machine's, where another broker runs.
    BrokerOnMachine,
    /// Nothing was left the last time.
    Emptied,
}

/// Why nothing at all is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// The registry does not say who lives.
    NothingKnown,
    /// It says so, but without this broker.
    NotRegistered,
}

/// How long an owner from whom nothing was left is let alone.
const EMPTIED_FOR: Duration = Duration::from_secs(10);

impl Decider {
    pub(super) fn new(me: &str, grace: Duration, listed: Vec<String>, machine: Machine) -> Self {
        Self {
            me: me.to_owned(),
            grace,
            listed,
            machine,
            gone_since: HashMap::new(),
            emptied: HashMap::new(),
        }
    }

    /// Whether this broker may take anything now.
    ///
    /// # Errors
    /// Why not. What was known of others is forgotten: whoever is gone when the registry is back may have lost it too.
    pub(super) fn may_take(&mut self, alive: Option<&[String]>) -> Result<(), Idle> {
        let idle = match alive {
            Some(alive) if alive.contains(&self.me) => return Ok(()),
            Some(_) => Idle::NotRegistered,
            None => Idle::NothingKnown,
        };
        self.gone_since.clear();
        Err(idle)
    }

    /// How this broker stands to every other owner.
    pub(super) fn look<'a>(
        &mut self,
        owners: &'a [Owner],
        alive: &[String],
        now: Instant,
    ) -> Vec<(&'a str, Result<Because, WhyNot>)> {
        let names: HashSet<&str> = owners.iter().map(|owner| owner.name.as_str()).collect();
        self.gone_since.retain(|name, _| names.contains(name.as_str()));
        self.emptied.retain(|_, until| *until > now);
        let me = self.me.clone();
        let others = owners.iter().filter(|owner| owner.name != me);
        others.map(|owner| (owner.name.as_str(), self.stand(owner, alive, now))).collect()
    }

    /// Whether taking from an owner may go on.
    pub(super) fn still(&mut self, owner: &Owner, alive: &[String], now: Instant) -> bool {
        self.stand(owner, alive, now).is_ok()
    }

    fn stand(&mut self, owner: &Owner, alive: &[String], now: Instant) -> Result<Because, WhyNot> {
        let because = self.reason(owner, alive, now)?;
        if self.emptied.contains_key(&owner.name) { Err(WhyNot::Emptied) } else { Ok(because) }
    }

    fn reason(&mut self, owner: &Owner, alive: &[String], now: Instant) -> Result<Because, WhyNot> {
        let name = &owner.name;
        if owner.has_left {
            return Ok(Because::Left);
        }
        if alive.contains(name) {
            self.gone_since.remove(name);
            return Err(WhyNot::Alive);
        }
        if self.listed.contains(name) {
            return Ok(Because::Listed);
        }
        let is_address = name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if !is_address {
            if !self.machine.is_named(name) {
                return Err(WhyNot::NotAnAddress);
            }
            let others = alive.iter().filter(|address| **address != self.me);
            if others.into_iter().any(|address| self.machine.has(address)) {
                self.gone_since.remove(name);
                return Err(WhyNot::BrokerOnMachine);
            }
        }
        let since = *self.gone_since.entry(name.clone()).or_insert(now);
        if now.saturating_duration_since(since) < self.grace {
            return Err(WhyNot::InGrace);
        }
        Ok(if is_address { Because::Gone } else { Because::FormerBroker })
    }

    /// Nothing was left to take from an owner.
    pub(super) fn emptied(&mut self, owner: &str, now: Instant) {
        self.emptied.insert(owner.to_owned(), now + EMPTIED_FOR);
    }
}

impl Because {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Left => "it left in good order",
            Self::Gone => "it has not been registered for longer than the grace",
            Self::Listed => "the configuration lists it",
            Self::FormerBroker => "a broker of this machine wrote it, and none but this one runs here",
        }
    }
}

impl Idle {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::NothingKnown => "the registry does not say who lives",
            Self::NotRegistered => "this broker is not registered itself",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(15);

    fn decider(listed: &[&str]) -> Decider {
        let listed = listed.iter().map(|&name| name.to_owned()).collect();
        Decider::new("me:1", GRACE, listed, Machine::named("box", "me"))
    }

    fn owners(names: &[&str]) -> Vec<Owner> {
        names.iter().map(|name| Owner { name: (*name).to_owned(), has_left: false }).collect()
    }

    fn alive(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn one(decider: &mut Decider, owner: &str, who: &[&str], now: Instant) -> Result<Because, WhyNot> {
        decider.look(&owners(&["me:1", owner]), &alive(who), now)[0].1
    }

    #[test]
    fn a_broker_is_taken_over_when_it_was_gone_for_the_whole_grace() {
        let (mut decider, start) = (decider(&[]), Instant::now());
        assert_eq!(one(&mut decider, "b:2", &["me:1", "b:2"], start), Err(WhyNot::Alive));
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start), Err(WhyNot::InGrace));
        let late = start + GRACE - Duration::from_millis(1);
        assert_eq!(one(&mut decider, "b:2", &["me:1"], late), Err(WhyNot::InGrace));
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start + GRACE), Ok(Because::Gone));
    }

    #[test]
    fn one_that_comes_back_starts_its_grace_anew() {
        let (mut decider, start) = (decider(&[]), Instant::now());
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start), Err(WhyNot::InGrace));
        assert_eq!(one(&mut decider, "b:2", &["me:1", "b:2"], start + GRACE / 2), Err(WhyNot::Alive));
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start + GRACE), Err(WhyNot::InGrace));
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start + 2 * GRACE), Ok(Because::Gone));
    }

    #[test]
    fn nothing_is_taken_on_stale_knowledge_and_graces_start_anew_after_it() {
        let (mut decider, start) = (decider(&[]), Instant::now());
        assert_eq!(decider.may_take(Some(&alive(&["me:1"]))), Ok(()));
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start), Err(WhyNot::InGrace));
        assert_eq!(decider.may_take(None), Err(Idle::NothingKnown));
        assert_eq!(decider.may_take(Some(&alive(&["me:1"]))), Ok(()));
        assert_eq!(one(&mut decider, "b:2", &["me:1"], start + GRACE), Err(WhyNot::InGrace));
        assert_eq!(decider.may_take(Some(&alive(&["b:2"]))), Err(Idle::NotRegistered));
    }

    #[test]
    fn one_that_left_is_taken_over_at_once() {
        let (mut decider, start) = (decider(&[]), Instant::now());
        let owners = [Owner { name: "b:2".to_owned(), has_left: true }];
        assert_eq!(decider.look(&owners, &alive(&["me:1"]), start), [("b:2", Ok(Because::Left))]);
        decider.emptied("b:2", start);
        assert_eq!(decider.look(&owners, &alive(&["me:1"]), start), [("b:2", Err(WhyNot::Emptied))]);
        let later = start + EMPTIED_FOR;
        assert_eq!(decider.look(&owners, &alive(&["me:1"]), later), [("b:2", Ok(Because::Left))]);
    }

    #[test]
    fn a_go_brokers_bare_name_is_taken_only_where_it_cannot_live() {
        let (mut decider, start) = (decider(&["elsewhere"]), Instant::now());
        assert_eq!(one(&mut decider, "other", &["me:1"], start), Err(WhyNot::NotAnAddress));
        assert_eq!(one(&mut decider, "other", &["me:1"], start + 2 * GRACE), Err(WhyNot::NotAnAddress));
        assert_eq!(one(&mut decider, "elsewhere", &["me:1"], start), Ok(Because::Listed));
        // The Go broker of this machine still runs: it registers an address, and writes the bare name.
        for address in ["box:13800", "box.example.com:13800", "me:13800", "localhost:13800", "127.0.0.1:9"] {
            let stands = one(&mut decider, "box", &["me:1", address], start);
            assert_eq!(stands, Err(WhyNot::BrokerOnMachine), "{address}");
        }
        assert_eq!(one(&mut decider, "box", &["me:1", "far:13800"], start), Err(WhyNot::InGrace));
        let later = start + GRACE;
        assert_eq!(one(&mut decider, "box", &["me:1", "far:13800"], later), Ok(Because::FormerBroker));
    }
}
