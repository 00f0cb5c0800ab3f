//! What every registry does, whatever keeps it. Each behaviour is written once and run against each backend.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use kiteq_registry::{Binding, BrokerRecord, RegistryError};
use support::backend::Backend;
use support::{PATIENCE, until};
use tokio::time::timeout;

fn broker(topics: &[&str]) -> BrokerRecord {
    let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
    BrokerRecord { address: "127.0.0.1:13800".to_owned(), topics }
}

fn is_exactly<T: PartialEq>(expected: &[T]) -> impl Fn(&[T]) -> bool {
    move |seen| seen.len() == expected.len() && expected.iter().all(|item| seen.contains(item))
}

async fn what_nobody_has_written_becomes_known_to_be_nothing<B: Backend>() {
    let backend = B::open().await;
    until(&mut backend.client().watch_brokers("trade"), "brokers", <[_]>::is_empty).await;
    until(&mut backend.broker().watch_bindings("trade"), "bindings", <[_]>::is_empty).await;
}

async fn a_broker_appears_in_its_topics_and_vanishes_again<B: Backend>() {
    let mut backend = B::open().await;
    let mut trade = backend.client().watch_brokers("trade");
    let mut feed = backend.client().watch_brokers("feed");
    until(&mut feed, "no broker yet", <[_]>::is_empty).await;

    backend.show(Some(broker(&["trade", "other"]))).await;
    let address = ["127.0.0.1:13800".to_owned()];
    until(&mut trade, "the broker of trade", is_exactly(&address)).await;
    assert_eq!(feed.borrow().as_deref(), Some([].as_slice()), "it does not serve feed");

    backend.show(Some(broker(&["feed"]))).await;
    until(&mut feed, "the broker of feed", is_exactly(&address)).await;
    until(&mut trade, "trade left", <[_]>::is_empty).await;

    backend.show(None).await;
    until(&mut feed, "feed left", <[_]>::is_empty).await;
}

async fn bindings_reach_the_broker_and_replace_those_of_the_same_topic<B: Backend>() {
    let mut backend = B::open().await;
    let mut trade = backend.broker().watch_bindings("trade");
    let mut feed = backend.broker().watch_bindings("feed");
    let first = [
        Binding::direct("s-pay", "trade", "pay", 100, true),
        Binding::regx("s-pay", "trade", "ref.*", -1, true),
    ];
    let kept = Binding::fanout("s-pay", "feed", 7, false);
    let all: Vec<_> = first.iter().cloned().chain([kept.clone()]).collect();
    backend.bind("s-pay", &all).await;
    until(&mut trade, "first bindings", is_exactly(&first)).await;
    until(&mut feed, "the other topic's", is_exactly(std::slice::from_ref(&kept))).await;

    let second = [Binding::fanout("s-pay", "trade", 0, true)];
    backend.bind("s-pay", &second).await;
    until(&mut trade, "replaced bindings", is_exactly(&second)).await;
    assert_eq!(feed.borrow().as_deref(), Some([kept].as_slice()), "the other topic keeps its own");
}

async fn groups_leave_each_other_alone<B: Backend>() {
    let mut backend = B::open().await;
    let mut watch = backend.broker().watch_bindings("trade");
    let mut expected = Vec::new();
    for number in 0..20 {
        let group = format!("s-group-{number}");
        let binding = Binding::direct(&group, "trade", "pay", number, true);
        backend.bind(&group, std::slice::from_ref(&binding)).await;
        expected.push(binding);
    }
    until(&mut watch, "all groups", is_exactly(&expected)).await;
    expected[7] = Binding::direct("s-group-7", "trade", "refund", 7, true);
    backend.bind("s-group-7", &expected[7..8]).await;
    until(&mut watch, "one group changed", is_exactly(&expected)).await;
}

