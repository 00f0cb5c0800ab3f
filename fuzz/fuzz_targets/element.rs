//! Elements come from anybody who can push to a queue: any bytes are refused or become an event whose body ends in one line of JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|element: &[u8]| {
    let Some(body) = kiteq_bridge::event_body(element) else { return };
    // A number that no double holds is kept as it is; the reference refuses it.
    let Ok(reference) = serde_json::from_slice::<Value>(element) else { return };
    let open = body.iter().position(|byte| *byte == b'{').unwrap_or_else(|| panic!("no object"));
    // A name may hold a brace: then the object begins further on.
    let object = (open..body.len())
        .filter(|at| body[*at] == b'{')
        .find_map(|at| serde_json::from_slice::<Value>(&body[at..]).ok())
        .unwrap_or_else(|| panic!("the body is no JSON"));
    let expected = &reference["params"]["businessName"];
    assert_eq!(&object["business_type"], expected);
});
