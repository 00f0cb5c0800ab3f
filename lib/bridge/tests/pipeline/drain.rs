//! Elements on their way from a real Redis to a sink, and what becomes of those that cannot go there.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{
    self, Running, Sink, client, config, dead, element, key, length, list, push, wait_until_settled,
};
use kiteq_bridge::{BridgeConfig, ClaimMode};
use kiteq_testkit::{Redis, eventually};
use redis::aio::MultiplexedConnection;

#[tokio::test]
async fn elements_arrive_in_their_order_and_claims_are_settled() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed", "other"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..2500).map(|id| element("feed", id))).await;
    let running = Running::start(config(&redis, &["feed", "other"]), &sink);
    sink.wait_for(2500).await;
    wait_until_settled(&mut client).await;
    // One batch at a time is on its way only by chance, so the order is looked at within each.
    let ids = sink.ids();
    assert_eq!(ids.len(), 2500, "none twice");
    let events = sink.events();
    assert!(events.iter().all(|event| event.business == "feed"));
    let first = events.iter().find(|event| event.id() == 7).unwrap();
    assert_eq!(first.body, "7\tt\t{\"n\":7,\"business_type\":\"feed\"}");
    push(&mut client, (2500..2510).map(|id| element("other", id))).await;
    sink.wait_for(2510).await;
    wait_until_settled(&mut client).await;
    eventually("what was done is shown", async || {
        let stat = running.stat();
        let queue = &stat.queues[0];
        ((queue.popped, queue.sent, queue.claims) == (2510, 2510, 0) && stat.pipeline_bytes == 0)
            .then_some(())
    })
    .await;
    let report = running.stop().await;
    assert_eq!((report.claims_left, report.claims_put_back, report.elements_lost), (0, 0, 0));
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn an_event_says_whose_it_is_however_its_element_said_so() {
    const SERVED: [&str; 3] = ["feed", "feed3", "default3"];
    // What the element says, the event's business, and the end of its body.
    const CASES: [(&str, &str, &str); 7] = [
        (r#""businessName":"feed","body":{"n":1}"#, "feed", r#"{"n":1,"business_type":"feed"}"#),
        (r#""businessName":"feed","body":{}"#, "feed", r#"{"business_type":"feed"}"#),
        (
            r#""businessName":"feed","log_type":3,"body":{"log_type":4}"#,
            "feed3",
            r#"{"business_type":"feed","log_type":"3"}"#,
        ),
        // The same business from another name.
        (r#""businessName":"feed3","body":{"n":1}"#, "feed3", r#"{"n":1,"business_type":"feed3"}"#),
        (
            r#""businessName":"\u0066eed","log_type":3.0,"body":{"n":1}"#,
            "feed3",
            r#"{"n":1,"business_type":"\u0066eed","log_type":"3"}"#,
        ),
        (
            r#""businessName":"other","log_type":3,"body":{}"#,
            "other3",
            r#"{"business_type":"other","log_type":"3"}"#,
        ),
        (
            r#""businessName":"o\"r","log_type":3,"body":{"n":1}"#,
            "o\"r3",
            r#"{"n":1,"business_type":"o\"r","log_type":"3"}"#,
        ),
    ];
    let (redis, sink) = (Redis::start().await, Sink::start(&SERVED).await);
    let mut client = client(&redis).await;
    let element = |(id, (said, ..)): (usize, &(&str, &str, &str))| {
        format!(r#"{{"params":{{"momoid":"{id}","type":"t",{said}}}}}"#).into_bytes()
    };
    push(&mut client, CASES.iter().enumerate().map(element)).await;
    let running = Running::start(config(&redis, &SERVED), &sink);
    sink.wait_for(CASES.len()).await;
    let mut events = sink.events();
    events.sort_by_key(support::Event::id);
    for (event, (said, business, body)) in events.iter().zip(CASES) {
        let expected = format!("{}\tt\t{body}", event.id());
        assert_eq!((event.business.as_str(), event.body.as_str()), (business, expected.as_str()), "{said}");
    }
    running.stop().await;
}

#[tokio::test]
async fn what_becomes_no_event_is_a_dead_letter_and_the_rest_goes_on() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let bad: [&[u8]; 5] = [
        b"",
        b"{",
        b"\xff\xfe",
        b"{\"params\":3}",
        br#"{"params":{"momoid":"1","businessName":"nobody","type":"t","body":{}}}"#,
    ];
    for id in 0..2000 {
        push(&mut client, bad.iter().map(|bytes| bytes.to_vec()).chain([element("feed", id)])).await;
    }
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(2000).await;
    wait_until_settled(&mut client).await;
    let letters = dead(&mut client).await;
    assert_eq!(letters.len(), 10_000);
    let reasons: Vec<&str> = letters[..5].iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["not_json", "not_json", "not_json", "wrong_shape", "no_route"]);
    assert_eq!(letters[2]["element_base64"], "//4=");
    assert_eq!(letters[3]["element"], "{\"params\":3}");
    assert!(letters[0]["instance"].as_str().unwrap().starts_with("localhost_bridge:"));
    assert!(letters[0]["time"].as_u64().unwrap() > 1_600_000_000_000);
    running.stop().await;
}

#[tokio::test]
async fn an_element_of_20_mib_stays_in_redis_beside_its_letter() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let large = vec![b'x'; 20 << 20];
    // It fits a frame as an element, and as an event, which has its type twice, it does not.
    let wide = String::from_utf8(element("feed", 9))
        .unwrap()
        .replace("\"t\"", &format!("\"{}\"", "t".repeat(9 << 20)));
    push(&mut client, [element("feed", 1), large.clone(), element("feed", 2)]).await;
    push(&mut client, [wide.clone().into_bytes(), element("feed", 3)]).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(3).await;
    wait_until_settled(&mut client).await;
    let letters = dead(&mut client).await;
    assert!(letters.len() == 2 && letters.iter().all(|letter| letter["reason"] == "too_large"));
    assert!(letters.iter().any(|letter| letter["element"] == wide.as_str()));
    let large_letter = letters.iter().find(|letter| letter["bytes"] == 20 << 20).unwrap();
    let kept = list(&mut client, large_letter["element_in"].as_str().unwrap()).await;
    assert!(kept == [large], "{} kept", kept.len());
    running.stop().await;
}

#[tokio::test]
async fn a_business_without_sinks_waits_in_redis_and_the_others_go_on() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed", "dark"]).await);
    let mut client = client(&redis).await;
    sink.set_available("dark", false);
    push(&mut client, (0..1000).map(|id| element(if id % 2 == 0 { "feed" } else { "dark" }, id))).await;
    let running = Running::start(config(&redis, &["feed", "dark"]), &sink);
    sink.wait_for(500).await;
    wait_until_settled(&mut client).await;
    assert_eq!(length(&mut client, &key("parked:dark")).await, 500);
    assert_eq!(list(&mut client, &key("parked:dark")).await[..2], [element("dark", 1), element("dark", 3)]);
    sink.set_available("dark", true);
    sink.wait_for(1000).await;
    wait_until_settled(&mut client).await;
    assert_eq!((sink.ids().len(), length(&mut client, &key("parked:dark")).await), (1000, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_batch_that_no_sink_takes_is_parked_and_comes_again() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    sink.set_failing(true);
    push(&mut client, (0..10).map(|id| element("feed", id))).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    eventually("it is parked", async || (running.stat().queues[0].parked >= 10).then_some(())).await;
    assert!(sink.events().is_empty());
    sink.set_failing(false);
    sink.wait_for(10).await;
    wait_until_settled(&mut client).await;
    assert_eq!(length(&mut client, &key("parked:feed")).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn at_the_bound_of_parked_elements_claiming_stops_and_says_so() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed", "dark"]).await);
    let mut client = client(&redis).await;
    sink.set_available("dark", false);
    push(&mut client, (0..5000).map(|id| element("dark", id))).await;
    let bounds =
        BridgeConfig { parked_max: 250, claims_in_flight_max: 4, ..config(&redis, &["feed", "dark"]) };
    let running = Running::start(bounds, &sink);
    running.wait_for_trouble("business dark has no sink").await;
    assert_eq!(length(&mut client, &key("parked:dark")).await, 200);
    assert!(running.stat().queues[0].waiting >= 4000);
    sink.set_available("dark", true);
    sink.wait_for(5000).await;
    wait_until_settled(&mut client).await;
    running.wait_until_ready().await;
    running.stop().await;
}

/// Another bridge parks what it claimed and ends: a bridge that found nothing parked before must look again.
#[tokio::test]
async fn elements_that_another_bridge_parked_meanwhile_are_brought_away() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, [element("feed", 0)]).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(1).await;
    wait_until_settled(&mut client).await;
    let () = redis::pipe()
        .atomic()
        .hset(key("parked"), "feed", 1)
        .rpush(key("parked:feed"), element("feed", 1))
        .query_async(&mut client)
        .await
        .unwrap();
    sink.wait_for(2).await;
    wait_until_settled(&mut client).await;
    assert_eq!(length(&mut client, &key("parked:feed")).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn elements_parked_for_a_business_that_is_served_no_more_are_routed_again() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["default"]).await);
    let mut client = client(&redis).await;
    let () = redis::cmd("HSET").arg(key("parked")).arg("old").arg(1).query_async(&mut client).await.unwrap();
    for id in 0..2500 {
        let () = redis::cmd("RPUSH")
            .arg(key("parked:old"))
            .arg(element("old", id))
            .query_async(&mut client)
            .await
            .unwrap();
    }
    let running = Running::start(config(&redis, &["default"]), &sink);
    sink.wait_for(2500).await;
    wait_until_settled(&mut client).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
    running.stop().await;
}

