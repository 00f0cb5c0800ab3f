//! From a message's topic and type to the groups that it is owed to.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use bytes::Bytes;
use kiteq_registry::{BindType, Binding};
use regex::bytes::Regex;

use super::groups::{GroupId, Groups};
use super::lane::{LaneId, Lanes};
use super::table::Ticket;

/// A topic that has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TopicId(u32);

/// A (topic, message type) that has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RouteId(u32);

impl RouteId {
    pub(crate) const NONE: Self = Self(u32::MAX);
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Bytes,
    /// `None` until the registry has been read.
    bindings: Option<Vec<CompiledBinding>>,
    routes: HashMap<Bytes, RouteId>,
    /// Committed messages that wait for the bindings to be read.
    pub(crate) unrouted: Vec<Ticket>,
}

#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) topic: TopicId,
    message_type: Bytes,
    /// Positions in this list are what a message's `owed` set holds, so members are only ever added at the end.
    pub(crate) members: Vec<Member>,
    /// Messages that refer to this route.
    pub(crate) live: u32,
}

/// One group of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) lane: LaneId,
    /// Whether messages wait for the group while none of its members is connected.
    pub(crate) persistent: bool,
    /// When the group's last matching binding vanished; `None` while it is bound.
    pub(crate) unbound_since: Option<Instant>,
}

impl Route {
    /// The position of the member with this lane.
    pub(crate) fn position_of(&self, lane: LaneId) -> Option<usize> {
        self.members.iter().position(|member| member.lane == lane)
    }
}

#[derive(Debug)]
struct CompiledBinding {
    lane: LaneId,
    matcher: Matcher,
    persistent: bool,
}

impl CompiledBinding {
    fn is_pattern(&self) -> bool {
        matches!(self.matcher, Matcher::Regx(_))
    }
}

#[derive(Debug)]
enum Matcher {
    Direct(Bytes),
    Regx(Regex),
    Fanout,
}

impl Matcher {
    fn compile(binding: &Binding) -> Result<Self, regex::Error> {
        Ok(match binding.bind_type {
            BindType::Direct => Self::Direct(Bytes::copy_from_slice(binding.message_type.as_bytes())),
            BindType::Regx => Self::Regx(Regex::new(&binding.message_type)?),
            BindType::Fanout => Self::Fanout,
        })
    }

    fn matches(&self, message_type: &[u8]) -> bool {
        match self {
            Self::Direct(wanted) => wanted == message_type,
            Self::Regx(pattern) => pattern.is_match(message_type),
            Self::Fanout => true,
        }
    }
}

/// Message types are chosen by publishers: above so many routes, those that no message refers to are forgotten.
const IDLE_ROUTES_MAX: usize = 100_000;

/// All topics and routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    topics: Vec<Topic>,
    topics_by_name: HashMap<Bytes, TopicId>,
    routes: Vec<Option<Route>>,
    free_routes: Vec<u32>,
    /// How many routes there must be before idle ones are looked for again.
    scan_at: usize,
    /// What the last look-up found: messages of one kind come in runs.
    last: Option<(Bytes, Bytes, RouteId)>,
}

impl Routes {
    /// The topic of this name; says whether it is new.
    pub(crate) fn topic(&mut self, name: &[u8]) -> (TopicId, bool) {
        if let Some(&topic) = self.topics_by_name.get(name) {
            return (topic, false);
        }
        let id = TopicId(self.topics.len() as u32);
        let name = Bytes::copy_from_slice(name);
        self.topics_by_name.insert(name.clone(), id);
        self.topics.push(Topic { name, bindings: None, routes: HashMap::new(), unrouted: Vec::new() });
        (id, true)
    }

    pub(crate) fn topic_ref(&self, topic: TopicId) -> &Topic {
        &self.topics[topic.0 as usize]
    }

    pub(crate) fn topic_mut(&mut self, topic: TopicId) -> &mut Topic {
        &mut self.topics[topic.0 as usize]
    }

