//! The MySQL store with more messages than fit into memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId};
use kiteq_store::{
    AppendOutcome, DeadReason, GroupState, Kill, PageSource, Shelf, ShelfPlace, Shelving, Slot, Verdict,
    VerdictOutcome,
};
use kiteq_testkit::{MariaDb, PATIENCE};
use support::{Caller, OWNER, database, id, mariadb, message, prepared};

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn open(database: &str, parameters: &str) -> Caller {
    Caller::open_mysql(&mariadb().uri(database, parameters), OWNER)
}

fn plain(number: u32) -> Message {
    message(number, "trade", "pay", b"body")
}

fn ids(range: std::ops::Range<u32>) -> HashSet<MessageId> {
    range.map(id).collect()
}

fn shelf(groups: &[&'static str]) -> Arc<Shelf> {
    let groups = groups.iter().map(|&group| Bytes::from(group)).collect();
    Arc::new(Shelf::new(Bytes::from_static(b"trade"), groups))
}

fn on(slot: Slot, shelf: &Arc<Shelf>) -> Shelving {
    Shelving { slot, states: Vec::new(), place: ShelfPlace::On(shelf.clone()) }
}

#[test]
fn what_does_not_fit_waits_and_comes_with_pages() {
    let store = open(&database(), "resident=10");
    let outcomes = store.append((0..40).map(plain).collect());
    let stored: Vec<Slot> = outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            AppendOutcome::Stored(slot) => Some(*slot),
            AppendOutcome::Deferred => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((stored.len(), store.stats().messages), (10, 40));
    assert!(store.page(5, PageSource::Waiting).unwrap().messages.is_empty(), "there is no room");
    assert_eq!(
        store.append_one(plain(39)),
        AppendOutcome::Deferred,
        "a repeated one is held, wherever it is"
    );
    let mut seen: HashSet<MessageId> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, AppendOutcome::Stored(_)))
        .map(|(message, _)| message.id)
        .collect();
    let mut given_up = stored;
    while seen.len() < 40 {
        store.settle(given_up);
        let page = store.page(100, PageSource::Waiting).unwrap();
        assert!((1..=10).contains(&page.messages.len()), "{} messages", page.messages.len());
        for paged in &page.messages {
            assert!(seen.insert(paged.id), "twice");
            assert_eq!(&store.load_one(paged.slot).unwrap().payload.body[..], b"body");
        }
        given_up = page.messages.iter().map(|paged| paged.slot).collect();
    }
    store.settle(given_up);
    assert!(!store.page(100, PageSource::Waiting).unwrap().has_more);
    assert_eq!(store.stats().messages, 0);
}

#[test]
fn what_a_run_left_comes_with_the_pages_of_the_next() {
    let name = database();
    let store = open(&name, "");
    let slots: Vec<Slot> = (0..20).map(|number| store.stored(plain(number))).collect();
    store.shelve(vec![on(slots[3], &shelf(&["s-a"]))]);
    store.shelve(vec![Shelving {
        slot: slots[4],
        states: Vec::new(),
        place: ShelfPlace::Until(now() + 3600),
    }]);
    store.finish_queued();
    // As a crash would: nothing is closed.
    let next = open(&name, "");
    let found: HashSet<MessageId> = next.all_waiting(7).iter().map(|paged| paged.id).collect();
    assert_eq!(found, &ids(0..20) - &HashSet::from([id(3), id(4)]));
    assert_eq!(next.append_one(plain(3)), AppendOutcome::Duplicate);
    // The run before is over: nothing that it says counts.
    store.settle(slots);
    assert!(store.suspects_loss());
    assert!(next.load_one(Slot(0)).is_ok());
}