#[tokio::test]
async fn at_the_bound_of_dead_letters_claiming_stops_until_they_are_deleted() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let bounds =
        BridgeConfig { dead_letters_max: Some(50), claims_in_flight_max: 4, ..config(&redis, &["feed"]) };
    push(&mut client, (0..3000).map(|_| b"bad".to_vec())).await;
    push(&mut client, [element("feed", 1)]).await;
    let running = Running::start(bounds, &sink);
    running.wait_for_trouble("as many dead letters").await;
    assert!(running.stat().queues[0].waiting > 0 && sink.events().is_empty());
    eventually("all are looked at", async || {
        let () = redis::cmd("DEL").arg(key("dead")).query_async(&mut client).await.unwrap();
        (!sink.events().is_empty()).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn dead_letters_that_cannot_be_written_keep_their_claim_and_others_go_on() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let () = redis::cmd("SET").arg(key("dead")).arg("x").query_async(&mut client).await.unwrap();
    push(&mut client, [b"bad".to_vec()]).await;
    push(&mut client, (0..500).map(|id| element("feed", id))).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(500).await;
    eventually("one claim is left", async || {
        let claims: usize = redis::cmd("HLEN").arg(key("claims")).query_async(&mut client).await.unwrap();
        (claims == 1).then_some(())
    })
    .await;
    let () = redis::cmd("DEL").arg(key("dead")).query_async(&mut client).await.unwrap();
    wait_until_settled(&mut client).await;
    assert_eq!(dead(&mut client).await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn stalled_sinks_bound_what_is_claimed() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    sink.set_silent(true);
    push(&mut client, (0..20_000).map(|id| element("feed", id))).await;
    let bounds =
        BridgeConfig { pipeline_bytes_max: 100_000, claims_in_flight_max: 1000, ..config(&redis, &["feed"]) };
    let running = Running::start(BridgeConfig { drain_timeout: Duration::from_millis(300), ..bounds }, &sink);
    eventually("the bytes are at their bound", async || {
        (running.stat().pipeline_bytes >= 100_000).then_some(())
    })
    .await;
    let waiting = running.stat().queues[0].waiting;
    assert!(waiting > 15_000, "{waiting}");
    assert!(running.stat().pipeline_bytes < 500_000);
    let report = running.stop().await;
    assert!(report.claims_put_back > 0 && report.claims_left == 0, "{report:?}");
    let back: Vec<Vec<u8>> = list(&mut client, support::QUEUE).await;
    assert!(back == (0..20_000).map(|id| element("feed", id)).collect::<Vec<_>>(), "in their old order");
}

/// Redis copies a whole page before it sends any of it.
#[tokio::test]
async fn large_elements_are_read_in_small_pages() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let large = |id| {
        let small = String::from_utf8(element("feed", id)).unwrap();
        small.replace("\"n\":", &format!("\"pad\":\"{}\",\"n\":", "p".repeat(100_000))).into_bytes()
    };
    push(&mut client, (0..300).map(large)).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(300).await;
    // The first page, of a hundred, is asked for before the size of elements is known; the others have ten.
    let pages = reads(&mut client).await;
    assert!(pages >= 20, "{pages}");
    running.stop().await;
}

/// Commands that have read a list.
async fn reads(client: &mut MultiplexedConnection) -> u32 {
    let calls: String = redis::cmd("INFO").arg("commandstats").query_async(client).await.unwrap();
    let reads = calls.lines().find_map(|line| line.strip_prefix("cmdstat_lrange:calls=")).unwrap();
    reads.split(',').next().unwrap().parse().unwrap()
}

/// Many small pages would be at their bound before the limit is reached.
#[tokio::test]
async fn a_rate_limit_makes_no_pages_of_a_few_elements() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..5000).map(|id| element("feed", id))).await;
    let limited = BridgeConfig { rate_limit: Some(5000), ..config(&redis, &["feed"]) };
    let running = Running::start(limited, &sink);
    sink.wait_for(5000).await;
    let pages = reads(&mut client).await;
    // 25 elements are granted in a pause, or more.
    assert!(pages <= 300, "{pages}");
    running.stop().await;
}

