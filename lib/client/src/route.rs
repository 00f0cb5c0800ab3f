//! One topic: its brokers, and the messages that lost theirs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::Notify;

use crate::in_flight::Outgoing;
use crate::link::Link;
use crate::sync::{lock, read, write};

#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) topic: Box<str>,
    links: RwLock<Arc<[Arc<Link>]>>,
    /// Whether the registry has said anything about this topic yet.
    pub(crate) known: AtomicBool,
    /// Whether the registry has been told that this client publishes here.
    pub(crate) announced: AtomicBool,
    /// Messages whose connection broke before their ack. They go before new ones, which wait until there are none: so
    /// there are never more of them than places in the windows.
    parked: Mutex<VecDeque<Arc<Outgoing>>>,
    parked_len: AtomicUsize,
    /// Wakes the task that sends them.
    pub(crate) to_place: Notify,
}

/// Where a message of a topic can go.
#[derive(Debug)]
pub(crate) enum Pick {
    /// To the least loaded of the connected brokers.
    Link(Arc<Link>),
    /// Nowhere for now; the reason.
    Nowhere(&'static str),
    /// Nowhere: all brokers refuse this client.
    Refused {
        /// One of them.
        broker: Arc<str>,
        /// Its words.
        feedback: Arc<str>,
    },
}

impl Route {
    pub(crate) fn new(topic: &str) -> Self {
        Self {
            topic: topic.into(),
            links: RwLock::new(Arc::from([])),
            known: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            parked: Mutex::default(),
            parked_len: AtomicUsize::new(0),
            to_place: Notify::new(),
        }
    }

    pub(crate) fn links(&self) -> Arc<[Arc<Link>]> {
        Arc::clone(&read(&self.links))
    }

    pub(crate) fn set_links(&self, links: Vec<Arc<Link>>) {
        *write(&self.links) = links.into();
        self.known.store(true, Ordering::Release);
    }

    /// The least loaded connected broker other than `except`; of several equally loaded ones, any.
    pub(crate) fn pick(&self, except: Option<&Link>) -> Pick {
        let links = read(&self.links);
        if let ([link], None) = (&**links, except)
            && link.is_ready()
        {
            return Pick::Link(Arc::clone(link));
        }
        let start = if links.len() > 1 { fastrand::usize(..links.len()) } else { 0 };
        let (before, after) = links.split_at(start);
        let is_usable = |link: &&Arc<Link>| {
            link.is_ready() && except.is_none_or(|except| !std::ptr::eq(except, &raw const ***link))
        };
        match after.iter().chain(before).filter(is_usable).min_by_key(|link| link.load()) {
            Some(link) => Pick::Link(Arc::clone(link)),
            None => self.why_nowhere(&links),
        }
    }

    fn why_nowhere(&self, links: &[Arc<Link>]) -> Pick {
        if links.is_empty() {
            return Pick::Nowhere(match self.known.load(Ordering::Acquire) {
                true => "the registry knows no broker of this topic",
                false => "the registry has not been read yet",
            });
        }
        let mut refused = None;
        for link in links {
            match link.refusal() {
                Some(feedback) => refused = Some((Arc::clone(&link.address), feedback)),
                None => return Pick::Nowhere("no broker of this topic is connected"),
            }
        }
        match refused {
            Some((broker, feedback)) => Pick::Refused { broker, feedback },
            None => Pick::Nowhere("no broker of this topic is connected"),
        }
    }

    /// Keeps a message until a broker can take it.
    pub(crate) fn park(&self, message: Arc<Outgoing>) {
        let mut parked = lock(&self.parked);
        parked.push_back(message);
        self.parked_len.store(parked.len(), Ordering::Release);
        drop(parked);
        self.to_place.notify_one();
    }

    pub(crate) fn has_parked(&self) -> bool {
        self.parked_len.load(Ordering::Acquire) > 0
    }

    /// The next message to place. It stays parked until [`Self::unpark`].
    pub(crate) fn first_parked(&self) -> Option<Arc<Outgoing>> {
        lock(&self.parked).front().cloned()
    }

    /// Removes the first parked message. True when it was the last one.
    pub(crate) fn unpark(&self) -> bool {
        let mut parked = lock(&self.parked);
        parked.pop_front();
        self.parked_len.store(parked.len(), Ordering::Release);
        parked.is_empty()
    }

    /// Parked messages that somebody still waits for.
    pub(crate) fn parked(&self) -> Vec<Arc<Outgoing>> {
        lock(&self.parked).iter().filter(|message| !message.is_done()).cloned().collect()
    }
}