#[test]
fn a_shelf_keeps_its_messages_until_it_is_asked_for() {
    let name = database();
    let store = open(&name, "");
    let slots: Vec<Slot> = (0..6).map(|number| store.stored(plain(number))).collect();
    let (one, two) = (shelf(&["s-a"]), shelf(&["s-a", "s-b"]));
    let states = vec![
        GroupState { group: Bytes::from_static(b"s-c"), attempts: 0, done: true },
        GroupState { group: Bytes::from_static(b"s-a"), attempts: 2, done: false },
    ];
    let noted = Shelving { slot: slots[2], states: states.clone(), place: ShelfPlace::On(two.clone()) };
    store.shelve(vec![on(slots[0], &one), on(slots[1], &one), noted]);
    assert_eq!(store.all_waiting(10), []);
    let mut shelves = store.shelves().unwrap();
    shelves.sort_by_key(|shelf| shelf.groups.len());
    assert_eq!(shelves, [(*one).clone(), (*two).clone()]);
    let page = store.page(10, PageSource::Shelves(vec![two.id])).unwrap();
    assert_eq!((page.messages.len(), page.messages[0].id, &page.messages[0].groups), (1, id(2), &states));
    // Back without states: what was said before does not count any more.
    store.shelve(vec![on(page.messages[0].slot, &two)]);
    store.finish_queued();
    let store = open(&name, "");
    assert_eq!(store.shelves().unwrap().len(), 2);
    let both = store.page(10, PageSource::Shelves(vec![one.id, two.id])).unwrap();
    assert_eq!(both.messages.iter().map(|paged| paged.id).collect::<HashSet<_>>(), ids(0..3));
    assert!(both.messages.iter().all(|paged| paged.groups.is_empty()), "{both:?}");
    assert_eq!(store.append_one(plain(1)), AppendOutcome::Duplicate);
}

