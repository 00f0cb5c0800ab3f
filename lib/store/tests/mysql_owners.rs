//! Several brokers over one MySQL store: whose a message is, and who takes it over.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId};
use kiteq_store::{
    AppendOutcome, Owner, PageSource, Shelf, ShelfPlace, Shelving, Slot, StoreError, Verdict, VerdictOutcome,
};
use support::{Caller, database, id, mariadb, message, prepared};

const A: &str = "10.0.0.1:13800";
const B: &str = "10.0.0.2:13800";
const C: &str = "10.0.0.3:13800";

fn open(database: &str, owner: &str) -> Caller {
    Caller::open_mysql(&mariadb().uri(database, ""), owner)
}

fn plain(number: u32) -> Message {
    message(number, "trade", "pay", b"body")
}

fn ids(range: std::ops::Range<u32>) -> HashSet<MessageId> {
    range.map(id).collect()
}

fn waiting(store: &Caller) -> HashSet<MessageId> {
    store.all_waiting(100).iter().map(|paged| paged.id).collect()
}

#[test]
fn a_message_is_held_once_whichever_broker_it_is_sent_to() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    let slot = a.stored(plain(1));
    assert_eq!(b.append_one(plain(1)), AppendOutcome::Duplicate);
    a.settle(vec![slot]);
    assert_eq!(b.append_one(plain(1)), AppendOutcome::Duplicate, "settled a moment ago, elsewhere");
    assert!(waiting(&b).is_empty(), "what is another's does not come with pages");
}

#[test]
fn two_brokers_race_for_a_third_ones_messages_and_each_is_taken_once() {
    let name = database();
    let gone = open(&name, C);
    gone.append((0..2000).map(plain).collect());
    let takers = [open(&name, A), open(&name, B)];
    let taken: Vec<usize> = std::thread::scope(|scope| {
        let take = |store: &Caller| {
            let mut all = 0;
            loop {
                match store.adopt(C, 70).unwrap() {
                    0 => return all,
                    some => all += some,
                }
            }
        };
        let threads: Vec<_> = takers.iter().map(|store| scope.spawn(move || take(store))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(taken.iter().sum::<usize>(), 2000, "{taken:?}");
    let found: Vec<HashSet<MessageId>> = takers.iter().map(waiting).collect();
    assert_eq!(found.iter().map(HashSet::len).collect::<Vec<_>>(), taken);
    assert_eq!(&found[0] | &found[1], ids(0..2000));
}

#[test]
fn a_broker_that_was_taken_over_finds_out_and_changes_nothing() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    let slots: Vec<Slot> = (0..20).map(|number| a.stored(plain(number))).collect();
    assert!(a.find_lost().unwrap().is_empty() && !a.suspects_loss());
    assert_eq!(b.adopt(A, 1000).unwrap(), 20);
    assert_eq!(waiting(&b), ids(0..20));
    assert_eq!(a.load_one(slots[0]).unwrap_err(), StoreError::Gone);
    a.settle(slots[1..3].to_vec());
    assert!(a.suspects_loss());
    let lost: HashSet<Slot> = a.find_lost().unwrap().into_iter().collect();
    let expected: HashSet<Slot> = slots.iter().copied().filter(|slot| !slots[1..3].contains(slot)).collect();
    assert_eq!(lost, expected);
    assert!(a.find_lost().unwrap().is_empty() && !a.suspects_loss(), "told once");
    a.settle(lost.into_iter().collect());
    assert_eq!(a.stats().messages, 0);
    assert_eq!(b.append_one(plain(1)), AppendOutcome::Duplicate, "what the old owner settled is still there");
    assert!(b.find_lost().unwrap().is_empty());
}

#[test]
fn a_shelf_keeps_its_messages_through_a_takeover() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    let slots: Vec<Slot> = (0..4).map(|number| a.stored(plain(number))).collect();
    let shelf = Arc::new(Shelf::new(Bytes::from_static(b"trade"), vec![Bytes::from_static(b"s-a")]));
    let on_shelf = |slot| Shelving { slot, states: Vec::new(), place: ShelfPlace::On(shelf.clone()) };
    let later =
        Shelving { slot: slots[2], states: Vec::new(), place: ShelfPlace::Until(i64::from(u32::MAX)) };
    a.shelve(vec![on_shelf(slots[0]), on_shelf(slots[1]), later]);
    a.finish_queued();
    assert_eq!(b.adopt(A, 1000).unwrap(), 4);
    assert_eq!(waiting(&b), ids(2..4), "what waited for a time is looked at anew");
    assert_eq!(b.shelves().unwrap(), [(*shelf).clone()]);
    let page = b.page(10, PageSource::Shelves(vec![shelf.id])).unwrap();
    assert_eq!(page.messages.iter().map(|paged| paged.id).collect::<HashSet<_>>(), ids(0..2));
}

#[test]
fn settled_messages_and_dead_letters_are_not_taken_over() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    let slots: Vec<Slot> = (0..3).map(|number| a.stored(plain(number))).collect();
    a.settle(vec![slots[0]]);
    let kill =
        kiteq_store::Kill { slot: slots[1], reason: kiteq_store::DeadReason::Expired, groups: Vec::new() };
    a.kill(vec![kill]);
    assert_eq!(b.adopt(A, 1000).unwrap(), 1);
    assert_eq!(waiting(&b), ids(2..3));
    assert_eq!(b.dead_letters(None, 10).unwrap().len(), 1, "letters are everybody's");
    assert!(matches!(&b.revive(vec![id(1)])[0], Ok(Some(_))));
    assert_eq!(a.revive(vec![id(1)]), [Ok(None)]);
}