    /// Whether the bindings of `topic` have been read.
    pub(crate) fn is_known(&self, topic: TopicId) -> bool {
        self.topic_ref(topic).bindings.is_some()
    }

    /// The route of a message. The second value is the topic when it is new and its bindings must be watched.
    pub(crate) fn route(&mut self, topic_name: &[u8], message_type: &[u8]) -> (RouteId, Option<TopicId>) {
        if let Some((last_topic, last_type, route)) = &self.last
            && last_topic == topic_name
            && last_type == message_type
        {
            return (*route, None);
        }
        let (topic, is_new) = self.topic(topic_name);
        let route = match self.topic_ref(topic).routes.get(message_type) {
            Some(&route) => route,
            None => self.add_route(topic, message_type),
        };
        self.last = Some((Bytes::copy_from_slice(topic_name), Bytes::copy_from_slice(message_type), route));
        (route, is_new.then_some(topic))
    }

    fn add_route(&mut self, topic: TopicId, message_type: &[u8]) -> RouteId {
        if self.free_routes.is_empty() && self.routes.len() >= self.scan_at.max(IDLE_ROUTES_MAX) {
            self.forget_idle_routes();
            // Where most are in use, the next look pays only when there are many more.
            self.scan_at = 2 * (self.routes.len() - self.free_routes.len());
        }
        let message_type = Bytes::copy_from_slice(message_type);
        let mut route = Route { topic, message_type: message_type.clone(), members: Vec::new(), live: 0 };
        self.topic_ref(topic).match_members(&mut route, Instant::now());
        let id = match self.free_routes.pop() {
            Some(index) => {
                self.routes[index as usize] = Some(route);
                RouteId(index)
            }
            None => {
                self.routes.push(Some(route));
                RouteId(self.routes.len() as u32 - 1)
            }
        };
        self.topic_mut(topic).routes.insert(message_type, id);
        id
    }

    fn forget_idle_routes(&mut self) {
        self.last = None;
        for (index, place) in self.routes.iter_mut().enumerate() {
            if let Some(route) = place.take_if(|route| route.live == 0) {
                self.topics[route.topic.0 as usize].routes.remove(&route.message_type);
                self.free_routes.push(index as u32);
            }
        }
    }

    /// A route that some message refers to, or that was just looked up.
    pub(crate) fn get(&self, route: RouteId) -> Option<&Route> {
        self.routes.get(route.0 as usize).and_then(Option::as_ref)
    }

    pub(crate) fn get_mut(&mut self, route: RouteId) -> Option<&mut Route> {
        self.routes.get_mut(route.0 as usize).and_then(Option::as_mut)
    }

