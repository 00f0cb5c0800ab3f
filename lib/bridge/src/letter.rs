//! Dead letters: what is written into Redis about an element that does not become an event.
//!
//! One JSON object:
//!
//! | member | what |
//! |---|---|
//! | `reason` | a word, the metric's label |
//! | `detail` | for people: what is wrong, and where |
//! | `time` | when, milliseconds since 1970 |
//! | `instance` | the mark of the bridge that gave up |
//! | `element` | the element, when it is UTF-8 |
//! | `element_base64` | the element in base64, when it is not |
//! | `element_in` | the list that holds the element as it is, when it is very large |
//! | `bytes` | the element's length |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::element::Rejection;
use crate::redis::unix_ms;

#[derive(Serialize, Default)]
struct Letter<'a> {
    reason: &'static str,
    detail: &'a str,
    time: u64,
    instance: &'a str,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element_in: Option<&'a str>,
}

/// The letter for an element that goes into it.
pub(crate) fn with_element(rejection: &Rejection, instance: &str, element: &[u8]) -> Vec<u8> {
    let mut letter = letter(rejection, instance, element.len());
    match std::str::from_utf8(element) {
        Ok(text) => letter.element = Some(text),
        Err(_) => letter.element_base64 = Some(STANDARD.encode(element)),
    }
    written(&letter)
}

/// The letter for an element that is kept in a list of its own.
pub(crate) fn without_element(rejection: &Rejection, instance: &str, bytes: usize, list: &str) -> Vec<u8> {
    let mut letter = letter(rejection, instance, bytes);
    letter.element_in = Some(list);
    written(&letter)
}

fn letter<'a>(rejection: &'a Rejection, instance: &'a str, bytes: usize) -> Letter<'a> {
    let (reason, detail) = (rejection.reason.label(), rejection.detail.as_str());
    Letter { reason, detail, time: unix_ms(), instance, bytes, ..Letter::default() }
}

fn written(letter: &Letter<'_>) -> Vec<u8> {
    // Text and numbers always have a JSON form.
    serde_json::to_vec(letter).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Reason;

    #[test]
    fn the_element_can_be_had_back() {
        let rejection = Rejection::new(Reason::NotJson, "at byte 0: expected \"a value\"");
        let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let text = read(&with_element(&rejection, "h_i:1", b"\x01\"quoted\"\n"));
        assert_eq!(
            (text["element"].as_str(), text["reason"].as_str()),
            (Some("\u{1}\"quoted\"\n"), Some("not_json"))
        );
        let binary = read(&with_element(&rejection, "h_i:1", b"\xff\x00"));
        assert_eq!(STANDARD.decode(binary["element_base64"].as_str().unwrap()).unwrap(), b"\xff\x00");
        assert!(binary.get("element").is_none());
        let large = read(&without_element(&rejection, "h_i:1", 17, "list"));
        assert_eq!((large["element_in"].as_str(), large["bytes"].as_u64()), (Some("list"), Some(17)));
    }
}
