//! Whatever is in a queue: each element becomes an event, or a dead letter that says what is wrong with it and gives it back.

use kiteq_bridge::BridgeConfig;
use kiteq_testkit::{Redis, eventually};
use serde_json::Value;

use crate::support::{Running, Sink, client, config, dead, element, key, push, wait_until_settled};

/// What is pushed, and the reason and the detail of its letter.
type Bad = (Vec<u8>, &'static str, String);

/// An element with these `params`.
fn params(members: &str) -> Vec<u8> {
    format!(r#"{{"action":"a","params":{{{members}}}}}"#).into_bytes()
}

fn bad(bytes: impl Into<Vec<u8>>, reason: &'static str, detail: &str) -> Bad {
    (bytes.into(), reason, detail.to_owned())
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    let mut state = flate2::Compress::new(flate2::Compression::default(), false);
    let status = state.compress_vec(bytes, &mut out, flate2::FlushCompress::Finish).unwrap();
    assert_eq!(status, flate2::Status::StreamEnd);
    out
}

/// The element that a letter gives back.
fn element_of(letter: &Value) -> Vec<u8> {
    match (letter.get("element"), letter.get("element_base64")) {
        (Some(text), None) => text.as_str().unwrap().as_bytes().to_vec(),
        (None, Some(encoded)) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(encoded.as_str().unwrap()).unwrap()
        }
        both => panic!("{both:?}"),
    }
}

async fn assert_letters(bridge: BridgeConfig, redis: &Redis, all: Vec<Bad>, good: Vec<u8>) {
    let sink = Sink::start(&["feed"]).await;
    let mut client = client(redis).await;
    push(&mut client, all.iter().map(|(bytes, ..)| bytes.clone()).chain([good])).await;
    let running = Running::start(bridge, &sink);
    sink.wait_for(1).await;
    wait_until_settled(&mut client).await;
    let letters = dead(&mut client).await;
    assert_eq!((letters.len(), sink.events().len()), (all.len(), 1));
    for (letter, (bytes, reason, detail)) in letters.iter().zip(all) {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(letter["reason"], reason, "{start}: {letter}");
        assert_eq!(letter["detail"], detail.as_str(), "{start}");
        assert!(element_of(letter) == bytes && letter["bytes"] == bytes.len(), "{start}");
    }
    running.stop().await;
}

#[tokio::test]
async fn each_kind_of_bad_element_has_its_reason() {
    let redis = Redis::start().await;
    let deep = "[".repeat(100_000);
    let names = r#""momoid":"m","businessName":"feed","type":"t""#;
    let all = vec![
        // Not JSON.
        bad("", "not_json", "at byte 0: expected a value"),
        bad("  ", "not_json", "at byte 2: expected a value"),
        bad("momoid=1", "not_json", "at byte 0: expected a value"),
        bad("{\"params\":", "not_json", "at byte 10: expected a value"),
        bad("\u{feff}{}", "not_json", "at byte 0: expected a value"),
        bad("\0", "not_json", "at byte 0: expected a value"),
        bad(
            [params(&format!("{names},\"body\":{{}}")), b"{}".to_vec()].concat(),
            "not_json",
            "at byte 81: expected the end",
        ),
        bad(deep, "not_json", "at byte 100000: expected a value"),
        // Not UTF-8: alone, in a name, in a value that is only passed on, cut in the middle of a character.
        bad(b"\xff", "not_json", "not UTF-8 from byte 0 on"),
        bad(b"{\"\xc3\x28\":1}", "not_json", "not UTF-8 from byte 2 on"),
        bad(b"{\"params\":{\"body\":{\"k\":\"\xed\xa0\x80\"}}}", "not_json", "not UTF-8 from byte 24 on"),
        bad(b"{\"a\":\"\xe4\xbd", "not_json", "not UTF-8 from byte 6 on"),
        // JSON of another kind.
        bad("[]", "wrong_shape", "the element is an array, expected an object"),
        bad("\"text\"", "wrong_shape", "the element is a string, expected an object"),
        bad("12345678901234567890", "wrong_shape", "the element is a number, expected an object"),
        bad("null", "wrong_shape", "the element is null, expected an object"),
        bad("{}", "wrong_shape", "params is missing, expected an object"),
        bad("{\"params\":[]}", "wrong_shape", "params is an array, expected an object"),
        bad(params(""), "wrong_shape", "momoid is missing, expected a string"),
        bad(params(r#""momoid":100777"#), "wrong_shape", "momoid is a number, expected a string"),
        bad(params(r#""momoid":"m","type":null"#), "wrong_shape", "type is null, expected a string"),
        bad(
            params(r#""momoid":"m","type":"t","businessName":true"#),
            "wrong_shape",
            "businessName is a boolean, expected a string",
        ),
        bad(params(names), "wrong_shape", "body is missing, expected an object"),
        bad(
            params(&format!("{names},\"body\":\"{{}}\"")),
            "wrong_shape",
            "body is a string, expected an object",
        ),
        bad(
            params(&format!("{names},\"body\":{{}},\"log_type\":\"3\"")),
            "wrong_shape",
            "log_type is a string, expected a number",
        ),
        bad(
            params(&format!("{names},\"body\":{{}},\"log_type\":3.5")),
            "wrong_shape",
            "log_type is 3.5, expected an integer of 64 bits",
        ),
        bad(
            params(&format!("{names},\"body\":{{}},\"log_type\":18446744073709551616")),
            "wrong_shape",
            "log_type is 18446744073709551616, expected an integer of 64 bits",
        ),
    ];
    let good = params(&format!("{names},\"body\":{{}}"));
    let good = String::from_utf8(good).unwrap().replace("\"m\"", "\"1\"").into_bytes();
    assert_letters(config(&redis, &["feed"]), &redis, all, good).await;
}

#[tokio::test]
async fn each_kind_of_bad_compressed_element_has_its_reason() {
    let redis = Redis::start().await;
    let whole = deflate(&element("feed", 7));
    let cut = whole[..whole.len() - 2].to_vec();
    let cut_detail = format!("it ends early, after {} bytes", cut.len());
    let all = vec![
        bad("", "broken_deflate", "it ends early, after 0 bytes"),
        bad(cut, "broken_deflate", &cut_detail),
        bad(
            deflate(&vec![b' '; (1 << 20) + 1]),
            "inflated_too_large",
            "inflated it has more than 1048576 bytes",
        ),
        bad(deflate(&vec![0; 64 << 20]), "inflated_too_large", "inflated it has more than 1048576 bytes"),
        bad(deflate(b""), "not_json", "at byte 0: expected a value"),
        bad(deflate(b"{\"\xff\":1}"), "not_json", "not UTF-8 from byte 2 on"),
        bad(deflate(b"[]"), "wrong_shape", "the element is an array, expected an object"),
    ];
    let bridge = BridgeConfig { compressed: true, inflated_bytes_max: 1 << 20, ..config(&redis, &["feed"]) };
    assert_letters(bridge, &redis, all, deflate(&element("feed", 1))).await;
}

#[tokio::test]
async fn what_is_no_deflate_at_all_is_a_dead_letter() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    // With a header of zlib or gzip, not compressed, nonsense.
    let zlib = [b"\x78\x9c".to_vec(), deflate(&element("feed", 2))].concat();
    let gzip = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), deflate(&element("feed", 3))].concat();
    let all = [zlib, gzip, element("feed", 4), b"\xff\xff\xff".to_vec()];
    push(&mut client, all.iter().cloned().chain([deflate(&element("feed", 1))])).await;
    let bridge = BridgeConfig { compressed: true, ..config(&redis, &["feed"]) };
    let running = Running::start(bridge, &sink);
    sink.wait_for(1).await;
    wait_until_settled(&mut client).await;
    let letters = dead(&mut client).await;
    assert_eq!((letters.len(), sink.ids()), (all.len(), vec![1]));
    for (letter, bytes) in letters.iter().zip(all) {
        assert_eq!(letter["reason"], "broken_deflate");
        assert!(element_of(letter) == bytes, "{letter}");
    }
    running.stop().await;
}

/// What is odd and allowed: numbers of any length, nesting of any depth.
#[tokio::test]
async fn large_numbers_and_deep_nesting_come_out_as_they_went_in() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed", "feed18446744073709551615"]).await);
    let mut client = client(&redis).await;
    let numbers =
        r#"{"id":9223372036854775807,"u":18446744073709551615,"n":-9223372036854775808,"f":1.10,"e":1e400}"#;
    let deep = format!("{{\"d\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let with = |id: u64, body: &str, more: &str| {
        params(&format!(r#""momoid":"{id}","businessName":"feed","type":"t","body":{body}{more}"#))
    };
    push(&mut client, [with(1, numbers, ""), with(2, &deep, "")]).await;
    push(&mut client, [with(3, "{}", ",\"log_type\":18446744073709551615")]).await;
    let running = Running::start(config(&redis, &["feed", "feed18446744073709551615"]), &sink);
    sink.wait_for(3).await;
    wait_until_settled(&mut client).await;
    let mut events = sink.events();
    events.sort_by_key(crate::support::Event::id);
    for (event, body) in events.iter().zip([numbers, &deep]) {
        let body = format!("{}\tt\t{},\"business_type\":\"feed\"}}", event.id(), &body[..body.len() - 1]);
        assert!(event.body == body, "{}", &event.body[..event.body.len().min(200)]);
    }
    assert_eq!(
        (events[2].business.as_str(), events[2].body.as_str()),
        (
            "feed18446744073709551615",
            "3\tt\t{\"business_type\":\"feed\",\"log_type\":\"18446744073709551615\"}"
        )
    );
    assert!(dead(&mut client).await.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_dead_letter_list_of_a_wrong_type_is_said_and_its_elements_wait() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let () = redis::cmd("HSET").arg(key("dead")).arg(&["a", "b"]).query_async(&mut client).await.unwrap();
    push(&mut client, [Vec::new(), element("feed", 1)]).await;
    let (log, _guard) = kiteq_testkit::Log::capture();
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(1).await;
    eventually("it is said", async || (log.count("writing a dead letter: WRONGTYPE") == 1).then_some(()))
        .await;
    let () = redis::cmd("DEL").arg(key("dead")).query_async(&mut client).await.unwrap();
    wait_until_settled(&mut client).await;
    assert_eq!(dead(&mut client).await[0]["detail"], "at byte 0: expected a value");
    running.stop().await;
}
