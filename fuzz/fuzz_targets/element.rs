//! Elements come from anybody who can push to a queue: any bytes are refused or become an event whose body ends in one line of JSON.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    place: Place,
    bytes: &'a [u8],
}

/// Where the bytes stand. Most bytes are no element; in their place in one they get further.
#[derive(Debug, Arbitrary)]
enum Place {
    Element,
    Params,
    Business,
    LogType,
    Body,
    Members,
}

impl Place {
    fn around(&self) -> (&'static str, &'static str) {
        match self {
            Self::Element => ("", ""),
            Self::Params => (r#"{"action":"a","params":"#, "}"),
            Self::Business => {
                (r#"{"params":{"momoid":"m","type":"t","body":{},"log_type":3,"businessName":""#, r#""}}"#)
            }
            Self::LogType => {
                (r#"{"params":{"momoid":"m","type":"t","body":{"a":1},"businessName":"b","log_type":"#, "}}")
            }
            Self::Body => {
                (r#"{"params":{"momoid":"m","type":"t","businessName":"b","log_type":3,"body":"#, "}}")
            }
            Self::Members => {
                (r#"{"params":{"momoid":"m","type":"t","businessName":"b","log_type":3,"body":{"#, "}}}")
            }
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let (before, after) = input.place.around();
    let element = [before.as_bytes(), input.bytes, after.as_bytes()].concat();
    let Some(body) = kiteq_bridge::event_body(&element) else { return };
    // A number that no double holds is kept as it is; the reference refuses it.
    let Ok(reference) = serde_json::from_slice::<Value>(&element) else { return };
    let params = &reference["params"];
    let columns = format!("{}\t{}\t", text(&params["momoid"]), text(&params["type"]));
    let Some(object) = body.strip_prefix(columns.as_bytes()) else { panic!("not what it is about") };
    assert!(object.iter().all(|byte| *byte >= 0x20), "more than a line");
    let Ok(object) = serde_json::from_slice::<Value>(object) else { panic!("the body is no JSON") };
    let Value::Object(mut expected) = params["body"].clone() else { panic!("a body that is no object") };
    expected.insert("business_type".to_owned(), params["businessName"].clone());
    if !params["log_type"].is_null() {
        // However it is written, it is an integer.
        let Some(log_type) = object["log_type"].as_str() else { panic!("no log type") };
        assert!(log_type.parse::<i128>().is_ok(), "{log_type:?}");
        expected.insert("log_type".to_owned(), Value::from(log_type));
    }
    assert_eq!(object, Value::Object(expected));
});

fn text(value: &Value) -> &str {
    let Some(text) = value.as_str() else { panic!("a field that is no string") };
    text
}