    /// Takes over the bindings of a topic as the registry has them now; returns the messages that waited for them. A
    /// pattern that does not compile is logged, and the group keeps the patterns that it had until it is mended.
    pub(crate) fn set_bindings(
        &mut self,
        topic: TopicId,
        bindings: &[Binding],
        groups: &mut Groups,
        lanes: &mut Lanes,
        default_watermark: Option<u32>,
    ) -> Vec<Ticket> {
        let now = Instant::now();
        let mut bound: HashMap<LaneId, (Option<u32>, bool)> = HashMap::new();
        let mut compiled = Vec::with_capacity(bindings.len());
        let mut broken: HashSet<LaneId> = HashSet::new();
        for binding in bindings {
            let group: GroupId = groups.intern(binding.group_id.as_bytes());
            let lane = lanes.intern(topic, group, groups);
            let matcher = match Matcher::compile(binding) {
                Ok(matcher) => matcher,
                Err(error) => {
                    tracing::warn!(
                        group = binding.group_id, topic = binding.topic, pattern = binding.message_type, %error,
                        "binding ignored: its pattern does not compile; the group keeps the patterns that it had, and its other bindings stand"
                    );
                    broken.insert(lane);
                    continue;
                }
            };
            let watermark =
                u32::try_from(binding.watermark).ok().filter(|&limit| limit > 0).or(default_watermark);
            let most_generous = |known: Option<u32>| known.zip(watermark).map(|(known, new)| known.max(new));
            bound
                .entry(lane)
                .and_modify(|(known, persistent)| {
                    *known = most_generous(*known);
                    *persistent |= binding.persistent;
                })
                .or_insert((watermark, binding.persistent));
            compiled.push(CompiledBinding { lane, matcher, persistent: binding.persistent });
        }
        for id in lanes.ids() {
            let lane = lanes.get_mut(id);
            if lane.topic != topic {
                continue;
            }
            if let Some(&(watermark, persistent)) = bound.get(&id) {
                lane.set_watermark(watermark, now);
                lane.unbound_since = None;
                lane.is_persistent = persistent;
            } else {
                lane.unbound_since.get_or_insert(now);
            }
        }
        let entry = &mut self.topics[topic.0 as usize];
        let before = entry.bindings.take().unwrap_or_default();
        let kept = before.into_iter().filter(|old| broken.contains(&old.lane) && old.is_pattern());
        compiled.extend(kept);
        entry.bindings = Some(compiled);
        for route in entry.routes.values() {
            if let Some(route) = self.routes.get_mut(route.0 as usize).and_then(Option::as_mut) {
                entry.match_members(route, now);
            }
        }
        std::mem::take(&mut entry.unrouted)
    }

    /// Lanes of a topic with a binding that has vanished.
    pub(crate) fn unbound_lanes(&self, topic: TopicId) -> HashSet<LaneId> {
        let routes = self.topic_ref(topic).routes.values().filter_map(|&route| self.get(route));
        let members = routes.flat_map(|route| &route.members);
        members.filter(|member| member.unbound_since.is_some()).map(|member| member.lane).collect()
    }

    /// Topics in the order in which they were first seen.
    pub(crate) fn topic_ids(&self) -> impl Iterator<Item = TopicId> + use<> {
        (0..self.topics.len() as u32).map(TopicId)
    }
}

