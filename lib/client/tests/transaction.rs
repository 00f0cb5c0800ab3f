//! Transactions: what the broker hears in each phase.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kiteq_client::{Client, Publish, PublishError, TransactionError, TxCheck, Verdict};
use support::{Connection, FakeBroker, PATIENCE, Published, TestRegistry, client_of, header, soon};
use tokio::sync::oneshot;

const UNKNOWN: i32 = 0;
const COMMIT: i32 = 1;
const ROLLBACK: i32 = 2;

fn message() -> Publish {
    Publish::bytes("trade", "pay-succ", "a").property("order", "17")
}

struct Stage {
    broker: FakeBroker,
    connection: Connection,
    client: Client,
}

async fn stage(client: impl FnOnce(kiteq_client::ClientBuilder) -> kiteq_client::ClientBuilder) -> Stage {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let builder = client(client_of(&registry, "p-orders").topics(["trade"]));
    let client = builder.build().await.unwrap();
    let connection = broker.accept().await;
    Stage { broker, connection, client }
}

type Finished = tokio::task::JoinHandle<Result<u8, TransactionError<String>>>;

/// Starts a transaction whose closure waits for its result to be sent.
fn start(client: &Client) -> (oneshot::Sender<Result<u8, String>>, Finished) {
    let (decide, decided) = oneshot::channel::<Result<u8, String>>();
    let client = client.clone();
    let finished = tokio::spawn(async move {
        client.transaction(message(), async |_transaction| decided.await.unwrap()).await
    });
    (decide, finished)
}

/// Takes the prepared message and acks it.
async fn prepare(connection: &mut Connection) -> Published {
    let prepared = connection.published().await;
    assert!(!prepared.header.commit);
    connection.ack(&prepared).await;
    prepared
}

async fn assert_answer(connection: &mut Connection, opaque: u32, asked: &Published, status: i32) {
    connection.check(opaque, asked.header.clone()).await;
    let (answered, verdict) = connection.verdict().await;
    assert_eq!((answered, verdict.status), (opaque, status), "{}", verdict.feedback);
    assert_eq!(verdict.header, asked.header);
}

#[tokio::test]
async fn a_check_hears_unknown_while_the_closure_runs_and_the_outcome_after_it() {
    for (outcome, status) in [(Ok(7), COMMIT), (Err("no funds".to_owned()), ROLLBACK)] {
        let Stage { mut connection, client, .. } = stage(|builder| builder).await;
        let (decide, finished) = start(&client);
        let prepared = prepare(&mut connection).await;
        assert_answer(&mut connection, 71, &prepared, UNKNOWN).await;
        decide.send(outcome.clone()).unwrap();
        let (opaque, verdict) = connection.verdict().await;
        assert_ne!(opaque, 0);
        assert_eq!((verdict.status, &verdict.header), (status, &prepared.header));
        let result = soon("the end", finished).await.unwrap();
        assert_eq!(result, outcome.map_err(TransactionError::RolledBack));
        assert_answer(&mut connection, 72, &prepared, status).await;
        assert_answer(&mut connection, 73, &prepared, status).await;
    }
}

#[tokio::test]
async fn a_verdict_that_was_lost_with_its_connection_is_the_answer_to_the_check() {
    let Stage { broker, mut connection, client } = stage(|builder| builder).await;
    let (decide, finished) = start(&client);
    let prepared = prepare(&mut connection).await;
    drop(connection);
    let mut connection = broker.accept().await;
    assert_answer(&mut connection, 1, &prepared, UNKNOWN).await;
    decide.send(Ok(1)).unwrap();
    let verdict = connection.verdict().await.1;
    assert_eq!(verdict.status, COMMIT, "the same broker is connected again");
    drop(connection);
    assert_eq!(soon("the end", finished).await.unwrap(), Ok(1));
    let mut connection = broker.accept().await;
    assert_answer(&mut connection, 1, &prepared, COMMIT).await;
}

#[tokio::test]
async fn a_verdict_goes_to_another_broker_when_the_first_is_gone() {
    let (gone, other) = (FakeBroker::start().await, FakeBroker::start().await);
    let registry = TestRegistry::with("trade", &[&gone.address]);
    let client = client_of(&registry, "p-orders").topics(["trade"]).build().await.unwrap();
    let mut connection = gone.accept().await;
    let (decide, finished) = start(&client);
    let prepared = prepare(&mut connection).await;
    registry.set("trade", &[&other.address]);
    let mut elsewhere = other.accept().await;
    // It has left the registry, and nothing is on its way to it: the client lets go of it.
    connection.assert_closed().await;
    client.ready(PATIENCE).await.unwrap();
    decide.send(Ok(1)).unwrap();
    let verdict = elsewhere.verdict().await.1;
    assert_eq!((verdict.status, verdict.header), (COMMIT, prepared.header));
    assert_eq!(soon("the end", finished).await.unwrap(), Ok(1));
}

