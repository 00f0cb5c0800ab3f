//! ZooKeeper: our mark, the marks of others, and everything that can happen to a session.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use kiteq_bridge::sinks::{AliveWatch, Directory, Locality};
use kiteq_telemetry::Shutdown;
use support::rig::{MARK, Other, Rig, SESSION_TIMEOUT, batch, config, directory_config};
use support::sink::{OK, Sink};
use support::{Log, PATIENCE, ZooKeeper, eventually};
use tokio::time::timeout;

const MARK_NODE: &str = "/flume_source/feed/host_bridge:1";

/// Waits until exactly these marks are alive; `None`: until nothing is known.
async fn until_alive(alive: &mut AliveWatch, expected: Option<&[&str]>) {
    let expected: Option<BTreeSet<String>> =
        expected.map(|marks| marks.iter().map(|mark| (*mark).to_owned()).collect());
    let seen = timeout(PATIENCE, alive.wait_for(|marks| marks.as_deref() == expected.as_ref())).await;
    let is_seen = seen.is_ok_and(|seen| seen.is_ok());
    assert!(is_seen, "expected {expected:?}, last known {:?}", alive.borrow());
}

#[tokio::test]
async fn every_bridge_is_alive_in_any_business_until_it_leaves_or_dies() {
    let server = ZooKeeper::start().await;
    let shutdown = Shutdown::new();
    let start = |businesses: &[&str], mark: &str| {
        Directory::start(directory_config(&server, businesses, mark), &shutdown).unwrap()
    };
    let first = start(&["feed", "location"], "a_1:10");
    let mut alive = first.alive();
    until_alive(&mut alive, Some(&["a_1:10"])).await;
    assert!(first.ready().is_ok());
    let second = start(&["feed"], "b_1:11");
    let third = start(&["elsewhere"], "c_1:12");
    until_alive(&mut alive, Some(&["a_1:10", "b_1:11", "c_1:12"])).await;

    let other = Other::connect(&server).await;
    // Somebody tidies up: it comes back, and meanwhile it is known from the other business.
    other.delete("/flume_source/feed/a_1:10").await;
    let session = other.owner("/flume_source/location/a_1:10").await.unwrap();
    eventually("the mark is made again", async || {
        other.owner("/flume_source/feed/a_1:10").await.filter(|owner| *owner == session)
    })
    .await;

    second.close().await;
    assert_eq!(other.owner("/flume_source/feed/b_1:11").await, None, "at once");
    until_alive(&mut alive, Some(&["a_1:10", "c_1:12"])).await;
    drop(third);
    until_alive(&mut alive, Some(&["a_1:10"])).await;
    first.close().await;
    until_alive(&mut alive, None).await;
    assert!(shutdown.finish(PATIENCE).await.is_clean());
}

#[tokio::test]
async fn the_mark_that_a_dead_bridge_left_is_replaced() {
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    other.put("/flume_source/feed").await;
    let ephemeral = zookeeper_client::CreateMode::Ephemeral.with_acls(zookeeper_client::Acls::anyone_all());
    other.0.create(MARK_NODE, b"", &ephemeral).await.unwrap();
    let rig = Rig::start(&server, config());
    let watcher = Other::connect(&server).await;
    let dead = other.0.session_id().0;
    eventually("it is ours", async || watcher.owner(MARK_NODE).await.filter(|owner| *owner != dead)).await;
    drop(other);
    rig.end().await;
}

#[tokio::test]
async fn without_zookeeper_the_last_known_sinks_stand_and_nobody_is_taken_for_dead() {
    let (log, _guard) = Log::capture();
    let mut server = ZooKeeper::start().await;
    let sink = Sink::start(OK).await;
    let node = format!("/flume/feed/127.0.0.1_{}", sink.port);
    Other::connect(&server).await.put(&node).await;
    let rig = Rig::start(&server, config());
    rig.until_sinks(&[&sink.address()]).await;
    let mut alive = rig.directory.alive();
    until_alive(&mut alive, Some(&[MARK])).await;

    server.kill();
    until_alive(&mut alive, None).await;
    assert!(rig.directory.ready().unwrap_err().contains(&server.host()));
    // Until the session is given up, and long after a connection is.
    eventually("the session is lost", async || {
        rig.directory.ready().is_err_and(|reason| !reason.contains("away")).then_some(())
    })
    .await;
    for body in 0..10 {
        timeout(PATIENCE, rig.sinks.send("feed", &batch(&body.to_string()))).await.unwrap().unwrap();
    }
    assert_eq!(sink.batches(), 10);

    server.run().await;
    until_alive(&mut alive, Some(&[MARK])).await;
    assert!(rig.directory.ready().is_ok());
    let second = Sink::start(OK).await;
    let other = Other::connect(&server).await;
    other.put(&format!("/flume/feed/127.0.0.1_{}", second.port)).await;
    rig.until_sinks(&[&sink.address(), &second.address()]).await;
    assert!(log.count("ZooKeeper cannot be reached") <= 2, "not once per attempt: {}", log.text());
    rig.end().await;
}

#[tokio::test]
async fn a_zookeeper_that_is_down_at_the_start_is_used_once_it_is_up() {
    let mut server = ZooKeeper::prepare();
    let rig = Rig::start(&server, config());
    rig.until_available("feed", false).await;
    assert!(rig.directory.ready().is_err() && rig.directory.alive().borrow().is_none());
    server.run().await;
    let sink = Sink::start(OK).await;
    Other::connect(&server).await.put(&format!("/flume/feed/127.0.0.1_{}", sink.port)).await;
    rig.until_available("feed", true).await;
    until_alive(&mut rig.directory.alive(), Some(&[MARK])).await;
    rig.end().await;
}

#[tokio::test]
async fn an_expired_session_is_followed_by_one_that_marks_and_reads_again() {
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let sink = Sink::start(OK).await;
    other.put(&format!("/flume/feed/127.0.0.1_{}", sink.port)).await;
    let rig = Rig::start_for(&server, config(), &["feed", "location"], Locality::of_names([]));
    let mut alive = rig.directory.alive();
    until_alive(&mut alive, Some(&[MARK])).await;
    rig.until_sinks(&[&sink.address()]).await;
    let first = eventually("our mark", async || other.owner(MARK_NODE).await).await;
    drop(other);

    // The fault itself lasts so long: beyond the session's timeout and the client's own patience with it.
    server.pause();
    tokio::time::sleep(SESSION_TIMEOUT * 3).await;
    assert_eq!(*alive.borrow(), None, "nobody is known to be alive or dead");
    assert!(rig.sinks.send("feed", &batch("meanwhile")).await.is_ok());
    server.resume();

    let other = Other::connect(&server).await;
    eventually("marked by another session, in every business", async || {
        let feed = other.owner(MARK_NODE).await?;
        let location = other.owner("/flume_source/location/host_bridge:1").await?;
        (feed != first && feed == location).then_some(())
    })
    .await;
    until_alive(&mut alive, Some(&[MARK])).await;
    let second = Sink::start(OK).await;
    other.put(&format!("/flume/feed/127.0.0.1_{}", second.port)).await;
    rig.until_sinks(&[&sink.address(), &second.address()]).await;
    rig.end().await;
}

#[tokio::test]
async fn closing_is_bounded_when_zookeeper_does_not_answer() {
    let server = ZooKeeper::start().await;
    let rig = Rig::start(&server, config());
    until_alive(&mut rig.directory.alive(), Some(&[MARK])).await;
    server.pause();
    rig.end().await;
    server.resume();
}