impl Topic {
    /// Brings a route's members up to date: new ones at the end, missing ones marked.
    fn match_members(&self, route: &mut Route, now: Instant) {
        let Some(bindings) = &self.bindings else { return };
        let matching = || bindings.iter().filter(|binding| binding.matcher.matches(&route.message_type));
        for member in &mut route.members {
            let mut bound = matching().filter(|binding| binding.lane == member.lane).peekable();
            if bound.peek().is_some() {
                member.unbound_since = None;
                member.persistent = bound.any(|binding| binding.persistent);
            } else {
                member.unbound_since.get_or_insert(now);
            }
        }
        let mut added: Vec<Member> = Vec::new();
        for binding in matching() {
            if let Some(member) = added.iter_mut().find(|member| member.lane == binding.lane) {
                member.persistent |= binding.persistent;
            } else if !route.members.iter().any(|member| member.lane == binding.lane) {
                added.push(Member {
                    lane: binding.lane,
                    persistent: binding.persistent,
                    unbound_since: None,
                });
            }
        }
        route.members.extend(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        routes: Routes,
        groups: Groups,
        lanes: Lanes,
        topic: TopicId,
    }

    impl Fixture {
        fn new() -> Self {
            let mut routes = Routes::default();
            let (topic, is_new) = routes.topic(b"trade");
            assert!(is_new && !routes.is_known(topic));
            Self { routes, groups: Groups::default(), lanes: Lanes::default(), topic }
        }

        fn bind(&mut self, bindings: &[Binding]) {
            self.routes.set_bindings(self.topic, bindings, &mut self.groups, &mut self.lanes, None);
        }

        fn matching(&mut self, message_type: &str) -> Vec<String> {
            let (route, _) = self.routes.route(b"trade", message_type.as_bytes());
            let members = &self.routes.get(route).unwrap().members;
            let bound = members.iter().filter(|member| member.unbound_since.is_none());
            bound
                .map(|member| {
                    String::from_utf8_lossy(self.groups.name(self.lanes.get(member.lane).group)).into_owned()
                })
                .collect()
        }
    }

    #[test]
    fn direct_regx_and_fanout_match_as_documented() {
        let mut fixture = Fixture::new();
        fixture.bind(&[
            Binding::direct("direct", "trade", "pay-succ", 0, true),
            Binding::regx("regx", "trade", "pay-\\w+", 0, true),
            Binding::fanout("fanout", "trade", 0, true),
        ]);
        assert_eq!(fixture.matching("pay-succ"), ["direct", "regx", "fanout"]);
        assert_eq!(fixture.matching("x-pay-fail-y"), ["regx", "fanout"]);
        assert_eq!(fixture.matching("refund"), ["fanout"]);
    }

    #[test]
    fn a_broken_pattern_leaves_the_others_standing() {
        let mut fixture = Fixture::new();
        fixture.bind(&[
            Binding::regx("broken", "trade", "pay-(", 0, true),
            Binding::fanout("fanout", "trade", 0, true),
        ]);
        assert_eq!(fixture.matching("pay-("), ["fanout"]);
    }

    #[test]
    fn a_group_whose_new_pattern_is_broken_keeps_its_old_one_until_that_is_mended() {
        let mut fixture = Fixture::new();
        let regx = |pattern| Binding::regx("g", "trade", pattern, 0, true);
        fixture.bind(&[regx("^pay"), Binding::direct("g", "trade", "refund", 0, true)]);
        assert_eq!(fixture.matching("pay-succ"), ["g"]);
        assert_eq!(fixture.matching("refund"), ["g"]);
        for _ in 0..2 {
            fixture.bind(&[regx("pay-("), Binding::fanout("other", "trade", 0, true)]);
            assert_eq!(fixture.matching("pay-succ"), ["g", "other"]);
            assert_eq!(
                fixture.matching("refund"),
                ["other"],
                "what is not in the registry any more is unbound"
            );
        }
        fixture.bind(&[regx("^order")]);
        assert!(fixture.matching("pay-succ").is_empty());
        assert_eq!(fixture.matching("order-1"), ["g"]);
    }

    #[test]
    fn a_group_that_matches_twice_is_one_member() {
        let mut fixture = Fixture::new();
        fixture.bind(&[Binding::direct("g", "trade", "a", 0, false), Binding::fanout("g", "trade", 0, true)]);
        assert_eq!(fixture.matching("a"), ["g"]);
        let (route, _) = fixture.routes.route(b"trade", b"a");
        assert!(fixture.routes.get(route).unwrap().members[0].persistent);
    }

    #[test]
    fn members_keep_their_positions_when_bindings_come_and_go() {
        let mut fixture = Fixture::new();
        let (a, b) = (Binding::fanout("a", "trade", 0, true), Binding::fanout("b", "trade", 0, true));
        fixture.bind(std::slice::from_ref(&a));
        assert_eq!(fixture.matching("m"), ["a"]);
        fixture.bind(std::slice::from_ref(&b));
        assert_eq!(fixture.matching("m"), ["b"]);
        fixture.bind(&[b, a]);
        assert_eq!(fixture.matching("m"), ["a", "b"]);
    }

    #[test]
    fn idle_routes_are_forgotten_and_live_ones_kept() {
        let mut fixture = Fixture::new();
        fixture.bind(&[]);
        let (kept, _) = fixture.routes.route(b"trade", b"kept");
        fixture.routes.get_mut(kept).unwrap().live = 1;
        for number in 0..IDLE_ROUTES_MAX + 10 {
            fixture.routes.route(b"trade", number.to_string().as_bytes());
        }
        assert!(fixture.routes.routes.len() <= IDLE_ROUTES_MAX);
        assert_eq!(fixture.routes.route(b"trade", b"kept").0, kept);
    }
}
