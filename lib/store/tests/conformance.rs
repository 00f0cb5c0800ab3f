//! What every backend promises, written once and run against each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use kiteq_protocol::MessageId;
use kiteq_store::{
    AppendOutcome, DeadReason, GroupState, Kill, Slot, StoreError, StoreStats, Verdict, VerdictOutcome,
};
use support::{Backend, Caller, id, message, prepared};

/// One test per backend and behaviour.
macro_rules! conformance {
    ($($behaviour:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $behaviour() { super::$behaviour(super::Backend::memory()); })*
        }
        mod mmap {
            $(#[test] fn $behaviour() { super::$behaviour(super::Backend::mmap()); })*
        }
        mod mysql {
            $(#[test] fn $behaviour() { super::$behaviour(super::Backend::mysql()); })*
        }
        mod mock {
            $(#[test] fn $behaviour() { super::$behaviour(super::Backend::mock()); })*
        }
    };
}

conformance! {
    a_stored_message_is_read_back_as_it_was,
    outcomes_come_in_the_order_of_the_messages,
    a_held_id_is_a_duplicate,
    an_id_settled_a_moment_ago_is_a_duplicate,
    without_a_window_a_settled_id_is_new_again,
    a_settled_slot_is_handed_out_again,
    a_commit_is_reported_once,
    a_rolled_back_message_is_gone_and_its_id_free,
    verdicts_on_unknown_or_committed_messages_are_ignored,
    a_killed_message_is_a_dead_letter,
    dead_letters_come_in_pages_ordered_by_id,
    a_revived_message_is_live_again,
    a_revived_prepared_message_is_committed,
    a_purged_dead_letter_is_gone_for_good,
    closures_run_in_the_order_of_the_calls,
    calls_after_close_are_refused,
    live_messages_are_recovered_in_order_with_their_state,
    dead_letters_and_settled_ids_survive_a_restart,
    a_full_store_refuses_and_takes_more_when_there_is_room,
    nothing_happens_for_empty_calls,
}

fn a_stored_message_is_read_back_as_it_was(backend: Backend) {
    let store = backend.open("");
    let sent = message(1, "trade", "pay-succ", b"hello");
    let slot = store.stored(sent.clone());
    let loaded = store.load_one(slot).unwrap();
    assert_eq!((loaded.id, loaded.kind), (sent.id, sent.kind));
    assert_eq!(loaded.payload, sent.payload);
    let stats = store.stats();
    assert_eq!((stats.messages, stats.dead_letters), (1, 0));
    assert!(stats.payload_bytes >= sent.payload.len() as u64);
}

fn outcomes_come_in_the_order_of_the_messages(backend: Backend) {
    let store = backend.open("");
    let sent: Vec<_> = (0..100).map(|number| message(number % 60, "trade", "pay", &[7; 300])).collect();
    let outcomes = store.append(sent.clone());
    assert_eq!(outcomes.iter().map(|(message, _)| message.id).collect::<Vec<_>>(), {
        sent.iter().map(|message| message.id).collect::<Vec<_>>()
    });
    assert!(outcomes[..60].iter().all(|(_, outcome)| matches!(outcome, AppendOutcome::Stored(_))));
    assert!(outcomes[60..].iter().all(|(_, outcome)| *outcome == AppendOutcome::Duplicate));
    let mut slots: Vec<Slot> = outcomes[..60].iter().map(|(_, outcome)| slot_of(outcome)).collect();
    let loaded = store.load(slots.clone());
    for (loaded, sent) in loaded.iter().zip(&sent) {
        assert_eq!(loaded.as_ref().unwrap().payload, sent.payload);
    }
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), 60, "every message has a slot of its own");
}

fn a_held_id_is_a_duplicate(backend: Backend) {
    let store = backend.open("");
    store.stored(message(1, "trade", "pay", b"first"));
    assert_eq!(store.append_one(message(1, "trade", "pay", b"second")), AppendOutcome::Duplicate);
    assert_eq!(store.stats().messages, 1);
}

fn an_id_settled_a_moment_ago_is_a_duplicate(backend: Backend) {
    let store = backend.open("");
    let slot = store.stored(message(1, "trade", "pay", b"body"));
    store.settle(vec![slot]);
    assert_eq!(store.append_one(message(1, "trade", "pay", b"body")), AppendOutcome::Duplicate);
    assert_eq!(store.stats().messages, 0);
}

fn without_a_window_a_settled_id_is_new_again(backend: Backend) {
    let store = backend.open("dedupeWindow=0");
    let slot = store.stored(message(1, "trade", "pay", b"body"));
    store.settle(vec![slot]);
    let again = store.stored(message(1, "trade", "pay", b"other"));
    assert_eq!(&store.load_one(again).unwrap().payload.body[..], b"other");
}

