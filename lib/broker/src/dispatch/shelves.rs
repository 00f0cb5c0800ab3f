//! The shelves on which a paged store holds messages that are not resident, and who wants to hear of them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kiteq_store::{Shelf, ShelfId};

use super::Dispatcher;
use super::lane::LaneId;
use super::routes::TopicId;

/// Shelves that this broker makes at most; what would need one more is looked at again after a while instead.
const SHELVES_MAX: usize = 4096;

/// A shelf on which messages may lie.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) shelf: Arc<Shelf>,
    pub(super) topic: TopicId,
    /// One for each of its groups; `None` for one without a binding to the topic.
    pub(super) lanes: Vec<Option<LaneId>>,
    /// The page request before the last addition.
    touched: u64,
}

/// All shelves that are known. One that is found empty is forgotten.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    known: HashMap<ShelfId, Known>,
    per_topic: HashMap<TopicId, usize>,
}

impl Shelves {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn has_some_for(&self, topic: TopicId) -> bool {
        self.per_topic.contains_key(&topic)
    }

    /// Forgets those of `shelves` on which nothing was put since page request `request` found them empty.
    pub(super) fn forget_empty(&mut self, shelves: &[ShelfId], request: u64) {
        for id in shelves {
            if let Some(known) = self.known.get(id).filter(|known| known.touched < request) {
                if let Some(count) = self.per_topic.get_mut(&known.topic) {
                    *count -= 1;
                    if *count == 0 {
                        self.per_topic.remove(&known.topic);
                    }
                }
                self.known.remove(id);
            }
        }
    }

    fn add(&mut self, known: Known) {
        *self.per_topic.entry(known.topic).or_default() += 1;
        self.known.insert(known.shelf.id, known);
    }
}

impl Dispatcher {
    /// A shelf that the store has.
    pub(super) fn know_shelf(&mut self, shelf: Shelf) {
        let (topic, is_new) = self.routes.topic(&shelf.topic);
        if is_new {
            self.follow_bindings(topic);
        }
        let lanes = self.lanes_of(topic, &shelf.groups);
        let Some(paging) = &mut self.paging else { return };
        if !paging.shelves.known.contains_key(&shelf.id) {
            paging.shelves.add(Known { shelf: Arc::new(shelf), topic, lanes, touched: paging.requests() });
        }
    }

    /// A shelf to put messages of `topic` on that are owed to the groups of `lanes`; `None` when there are too many, or its
    /// short name is another's.
    pub(super) fn shelf_for(&mut self, topic: TopicId, lanes: &[LaneId]) -> Option<Arc<Shelf>> {
        let groups: Vec<Bytes> =
            lanes.iter().map(|&lane| self.groups.name(self.lanes.get(lane).group).clone()).collect();
        let shelf = Shelf::new(self.routes.topic_ref(topic).name.clone(), groups);
        let lanes = self.lanes_of(topic, &shelf.groups);
        let paging = self.paging.as_mut()?;
        let requests = paging.requests();
        if let Some(known) = paging.shelves.known.get_mut(&shelf.id) {
            if *known.shelf != shelf {
                return None;
            }
            known.touched = requests;
            return Some(known.shelf.clone());
        }
        if paging.shelves.len() >= SHELVES_MAX {
            return None;
        }
        let shelf = Arc::new(shelf);
        paging.shelves.add(Known { shelf: shelf.clone(), topic, lanes, touched: requests });
        Some(shelf)
    }

    /// Bindings of a topic have changed: groups of its shelves may have a lane now.
    pub(super) fn resolve_shelves(&mut self, topic: TopicId) {
        let Some(paging) = &mut self.paging else { return };
        for known in paging.shelves.known.values_mut().filter(|known| known.topic == topic) {
            let groups = known.shelf.groups.iter();
            known.lanes = groups
                .map(|group| self.groups.find(group).and_then(|group| self.lanes.find(topic, group)))
                .collect();
        }
    }

    fn lanes_of(&self, topic: TopicId, groups: &[Bytes]) -> Vec<Option<LaneId>> {
        let lane = |group: &Bytes| self.groups.find(group).and_then(|group| self.lanes.find(topic, group));
        groups.iter().map(lane).collect()
    }
}