async fn a_change_is_seen_soon<B: Backend>() {
    let mut backend = B::open().await;
    let mut watch = backend.broker().watch_bindings("trade");
    until(&mut watch, "nothing yet", <[_]>::is_empty).await;
    for watermark in 1..=3 {
        let binding = [Binding::direct("s-pay", "trade", "pay", watermark, true)];
        backend.bind("s-pay", &binding).await;
        let seen =
            timeout(Duration::from_secs(5), until(&mut watch, "the change", is_exactly(&binding))).await;
        assert!(seen.is_ok(), "change {watermark} is not seen within five seconds");
    }
}

async fn another_watch_of_a_topic_knows_at_once_what_the_first_one_knows<B: Backend>() {
    let mut backend = B::open().await;
    let binding = [Binding::direct("s-pay", "trade", "pay", 1, true)];
    backend.bind("s-pay", &binding).await;
    let mut first = backend.broker().watch_bindings("trade");
    until(&mut first, "the first watch", is_exactly(&binding)).await;
    assert_eq!(backend.broker().watch_bindings("trade").borrow().as_deref(), Some(binding.as_slice()));
}

async fn what_is_malformed_is_refused_and_changes_nothing<B: Backend>() {
    let mut backend = B::open().await;
    let good = [Binding::direct("s-pay", "trade", "pay", 1, true)];
    backend.bind("s-pay", &good).await;
    let client = backend.client();
    for (group, bindings, part) in [
        ("", vec![], "groupId is empty"),
        ("s/pay", vec![], "groupId"),
        ("s-pay", vec![Binding::direct("s-pay", "trade", "", 1, true)], "messageType is empty"),
        ("s-pay", vec![Binding::fanout("s-other", "trade", 1, true)], "s-other"),
        ("s-pay", vec![Binding::fanout("s-pay", "trade/pay", 1, true)], "topic"),
        ("s-pay", vec![Binding::fanout("s-pay", "trade", 1, true); 1_001], "at most 1000"),
    ] {
        let error = client.publish_bindings(group, &bindings).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{group}: {error:?}");
        assert!(!error.is_retryable() && error.to_string().contains(part), "{group}: {error}");
    }
    assert!(client.register_producer("p-pay", &["tra/de".to_owned()]).await.is_err());
    until(&mut backend.broker().watch_bindings("trade"), "the good one only", is_exactly(&good)).await;
}

async fn a_producer_may_say_what_it_publishes<B: Backend>() {
    let backend = B::open().await;
    let topics = ["trade".to_owned(), "feed".to_owned()];
    backend.client().register_producer("p-pay", &topics).await.unwrap();
    backend.client().register_producer("p-pay", &topics).await.unwrap();
}

async fn closing_ends_the_watches<B: Backend>() {
    let mut backend = B::open().await;
    backend.show(Some(broker(&["trade"]))).await;
    let (broker, client) = (backend.broker(), backend.client());
    let mut watch = client.watch_brokers("trade");
    until(&mut watch, "the broker", |seen| seen.len() == 1).await;
    timeout(PATIENCE, client.close()).await.expect("closing is bounded");
    assert!(watch.has_changed().is_err());
    assert!(client.watch_brokers("trade").has_changed().is_err());
    let alive = broker.watch_alive();
    timeout(PATIENCE, broker.close()).await.expect("closing is bounded");
    assert!(alive.has_changed().is_err());
    assert!(broker.watch_alive().has_changed().is_err());
    assert!(broker.watch_bindings("trade").has_changed().is_err());
}