fn a_settled_slot_is_handed_out_again(backend: Backend) {
    let store = backend.open("");
    let slots: Vec<Slot> = (0..10).map(|number| store.stored(message(number, "t", "m", b"x"))).collect();
    assert!(slots.iter().all(|slot| slot.0 < 10), "slots are dense: {slots:?}");
    store.settle(slots);
    let again: Vec<Slot> = (10..20).map(|number| store.stored(message(number, "t", "m", b"x"))).collect();
    assert!(again.iter().all(|slot| slot.0 < 10), "slots are handed out again: {again:?}");
}

fn a_commit_is_reported_once(backend: Backend) {
    let store = backend.open("");
    let slot = store.stored(prepared(1, b"body"));
    let outcomes = store.decide(vec![(id(1), Verdict::Commit), (id(1), Verdict::Commit)]);
    assert_eq!(outcomes, [VerdictOutcome::Committed(slot), VerdictOutcome::Ignored]);
    assert_eq!(store.decide(vec![(id(1), Verdict::Rollback)]), [VerdictOutcome::Ignored]);
    assert_eq!(&store.load_one(slot).unwrap().payload.body[..], b"body");
}

fn a_rolled_back_message_is_gone_and_its_id_free(backend: Backend) {
    let store = backend.open("");
    let slot = store.stored(prepared(1, b"body"));
    assert_eq!(store.decide(vec![(id(1), Verdict::Rollback)]), [VerdictOutcome::RolledBack(slot)]);
    assert_eq!(store.decide(vec![(id(1), Verdict::Commit)]), [VerdictOutcome::Ignored]);
    assert_eq!(store.stats().messages, 0);
    // Answering "duplicate" would tell a producer that prepares it once more that it is held.
    store.stored(prepared(1, b"body"));
}

fn verdicts_on_unknown_or_committed_messages_are_ignored(backend: Backend) {
    let store = backend.open("");
    store.stored(message(1, "trade", "pay", b"body"));
    let verdicts = vec![(id(1), Verdict::Rollback), (id(2), Verdict::Commit), (id(3), Verdict::Rollback)];
    assert_eq!(store.decide(verdicts), vec![VerdictOutcome::Ignored; 3]);
    assert_eq!(store.stats().messages, 1);
}

fn kill(slot: Slot, groups: &[&'static str]) -> Kill {
    let groups = groups.iter().map(|group| Bytes::from_static(group.as_bytes())).collect();
    Kill { slot, reason: DeadReason::DeliverLimit, groups }
}

fn a_killed_message_is_a_dead_letter(backend: Backend) {
    let keeps = backend.keeps_dead_letters;
    let store = backend.open("");
    let sent = message(1, "trade", "pay", b"body");
    let slot = store.stored(sent.clone());
    store.kill(vec![kill(slot, &["s-a", "s-b"])]);
    let letters = store.dead_letters(None, 10).unwrap();
    if !keeps {
        return assert!(letters.is_empty());
    }
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.id, letter.kind, letter.reason), (sent.id, sent.kind, DeadReason::DeliverLimit));
    assert_eq!(letter.groups, [Bytes::from_static(b"s-a"), Bytes::from_static(b"s-b")]);
    assert_eq!(letter.payload, sent.payload);
    assert!(letter.died_at > 1_600_000_000, "{}", letter.died_at);
    assert_eq!((store.stats().messages, store.stats().dead_letters), (0, 1));
    assert_eq!(store.append_one(sent), AppendOutcome::Duplicate, "a dead letter holds its id");
}

fn dead_letters_come_in_pages_ordered_by_id(backend: Backend) {
    if !backend.keeps_dead_letters {
        return;
    }
    let store = backend.open("");
    for number in [5, 1, 4, 2, 3] {
        let slot = store.stored(message(number, "trade", "pay", b"body"));
        store.kill(vec![kill(slot, &[])]);
    }
    let page = |after, limit| {
        store.dead_letters(after, limit).unwrap().iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2), [id(1), id(2)]);
    assert_eq!(page(Some(id(2)), 2), [id(3), id(4)]);
    assert_eq!(page(Some(id(4)), 2), [id(5)]);
    assert_eq!(page(Some(id(5)), 2), []);
    assert_eq!(page(None, 0), []);
}

