#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
//! Whole runs of the lean engine against a small broker that does wrong what it is told to.

mod support;

use clap::Parser;
use kiteq_bench::cli::Cli;
use kiteq_bench::commands::{Verdict, run};
use support::{FakeBroker, Fault, bench};

const VERIFIED: &str = "e2e --verify --engine wire --count 2000 --window 50 --settle-timeout 1s --size 100";

#[tokio::test(flavor = "multi_thread")]
async fn everything_published_is_delivered_and_the_verdict_is_fine() {
    let broker = FakeBroker::start(Fault::None).await;
    let (verdict, report) = bench(&broker, &format!("{VERIFIED} --groups 2 --topics 3")).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(report["ledger"]["acked"], 2000);
    assert_eq!(report["ledger"]["in_doubt"], 0);
    for group in report["ledger"]["groups"].as_array().unwrap() {
        assert_eq!((&group["delivered"], &group["missing"]), (&2000.into(), &0.into()));
    }
    assert_eq!(report["flows"][0]["latency"]["count"], 2000);
    assert_eq!(report["flows"][1]["latency"]["count"], 4000);
    assert_eq!(report["undelivered"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_message_makes_the_verdict_lost_and_is_listed() {
    let broker = FakeBroker::start(Fault::Drop(1234)).await;
    let (verdict, report) = bench(&broker, VERIFIED).await;
    assert_eq!(verdict, Verdict::Lost);
    let group = &report["ledger"]["groups"][0];
    assert_eq!(group["missing"], 1);
    assert_eq!(group["missing_ids"].as_array().unwrap().len(), 1);
    assert_eq!(report["undelivered"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_is_counted_and_nothing_is_lost() {
    let broker = FakeBroker::start(Fault::Repeat(77)).await;
    let (verdict, report) = bench(&broker, VERIFIED).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(report["ledger"]["groups"][0]["duplicates"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_counted_with_its_reason_and_not_expected() {
    let broker = FakeBroker::start(Fault::Refuse(5)).await;
    let (verdict, report) = bench(&broker, VERIFIED).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!((&report["refused"], &report["first_refusal"]), (&1.into(), &"no room".into()));
    assert_eq!(report["ledger"]["acked"], 1999);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_an_error_that_names_the_other_engine() {
    let broker = FakeBroker::start(Fault::HangUp(100)).await;
    let address = broker.address.to_string();
    let line = ["kiteq-bench", "produce", "--count", "1000", "--quiet", "--broker", &address];
    let error = run(Cli::try_parse_from(line).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("--engine client"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_prepared_committed_and_delivered() {
    let broker = FakeBroker::start(Fault::None).await;
    let (verdict, report) = bench(&broker, &format!("{VERIFIED} --transactions 25%")).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(broker.committed(), 500);
    assert_eq!(report["ledger"]["groups"][0]["delivered"], 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_sends_all_of_its_schedule() {
    let broker = FakeBroker::start(Fault::None).await;
    let (_, report) = bench(&broker, "produce --count 500 --rate 10000 --window 8 --size 40").await;
    assert_eq!(report["flows"][0]["messages"], 500);
    assert_eq!(report["flows"][0]["latency"]["count"], 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receipt_is_acked_before_a_consumer_leaves() {
    let broker = FakeBroker::start(Fault::None).await;
    let (consumed, _) = tokio::join!(bench(&broker, "consume --count 300"), async {
        // Messages to a group that nobody is in are dropped by this broker: publish until the consumer has enough.
        loop {
            bench(&broker, "produce --count 100 --size 64").await;
            if broker.acked_deliveries() >= 300 {
                break;
            }
        }
    });
    assert!(consumed.1["flows"][0]["messages"].as_u64().unwrap() >= 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_an_error_that_says_what_to_start() {
    let line = "kiteq-bench produce --count 1 --broker 127.0.0.1:1 --quiet";
    let error = run(Cli::try_parse_from(line.split_whitespace()).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("no broker at 127.0.0.1:1"), "{error}");
    assert!(error.to_string().contains("Start one"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_filled_and_drained() {
    let broker = FakeBroker::start(Fault::None).await;
    broker.bind("bench-consumer-backlog");
    let line = "backlog --verify --count 1000 --window 50 --size 100 --settle-timeout 1s";
    let (verdict, report) = bench(&broker, line).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(
        (&report["flows"][0]["messages"], &report["flows"][1]["messages"]),
        (&1000.into(), &1000.into())
    );
    assert_eq!(report["broker_memory"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_run_piled_up_another_one_drains() {
    let broker = FakeBroker::start(Fault::None).await;
    broker.bind("bench-consumer-backlog");
    let (_, report) = bench(&broker, "backlog --fill-only --count 700 --size 100").await;
    assert_eq!(report["flows"].as_array().unwrap().len(), 1);
    let (_, report) = bench(&broker, "backlog --drain-only --count 700 --size 100").await;
    assert_eq!((&report["flows"][0]["messages"], &report["undelivered"]), (&700.into(), &0.into()));
}