async fn what_was_last_known_stands_while_the_registry_is_away<B: Backend>() {
    let mut backend = B::open().await;
    backend.show(Some(broker(&["trade"]))).await;
    let first = [Binding::direct("s-pay", "trade", "pay", 1, true)];
    backend.bind("s-pay", &first).await;
    let mut brokers = backend.client().watch_brokers("trade");
    let mut bindings = backend.broker().watch_bindings("trade");
    until(&mut brokers, "the broker", |seen| seen.len() == 1).await;
    until(&mut bindings, "the binding", is_exactly(&first)).await;
    brokers.mark_unchanged();
    bindings.mark_unchanged();

    backend.go_away().await;
    let seen =
        timeout(Duration::from_secs(2), async { tokio::join!(brokers.changed(), bindings.changed()) }).await;
    assert!(seen.is_err(), "nothing is forgotten: {:?} {:?}", brokers.borrow(), bindings.borrow());

    backend.come_back().await;
    let second = [Binding::direct("s-pay", "trade", "pay", 2, true)];
    backend.bind("s-pay", &second).await;
    until(&mut bindings, "a change after the return", is_exactly(&second)).await;
    until(&mut brokers, "the broker is there again", |seen| seen.len() == 1).await;
}

async fn who_lives_is_known_where_it_can_be_known_and_claimed_nowhere_else<B: Backend>() {
    let mut backend = B::open().await;
    let mut alive = backend.broker().watch_alive();
    let mut trade = backend.client().watch_brokers("trade");
    let address = ["127.0.0.1:13800".to_owned()];
    if B::KNOWS_THE_LIVING {
        until(&mut alive, "nobody lives", <[_]>::is_empty).await;
    }
    backend.show(Some(broker(&["trade"]))).await;
    until(&mut trade, "the broker of trade", is_exactly(&address)).await;
    if B::KNOWS_THE_LIVING {
        until(&mut alive, "it lives", is_exactly(&address)).await;
        until(&mut backend.client().watch_alive(), "clients can see that too", is_exactly(&address)).await;
    }
    backend.show(None).await;
    until(&mut trade, "no broker of trade", <[_]>::is_empty).await;
    if B::KNOWS_THE_LIVING {
        until(&mut alive, "it has left", <[_]>::is_empty).await;
    } else {
        assert_eq!((alive.has_changed().ok(), alive.borrow().as_deref()), (Some(false), None));
    }
}

async fn who_lives_is_unknown_while_the_registry_is_away<B: Backend>() {
    let mut backend = B::open().await;
    if !B::KNOWS_THE_LIVING {
        assert_eq!(*backend.client().watch_alive().borrow(), None);
        return;
    }
    backend.show(Some(broker(&["trade"]))).await;
    let address = ["127.0.0.1:13800".to_owned()];
    let mut watches = [backend.client().watch_alive(), backend.broker().watch_alive()];
    for alive in &mut watches {
        until(alive, "it lives", is_exactly(&address)).await;
    }
    backend.go_away().await;
    for alive in &mut watches {
        timeout(PATIENCE, alive.wait_for(Option::is_none)).await.expect("forgotten").expect("open");
    }
    backend.come_back().await;
    for alive in &mut watches {
        until(alive, "it lives again", is_exactly(&address)).await;
    }
}

macro_rules! conformance {
    ($module:ident, $backend:ty, $($behaviour:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $behaviour() {
                    super::$behaviour::<$backend>().await;
                }
            )+
        }
    };
}

macro_rules! conformance_of {
    ($($module:ident: $backend:ty),+ $(,)?) => {
        $(conformance!(
            $module,
            $backend,
            what_nobody_has_written_becomes_known_to_be_nothing,
            a_broker_appears_in_its_topics_and_vanishes_again,
            bindings_reach_the_broker_and_replace_those_of_the_same_topic,
            groups_leave_each_other_alone,
            a_change_is_seen_soon,
            another_watch_of_a_topic_knows_at_once_what_the_first_one_knows,
            what_is_malformed_is_refused_and_changes_nothing,
            a_producer_may_say_what_it_publishes,
            closing_ends_the_watches,
            who_lives_is_known_where_it_can_be_known_and_claimed_nowhere_else,
            who_lives_is_unknown_while_the_registry_is_away,
            what_was_last_known_stands_while_the_registry_is_away,
        );)+
    };
}

conformance_of! {
    etcd: crate::support::backend::EtcdPair,
    embedded: crate::support::backend::Embedded,
    file: crate::support::backend::File,
    zk: crate::support::backend::Zk,
}