fn a_revived_message_is_live_again(backend: Backend) {
    if !backend.keeps_dead_letters {
        return;
    }
    let store = backend.open("");
    let sent = message(1, "trade", "pay", b"body");
    let slot = store.stored(sent.clone());
    store.kill(vec![kill(slot, &["s-a"])]);
    let revived = store.revive(vec![id(9), id(1), id(1)]);
    assert_eq!(revived[0], Ok(None));
    let (slot, letter) = revived[1].clone().unwrap().unwrap();
    assert_eq!((letter.id, &letter.payload), (sent.id, &sent.payload));
    assert_eq!(letter.groups, [Bytes::from_static(b"s-a")]);
    assert_eq!(revived[2], Ok(None), "it is no dead letter any more");
    assert_eq!(store.load_one(slot).unwrap().payload, sent.payload);
    assert!(store.dead_letters(None, 10).unwrap().is_empty());
    assert_eq!((store.stats().messages, store.stats().dead_letters), (1, 0));
}

fn a_revived_prepared_message_is_committed(backend: Backend) {
    if !backend.keeps_dead_letters {
        return;
    }
    let store = backend.open("");
    let slot = store.stored(prepared(1, b"body"));
    store.kill(vec![Kill { slot, reason: DeadReason::NoVerdict, groups: Vec::new() }]);
    assert_eq!(store.decide(vec![(id(1), Verdict::Commit)]), [VerdictOutcome::Ignored]);
    assert!(matches!(&store.revive(vec![id(1)])[0], Ok(Some(_))));
    assert_eq!(store.decide(vec![(id(1), Verdict::Rollback)]), [VerdictOutcome::Ignored]);
    assert_eq!(store.stats().messages, 1);
}

fn a_purged_dead_letter_is_gone_for_good(backend: Backend) {
    if !backend.keeps_dead_letters {
        return;
    }
    let store = backend.open("");
    let slots: Vec<Slot> = (1..4).map(|number| store.stored(message(number, "t", "m", b"body"))).collect();
    store.kill(slots.into_iter().take(2).map(|slot| kill(slot, &[])).collect());
    assert_eq!(store.purge(vec![id(1), id(3), id(8)]), 1, "only dead letters are purged");
    assert_eq!(store.dead_letters(None, 10).unwrap().len(), 1);
    assert_eq!(store.revive(vec![id(1)]), [Ok(None)]);
    let stats = store.stats();
    assert_eq!((stats.messages, stats.dead_letters), (1, 1));
    store.stored(message(1, "t", "m", b"body"));
}

fn closures_run_in_the_order_of_the_calls(backend: Backend) {
    let store = backend.open("");
    let (sender, receiver) = std::sync::mpsc::channel();
    for number in 0..50u32 {
        let told = sender.clone();
        store.raw().append(
            vec![prepared(number, b"body")],
            Box::new(move |_| told.send((number, "append")).unwrap()),
        );
        let told = sender.clone();
        store.raw().decide(
            vec![(id(number), Verdict::Commit)],
            Box::new(move |outcomes| {
                assert!(matches!(outcomes[0], VerdictOutcome::Committed(_)), "{outcomes:?}");
                told.send((number, "decide")).unwrap();
            }),
        );
    }
    drop(sender);
    let heard: Vec<_> = receiver.iter().collect();
    let expected: Vec<_> = (0..50).flat_map(|number| [(number, "append"), (number, "decide")]).collect();
    assert_eq!(heard, expected);
}

fn calls_after_close_are_refused(backend: Backend) {
    let store = backend.open("");
    let slot = store.stored(message(1, "trade", "pay", b"body"));
    store.raw().close().unwrap();
    store.raw().close().unwrap();
    let refused = store.append_one(message(2, "trade", "pay", b"body"));
    assert_eq!(refused, AppendOutcome::Refused(StoreError::Closed));
    assert_eq!(store.load_one(slot).unwrap_err(), StoreError::Closed);
    assert_eq!(store.decide(vec![(id(1), Verdict::Commit)]), [VerdictOutcome::Failed(StoreError::Closed)]);
    assert_eq!(store.revive(vec![id(1)]), [Err(StoreError::Closed)]);
    assert_eq!(store.dead_letters(None, 1).unwrap_err(), StoreError::Closed);
    assert_eq!(store.raw().health(), Err(StoreError::Closed));
}

