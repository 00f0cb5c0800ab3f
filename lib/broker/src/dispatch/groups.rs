//! Groups: who is connected, and which lanes they have to be served from.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::connections::ConnectionId;
use super::lane::LaneId;

/// A group that is bound or connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GroupId(u32);

/// How many messages in a row one connection of a group is given while its peers have nothing to do either.
///
/// A message that waits behind others at one connection, with peers that are idle, comes later than it could; but one frame to
/// each of many connections costs a system call for each message at both ends. So runs grow while answers come fast, when
/// nobody would notice the difference, and shrink when they do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunLength(u16);

impl RunLength {
    pub(crate) const MAX: usize = 32;
    /// From a run's departure to its answer.
    const FAST: Duration = Duration::from_millis(10);

    /// An answer took so long.
    pub(crate) fn answered_after(&mut self, elapsed: Duration) {
        if elapsed <= Self::FAST {
            self.0 = (self.0 + 1).min(Self::MAX as u16);
        } else if elapsed > 2 * Self::FAST {
            self.0 = (self.0 / 2).max(1);
        }
    }

    pub(crate) fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for RunLength {
    fn default() -> Self {
        Self(1)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Group {
    name: Bytes,
    /// All lanes of the group.
    pub(crate) lanes: Vec<LaneId>,
    /// Lanes with something to deliver, served in turns.
    pub(crate) active: VecDeque<LaneId>,
    pub(crate) connections: Vec<ConnectionId>,
    /// Those of the connections that may have room.
    pub(crate) open: Vec<ConnectionId>,
    /// Where the search for a connection starts next time.
    pub(crate) cursor: usize,
    pub(crate) run: RunLength,
    /// Whether it stands in the dispatcher's list of groups to serve.
    pub(crate) is_dirty: bool,
    /// Whether all its connections are full.
    pub(crate) is_blocked: bool,
}

impl Group {
    pub(crate) fn is_online(&self) -> bool {
        !self.connections.is_empty()
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    free: Vec<u32>,
    by_name: HashMap<Bytes, GroupId>,
}

impl Groups {
    pub(crate) fn intern(&mut self, name: &[u8]) -> GroupId {
        if let Some(&group) = self.by_name.get(name) {
            return group;
        }
        let name = Bytes::copy_from_slice(name);
        let group = Group { name: name.clone(), ..Group::default() };
        let id = match self.free.pop() {
            Some(index) => {
                self.groups[index as usize] = group;
                GroupId(index)
            }
            None => {
                self.groups.push(group);
                GroupId(self.groups.len() as u32 - 1)
            }
        };
        self.by_name.insert(name, id);
        id
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<GroupId> {
        self.by_name.get(name).copied()
    }

    /// Forgets a group that is neither bound nor connected: group names are chosen by clients.
    pub(crate) fn forget_if_idle(&mut self, group: GroupId) {
        let entry = self.get_mut(group);
        if entry.lanes.is_empty() && entry.connections.is_empty() && !entry.is_dirty {
            let name = std::mem::take(&mut entry.name);
            self.by_name.remove(&name);
            self.free.push(group.0);
        }
    }

    pub(crate) fn get(&self, group: GroupId) -> &Group {
        &self.groups[group.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, group: GroupId) -> &mut Group {
        &mut self.groups[group.0 as usize]
    }

    pub(crate) fn name(&self, group: GroupId) -> &Bytes {
        &self.get(group).name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_while_answers_come_fast_and_shrink_at_once_when_they_do_not() {
        let mut run = RunLength::default();
        assert_eq!(run.get(), 1);
        for _ in 0..100 {
            run.answered_after(Duration::from_millis(1));
        }
        assert_eq!(run.get(), RunLength::MAX);
        run.answered_after(Duration::from_millis(15));
        assert_eq!(run.get(), RunLength::MAX, "neither fast nor slow");
        for expected in [16, 8, 4, 2, 1, 1] {
            run.answered_after(Duration::from_millis(50));
            assert_eq!(run.get(), expected);
        }
    }

    #[test]
    fn an_idle_group_makes_room_for_the_next() {
        let mut groups = Groups::default();
        let first = groups.intern(b"first");
        groups.forget_if_idle(first);
        assert_eq!(groups.find(b"first"), None);
        assert_eq!(groups.intern(b"second"), first);
        assert_eq!(groups.find(b"second"), Some(first));
    }
}
