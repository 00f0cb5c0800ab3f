#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
//! Whole runs of the client engine, which `--verify` takes: it survives what ends the lean one.

mod support;

use std::process::Stdio;
use std::time::Duration;

use kiteq_bench::commands::Verdict;
use support::{FakeBroker, Fault, bench};

const VERIFIED: &str = "e2e --verify --count 1000 --window 50 --settle-timeout 1s --size 100";

#[tokio::test(flavor = "multi_thread")]
async fn everything_published_is_delivered_and_the_verdict_is_fine() {
    let broker = FakeBroker::start(Fault::None).await;
    let (verdict, report) =
        bench(&broker, &format!("{VERIFIED} --groups 2 --topics 3 --transactions 10%")).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(broker.committed(), 100);
    assert_eq!((&report["ledger"]["acked"], &report["ledger"]["in_doubt"]), (&1000.into(), &0.into()));
    for group in report["ledger"]["groups"].as_array().unwrap() {
        assert_eq!((&group["delivered"], &group["missing"]), (&1000.into(), &0.into()));
    }
    assert_eq!(report["flows"][1]["latency"]["count"], 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_message_makes_the_verdict_lost() {
    let broker = FakeBroker::start(Fault::Drop(500)).await;
    let (verdict, report) = bench(&broker, VERIFIED).await;
    assert_eq!(verdict, Verdict::Lost);
    assert_eq!(report["ledger"]["groups"][0]["missing"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_made_again_and_nothing_is_lost() {
    let broker = FakeBroker::start(Fault::HangUp(300)).await;
    let (verdict, report) = bench(&broker, VERIFIED).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!((&report["ledger"]["acked"], &report["refused"]), (&1000.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_of_an_open_loop_is_kept() {
    let broker = FakeBroker::start(Fault::None).await;
    let (verdict, report) = bench(&broker, &format!("{VERIFIED} --rate 5000")).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(report["flows"][0]["latency"]["count"], 1000);
}

/// What a crash script does: a run without end that SIGTERM brings to an orderly one.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_run_settles_its_ledger() {
    let broker = FakeBroker::start(Fault::None).await;
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("result.json");
    let mut bench = tokio::process::Command::new(env!("CARGO_BIN_EXE_kiteq-bench"))
        .args(["e2e", "--verify", "--duration", "1h", "--window", "10", "--broker"])
        .arg(broker.address.to_string())
        .arg("--json")
        .arg(&json)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let received = async {
        while broker.acked_deliveries() < 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), received).await.unwrap();
    let pid = rustix::process::Pid::from_raw(bench.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(60), bench.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert!(report["ledger"]["acked"].as_u64().unwrap() >= 200);
    assert_eq!(report["ledger"]["groups"][0]["missing"], 0);
}