#[tokio::test]
async fn a_message_that_is_not_taken_does_not_run_the_closure() {
    let Stage { mut connection, client, .. } = stage(|builder| builder).await;
    let (_decide, finished) = start(&client);
    let prepared = connection.published().await;
    connection.answer(&prepared, false, "disk full").await;
    let error = soon("the end", finished).await.unwrap().unwrap_err();
    assert!(matches!(error, TransactionError::Prepare(PublishError::Refused { .. })), "{error}");
    assert_answer(&mut connection, 1, &prepared, ROLLBACK).await;
}

#[tokio::test]
async fn the_check_handler_answers_for_what_this_process_does_not_know() {
    let handler = async |check: TxCheck| match check.property("order") {
        Some("panic") => panic!("on purpose"),
        Some(_) => Verdict::Commit,
        None => Verdict::Rollback,
    };
    let Stage { mut connection, client: _client, .. } = stage(|builder| builder.on_check(handler)).await;
    let mut asked = Published { opaque: 0, cmd: 0, header: header(1), body: bytes::Bytes::new() };
    assert_answer(&mut connection, 1, &asked, ROLLBACK).await;
    for (value, status) in [("17", COMMIT), ("panic", UNKNOWN), ("18", COMMIT)] {
        let property = kiteq_protocol::pb::Entry { key: "order".into(), value: value.into() };
        asked.header.properties = vec![property];
        assert_answer(&mut connection, 2, &asked, status).await;
    }
}

#[tokio::test]
async fn without_a_check_handler_an_unknown_transaction_stays_unknown() {
    let Stage { mut connection, client: _client, .. } = stage(|builder| builder).await;
    let asked = Published { opaque: 0, cmd: 0, header: header(1), body: bytes::Bytes::new() };
    assert_answer(&mut connection, 1, &asked, UNKNOWN).await;
}

#[tokio::test]
async fn a_closure_that_panics_leaves_its_transaction_to_the_check_handler() {
    let handler = async |_check: TxCheck| Verdict::Rollback;
    let Stage { mut connection, client, .. } = stage(|builder| builder.on_check(handler)).await;
    let finished = tokio::spawn({
        let client = client.clone();
        async move {
            let local = async |_transaction| -> Result<(), String> { panic!("on purpose") };
            client.transaction(message(), local).await
        }
    });
    let prepared = prepare(&mut connection).await;
    assert!(soon("the panic", finished).await.unwrap_err().is_panic());
    assert_answer(&mut connection, 1, &prepared, ROLLBACK).await;
}

#[tokio::test]
async fn a_check_that_cannot_be_read_is_ignored() {
    let Stage { mut connection, client, .. } = stage(|builder| builder).await;
    let garbage = kiteq_protocol::pb::HeartBeat { version: 7 };
    connection.send(kiteq_protocol::Command::TxAck, 5, &garbage).await;
    let (decide, finished) = start(&client);
    let prepared = prepare(&mut connection).await;
    decide.send(Ok(1)).unwrap();
    assert_eq!(connection.verdict().await.1.header, prepared.header);
    assert_eq!(soon("the end", finished).await.unwrap(), Ok(1));
}

#[tokio::test]
async fn a_fly_message_cannot_be_prepared() {
    let Stage { client, .. } = stage(|builder| builder).await;
    let local = async |_transaction| Ok::<(), String>(());
    let error = client.transaction(message().fly(), local).await.unwrap_err();
    assert!(matches!(error, TransactionError::Prepare(PublishError::Invalid { .. })), "{error}");
}

#[tokio::test]
async fn a_busy_check_handler_does_not_keep_the_connection_from_working() {
    let handler = async |_check: TxCheck| {
        std::future::pending::<()>().await;
        Verdict::Commit
    };
    let Stage { mut connection, client, .. } = stage(|builder| builder.on_check(handler)).await;
    for opaque in 1..=100 {
        connection.check(opaque, header(1)).await;
    }
    // Some are with the handler for ever; the others are told to ask again.
    for _ in 0..36 {
        assert_eq!(connection.verdict().await.1.status, UNKNOWN);
    }
    let client = Arc::new(client);
    let publishing = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.publish(message()).await }
    });
    let published = connection.published().await;
    connection.ack(&published).await;
    soon("a receipt", publishing).await.unwrap().unwrap();
    soon("the end", client.close(Duration::from_secs(1))).await.unwrap();
}