#[test]
fn two_brokers_replay_one_letter_and_one_gets_it() {
    let name = database();
    let stores = [open(&name, A), open(&name, B)];
    for number in 0..20 {
        let slot = stores[0].stored(plain(number));
        let reason = kiteq_store::DeadReason::DeliverLimit;
        stores[0].kill(vec![kiteq_store::Kill { slot, reason, groups: Vec::new() }]);
    }
    let revived: usize = std::thread::scope(|scope| {
        let revive = |store: &Caller| {
            let all = (0..20).map(|number| store.revive(vec![id(number)]).remove(0).unwrap());
            all.filter(Option::is_some).count()
        };
        let threads: Vec<_> = stores.iter().map(|store| scope.spawn(move || revive(store))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(revived, 20);
}

#[test]
fn a_verdict_may_come_to_any_broker() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    let slots: Vec<Slot> = (0..3).map(|number| a.stored(prepared(number, b"body"))).collect();
    let verdicts = vec![(id(0), Verdict::Commit), (id(1), Verdict::Rollback)];
    assert_eq!(b.decide(verdicts), [VerdictOutcome::Deferred, VerdictOutcome::Deferred]);
    assert!(a.load_one(slots[0]).unwrap().committed_elsewhere);
    assert!(!a.load_one(slots[0]).unwrap().committed_elsewhere, "told once");
    assert_eq!(a.load_one(slots[1]).unwrap_err(), StoreError::Gone);
    assert!(!a.load_one(slots[2]).unwrap().committed_elsewhere);
    assert_eq!(b.decide(vec![(id(2), Verdict::Commit)]), [VerdictOutcome::Deferred]);
    assert_eq!(
        a.decide(vec![(id(2), Verdict::Rollback)]),
        [VerdictOutcome::Ignored],
        "the first verdict stands"
    );
    assert_eq!(a.decide(vec![(id(2), Verdict::Commit)]), [VerdictOutcome::Committed(slots[2])]);
}

#[test]
fn who_leaves_is_known_to_have_left_until_it_is_back() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    b.stored(plain(1));
    let of_b = |has_left| Owner { name: B.to_owned(), has_left };
    let of_a = Owner { name: A.to_owned(), has_left: false };
    assert_eq!(a.owners().unwrap(), [of_a.clone(), of_b(false)]);
    b.leave().unwrap();
    b.raw().close().unwrap();
    assert_eq!(a.owners().unwrap(), [of_a.clone(), of_b(true)]);
    let back = open(&name, B);
    assert_eq!(a.owners().unwrap(), [of_a.clone(), of_b(false)]);
    assert_eq!(waiting(&back), ids(1..2));
    assert_eq!(a.adopt(B, 10).unwrap(), 1);
    assert_eq!(a.owners().unwrap(), [of_a], "who has no messages is nobody's concern");
}

#[test]
fn the_run_before_cannot_say_that_the_present_one_leaves() {
    let name = database();
    let (a, b) = (open(&name, A), open(&name, B));
    b.stored(plain(1));
    let again = open(&name, B);
    b.leave().unwrap();
    assert!(!a.owners().unwrap()[1].has_left);
    again.leave().unwrap();
    assert!(a.owners().unwrap()[1].has_left);
}