/// Two bridges that may not go fast go twice as fast.
#[tokio::test]
async fn a_bridge_with_a_rate_limit_leaves_the_rest_of_a_queue_to_others() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..5000).map(|id| element("feed", id))).await;
    let limited = BridgeConfig { rate_limit: Some(1000), ..config(&redis, &["feed"]) };
    let running = Running::start(limited, &sink);
    eventually("some arrive", async || (!sink.ids().is_empty()).then_some(())).await;
    assert!(length(&mut client, support::QUEUE).await >= 2000);
    running.stop().await;
    assert_eq!(length(&mut client, support::QUEUE).await as usize + sink.ids().len(), 5000);
}

#[tokio::test]
async fn a_rate_limit_holds() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..300).map(|id| element("feed", id))).await;
    let begun = std::time::Instant::now();
    let running = Running::start(BridgeConfig { rate_limit: Some(200), ..config(&redis, &["feed"]) }, &sink);
    sink.wait_for(300).await;
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn popping_without_claims_delivers_and_leaves_nothing_behind() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed", "dark"]).await);
    let mut client = client(&redis).await;
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "default", "-evalsha", "-eval", "-script"])
        .query_async(&mut client)
        .await
        .unwrap();
    sink.set_available("dark", false);
    push(&mut client, (0..3000).map(|id| element(if id < 2900 { "feed" } else { "dark" }, id))).await;
    push(&mut client, [b"bad".to_vec(), vec![b'x'; 17 << 20]]).await;
    let running = Running::start(
        BridgeConfig { claim_mode: ClaimMode::Pop, ..config(&redis, &["feed", "dark"]) },
        &sink,
    );
    sink.wait_for(2900).await;
    eventually("all have a place", async || {
        let queue = running.stat().queues.remove(0);
        (queue.parked == 100 && dead(&mut client).await.len() == 2).then_some(())
    })
    .await;
    sink.set_available("dark", true);
    sink.wait_for(3000).await;
    let ids: BTreeSet<u64> = sink.ids().into_iter().collect();
    assert_eq!((ids.len(), sink.ids().len()), (3000, 3000));
    let report = running.stop().await;
    assert_eq!(report.elements_lost, 0);
}

#[tokio::test]
async fn compressed_elements_arrive_and_bombs_do_not() {
    let deflate = |bytes: &[u8]| {
        let mut out = Vec::with_capacity(bytes.len() / 4 + 1024);
        let mut state = flate2::Compress::new(flate2::Compression::default(), false);
        state.compress_vec(bytes, &mut out, flate2::FlushCompress::Finish).unwrap();
        out
    };
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let bomb = deflate(&vec![b' '; 32 << 20]);
    push(&mut client, [bomb, element("feed", 7)]).await;
    push(&mut client, (0..100).map(|id| deflate(&element("feed", id)))).await;
    let running = Running::start(BridgeConfig { compressed: true, ..config(&redis, &["feed"]) }, &sink);
    sink.wait_for(100).await;
    wait_until_settled(&mut client).await;
    let reasons: Vec<_> = dead(&mut client).await.iter().map(|letter| letter["reason"].clone()).collect();
    assert_eq!(reasons, ["inflated_too_large", "broken_deflate"]);
    running.stop().await;
}