fn live_messages_are_recovered_in_order_with_their_state(backend: Backend) {
    if !backend.durable {
        return;
    }
    let mut sent: Vec<_> =
        (0..40).map(|number| message(number, "trade", "pay", &number.to_be_bytes())).collect();
    sent[5] = prepared(5, b"prepared");
    sent[6] = prepared(6, b"committed later");
    let noted = vec![
        GroupState { group: Bytes::from_static(b"s-a"), attempts: 3, done: false },
        GroupState { group: Bytes::from_static(b"s-b"), attempts: 0, done: true },
    ];
    let store = backend.open("");
    let slots: Vec<Slot> = store.append(sent.clone()).iter().map(|(_, outcome)| slot_of(outcome)).collect();
    store.decide(vec![(id(6), Verdict::Commit)]);
    store.settle(slots.iter().copied().step_by(4).collect());
    store.note(vec![(slots[7], Vec::new()), (slots[9], noted.clone()), (slots[10], noted.clone())]);
    store.note(vec![(slots[10], Vec::new())]);
    let store = store.reopen("");
    let found = store.recovered();
    let expected: Vec<MessageId> = (0..40).filter(|number| number % 4 != 0).map(id).collect();
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), expected);
    for found in found {
        let sent = sent.iter().find(|sent| sent.id == found.id).unwrap();
        assert_eq!(
            (found.topic.as_slice(), found.message_type.as_slice()),
            (&sent.topic[..], &sent.message_type[..])
        );
        assert_eq!(
            (found.expires_at, found.deliver_limit),
            (sent.expires_at, u32::try_from(sent.deliver_limit).unwrap())
        );
        assert_eq!(found.kind, sent.kind);
        assert_eq!(found.committed, found.id != id(5));
        assert_eq!(found.groups, if found.id == id(9) { noted.clone() } else { Vec::new() });
        assert_eq!(store.load_one(found.slot).unwrap().payload, sent.payload);
    }
    assert_eq!(store.append_one(sent[1].clone()), AppendOutcome::Duplicate);
}

fn dead_letters_and_settled_ids_survive_a_restart(backend: Backend) {
    if !backend.durable {
        return;
    }
    let store = backend.open("");
    let slots: Vec<Slot> = (1..6).map(|number| store.stored(message(number, "t", "m", b"body"))).collect();
    store.kill(slots[..3].iter().map(|slot| kill(*slot, &["s-a"])).collect());
    assert!(matches!(&store.revive(vec![id(1)])[0], Ok(Some(_))));
    assert_eq!(store.purge(vec![id(2)]), 1);
    store.settle(vec![slots[4]]);
    let store = store.reopen("");
    let found = store.recovered();
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [id(1), id(4)]);
    assert_eq!(found[0].expires_at, 0, "a revived message has no expiry any more");
    let letters = store.dead_letters(None, 10).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id, &letters[0].groups[..]), (id(3), &[Bytes::from_static(b"s-a")][..]));
    assert_eq!(store.append_one(message(5, "t", "m", b"body")), AppendOutcome::Duplicate);
    assert_eq!(store.append_one(message(3, "t", "m", b"body")), AppendOutcome::Duplicate);
    store.stored(message(2, "t", "m", b"body"));
}

fn a_full_store_refuses_and_takes_more_when_there_is_room(backend: Backend) {
    if !backend.is_bounded {
        return;
    }
    let store = backend.open("maxcap=3");
    let slots: Vec<Slot> = (0..3).map(|number| store.stored(message(number, "t", "m", b"body"))).collect();
    let full = StoreError::Full { held: 3, limit: 3 };
    assert_eq!(store.append_one(message(3, "t", "m", b"body")), AppendOutcome::Refused(full.clone()));
    assert!(full.is_retryable());
    assert_eq!(store.raw().health(), Err(full));
    store.settle(vec![slots[1]]);
    store.stored(message(3, "t", "m", b"body"));
}

fn nothing_happens_for_empty_calls(backend: Backend) {
    let store = backend.open("");
    assert!(store.append(Vec::new()).is_empty());
    assert!(store.decide(Vec::new()).is_empty());
    assert!(store.load(Vec::new()).is_empty());
    assert!(store.revive(Vec::new()).is_empty());
    assert_eq!(store.purge(Vec::new()), 0);
    store.settle(Vec::new());
    store.note(Vec::new());
    store.kill(Vec::new());
    assert_eq!(store.stats(), StoreStats { disk_bytes: store.stats().disk_bytes, ..StoreStats::default() });
    store.raw().health().unwrap();
}

fn slot_of(outcome: &AppendOutcome) -> Slot {
    match outcome {
        AppendOutcome::Stored(slot) => *slot,
        other => panic!("not stored: {other:?}"),
    }
}

#[test]
fn a_slow_answer_is_a_failure_of_the_test_not_a_hang() {
    let waited = Caller::wait_at_most(Duration::from_millis(5), |_: kiteq_store::Done<()>| {});
    assert!(waited.is_err());
}