#[test]
fn what_waits_for_a_time_comes_when_it_has_come() {
    let store = open(&database(), "");
    let slots: Vec<Slot> = (0..2).map(|number| store.stored(plain(number))).collect();
    let until = |slot, at| Shelving { slot, states: Vec::new(), place: ShelfPlace::Until(at) };
    let at = now() + 2;
    store.shelve(vec![until(slots[0], at), until(slots[1], now() - 5)]);
    let first = store.all_waiting(10);
    assert_eq!(first.iter().map(|paged| paged.id).collect::<Vec<_>>(), [id(1)], "the past is now");
    let deadline = Instant::now() + PATIENCE;
    let paged = loop {
        let (before, paged) = (now(), store.all_waiting(10));
        if !paged.is_empty() {
            break paged;
        }
        assert!(before <= at && Instant::now() < deadline, "it should have come by now");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(now() >= at);
    assert_eq!((paged.len(), paged[0].id), (1, id(0)));
}

#[test]
fn an_expired_message_comes_from_wherever_it_lies() {
    let name = database();
    let store = open(&name, "");
    let shelf = shelf(&["s-a"]);
    let slots: Vec<Slot> = (0..3).map(|number| store.stored(plain(number))).collect();
    let later = Shelving { slot: slots[1], states: Vec::new(), place: ShelfPlace::Until(now() + 3600) };
    store.shelve(vec![on(slots[0], &shelf), later]);
    assert_eq!(store.all_waiting(10), []);
    for digit in 0..16 {
        mariadb().execute(&format!(
            "UPDATE {name}_{}.kite_msg_{} SET expired_time={}",
            digit / 4,
            digit % 4,
            now() - 1
        ));
    }
    let expired: HashSet<MessageId> = store.all_waiting(10).iter().map(|paged| paged.id).collect();
    assert_eq!(expired, ids(0..2), "the resident one is the caller's to find");
    // One that has expired by the time it is shelved is not forgotten on its shelf.
    store.shelve(vec![on(slots[2], &shelf)]);
    assert_eq!(store.all_waiting(10).iter().map(|paged| paged.id).collect::<Vec<_>>(), [id(2)]);
}

#[test]
fn a_verdict_reaches_a_message_that_is_not_resident() {
    let store = open(&database(), "resident=1");
    let shelf = shelf(&["s-a"]);
    let slot = store.stored(prepared(0, b"body"));
    for number in 1..4 {
        assert_eq!(store.append_one(prepared(number, b"body")), AppendOutcome::Deferred);
    }
    store.shelve(vec![on(slot, &shelf)]);
    let verdicts = vec![
        (id(0), Verdict::Commit),
        (id(1), Verdict::Commit),
        (id(2), Verdict::Rollback),
        (id(9), Verdict::Commit),
    ];
    let outcomes = store.decide(verdicts);
    assert_eq!(outcomes[..3], [VerdictOutcome::Deferred, VerdictOutcome::Deferred, VerdictOutcome::Deferred]);
    assert_eq!(outcomes[3], VerdictOutcome::Ignored);
    assert_eq!(store.decide(vec![(id(1), Verdict::Rollback)]), [VerdictOutcome::Ignored]);
    let shelved = store.page(1, PageSource::Shelves(vec![shelf.id])).unwrap().messages;
    assert!(shelved[0].committed);
    store.settle(vec![shelved[0].slot]);
    let mut rest = Vec::new();
    while let Some(paged) = store.page(1, PageSource::Waiting).unwrap().messages.pop() {
        rest.push((paged.id, paged.committed));
        store.settle(vec![paged.slot]);
    }
    rest.sort_unstable();
    assert_eq!(rest, [(id(1), true), (id(3), false)]);
}

#[test]
fn a_note_survives_with_every_detail() {
    let name = database();
    let store = open(&name, "");
    let group = |number: u32| Bytes::from(format!("s-a-group-with-a-long-name-{number}"));
    let states: Vec<GroupState> = (0..40)
        .map(|number| GroupState { group: group(number), attempts: number, done: number % 3 == 0 })
        .collect();
    let slots: Vec<Slot> = (0..2).map(|number| store.stored(plain(number))).collect();
    store.note(vec![(slots[0], states.clone()), (slots[1], states.clone())]);
    store.note(vec![(slots[1], states[..1].to_vec())]);
    let sent = plain(0);
    assert_eq!(
        store.load_one(slots[0]).unwrap().payload,
        sent.payload,
        "it is not the publisher's, and not told"
    );
    let store = open(&name, "");
    let mut paged = store.all_waiting(10);
    paged.sort_by_key(|paged| paged.id);
    assert_eq!((&paged[0].groups, &paged[1].groups[..]), (&states, &states[..1]));
    assert_eq!(store.load_one(paged[0].slot).unwrap().payload, sent.payload);
    store.kill(vec![Kill {
        slot: paged[0].slot,
        reason: DeadReason::Expired,
        groups: (0..40).map(group).collect(),
    }]);
    let letter = store.dead_letters(None, 1).unwrap().remove(0);
    assert_eq!((letter.payload, letter.groups.len()), (sent.payload, 40));
}

/// Rows as a broker of this store leaves them, made by the server itself.
fn fill(server: &MariaDb, name: &str, rows_per_table: u32, next_deliver_time: i64, owner: &str) {
    let header = message(0, "trade", "pay", b"").payload.header().to_vec();
    let header: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
    for digit in 0..16 {
        server.execute(&format!(
            "INSERT INTO {name}_{}.kite_msg_{} (message_id,header,body,msg_type,topic,message_type,publish_group,`commit`,\
             publish_time,expired_time,deliver_count,deliver_limit,kite_server,fail_groups,succ_groups,next_deliver_time) \
             SELECT LOWER(CONCAT(LPAD(HEX(CRC32(seq)),23,'0'),LPAD(HEX(seq),8,'0'),HEX({digit}))),x'{header}','body',17,\
             'trade','pay','p',1,{},{}+seq,0,100,'{owner}','[]','[]',{next_deliver_time} FROM {name}_0.seq_1_to_{rows_per_table}",
            digit / 4,
            digit % 4,
            now(),
            now() + 86_400,
        ));
    }
}

#[test]
fn two_hundred_thousand_wait_and_a_thousand_are_resident() {
    let name = database();
    drop(open(&name, ""));
    fill(mariadb(), &name, 12_500, 1, OWNER);
    let store = open(&name, "resident=1000&dedupeWindow=0");
    assert_eq!(store.stats().messages, 200_000);
    let mut seen = HashSet::new();
    loop {
        let page = store.page(1_000_000, PageSource::Waiting).unwrap();
        assert!(page.messages.len() <= 1000, "{}", page.messages.len());
        if page.messages.is_empty() {
            break;
        }
        assert!(page.messages.iter().all(|paged| seen.insert(paged.id)), "twice");
        assert!(store.stats().payload_bytes < 1_000_000);
        store.settle(page.messages.iter().map(|paged| paged.slot).collect());
    }
    assert_eq!(seen.len(), 200_000);
    assert_eq!(store.stats().messages, 0);
}

/// The statements themselves, as the server saw them: none may walk through a table.
#[test]
fn every_question_is_a_look_into_an_index() {
    let server = MariaDb::start();
    let uri = server.uri("kite", "flushSeconds=1&dedupeWindow=1s");
    drop(Caller::open_mysql(&uri, OWNER));
    fill(&server, "kite", 500, 1, OWNER);
    fill_others(&server);
    let mut tables: Vec<String> =
        (0..16).map(|digit| format!("kite_{}.kite_msg_{}", digit / 4, digit % 4)).collect();
    tables.extend((0..4).map(|shard| format!("kite_{shard}.kite_msg_dlq")));
    server.execute(&format!("ANALYZE TABLE {}", tables.join(",")));
    server.execute("SET GLOBAL log_output='TABLE'; SET GLOBAL general_log=1");
    let store = Caller::open_mysql(&uri, OWNER);
    use_everything(&store);
    server.execute("SET GLOBAL general_log=0");
    let log = server.query(
        "SELECT argument FROM mysql.general_log WHERE command_type='Query' AND argument LIKE '%kite\\_msg%' \
         AND argument NOT LIKE '%information_schema%'",
    );
    let mut kinds = HashSet::new();
    // No value in them has a semicolon.
    for statement in log.lines().flat_map(|text| text.split(';')) {
        let is_plain_write = statement.starts_with("INSERT IGNORE") && statement.contains(" VALUES ");
        if is_plain_write || !statement.contains("kite_msg") {
            continue;
        }
        // One of each kind: the values do not matter.
        let kind: String =
            statement.chars().filter(|c| !c.is_ascii_hexdigit() && *c != ',').take(160).collect();
        if !kinds.insert(kind) {
            continue;
        }
        for plan in server.query(&format!("EXPLAIN {statement}")).lines() {
            let columns: Vec<&str> = plan.split('\t').collect();
            let (table, access, key) = (columns[2], columns[3], columns[5]);
            let is_small = table.contains("dlq") || table.starts_with('<') || table == "NULL";
            assert!(is_small || access != "ALL" && key != "NULL", "{statement}\n{plan}");
        }
    }
    assert!(kinds.len() > 20, "{} kinds of statements", kinds.len());
}

/// Rows of others at the same places, so that an owner must be looked for among them.
fn fill_others(server: &MariaDb) {
    for digit in 0..16 {
        server.execute(&format!(
            "UPDATE kite_{0}.kite_msg_{1} SET kite_server='127.0.0.1:1' WHERE id%4=0; \
             UPDATE kite_{0}.kite_msg_{1} SET kite_server='web-01', next_deliver_time=1000000000+id WHERE id%4=1",
            digit / 4,
            digit % 4
        ));
    }
}

fn use_everything(store: &Caller) {
    let slots: Vec<Slot> = (0..64).map(|number| store.stored(plain(number))).collect();
    store.append((0..64).map(plain).collect());
    store.stored(prepared(100, b"body"));
    store.decide(vec![(id(100), Verdict::Commit), (id(101), Verdict::Rollback)]);
    store.stored(prepared(102, b"body"));
    store.decide(vec![(id(102), Verdict::Rollback)]);
    let shelf = shelf(&["s-a"]);
    store.shelve(slots[..20].iter().map(|slot| on(*slot, &shelf)).collect());
    store.note(vec![(
        slots[20],
        vec![GroupState { group: Bytes::from_static(b"a"), attempts: 1, done: false }],
    )]);
    store.kill(vec![Kill { slot: slots[21], reason: DeadReason::Expired, groups: Vec::new() }]);
    store.load(slots[22..40].to_vec());
    store.settle(slots[22..60].to_vec());
    let page = store.page(1000, PageSource::Waiting).unwrap();
    assert_eq!(page.messages.len(), 1000);
    store.page(100, PageSource::Shelves(vec![shelf.id])).unwrap();
    assert_eq!(store.owners().unwrap().len(), 3);
    assert_eq!(store.adopt("127.0.0.1:1", 100).unwrap(), 100);
    assert_eq!(store.adopt("web-01", 100).unwrap(), 100);
    assert!(store.find_lost().unwrap().is_empty());
    assert_eq!(store.dead_letters(Some(id(0)), 10).unwrap().len(), 1);
    assert!(matches!(&store.revive(vec![id(21)])[0], Ok(Some(_))));
    assert_eq!(store.purge(vec![id(21)]), 0);
    // The rows that were settled are deleted a window later.
    let deadline = Instant::now() + PATIENCE;
    while store.append_one(plain(30)) == AppendOutcome::Duplicate {
        assert!(Instant::now() < deadline, "settled rows stay");
        std::thread::sleep(Duration::from_millis(200));
    }
}
