//! Which of our elements are in a bridge's dead-letter lists.

use std::io::Read;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::DeflateDecoder;
use serde::Deserialize;

use crate::flume::marker::Marker;
use crate::redis::{Address, Connection, Reply};

/// Letters that are asked for at once.
const PAGE: usize = 1000;
/// Enough of an inflated element to hold its marker.
const INFLATED_BYTES_MAX: u64 = 64 << 20;

/// A letter, as far as it matters here.
#[derive(Deserialize)]
struct Letter {
    element: Option<String>,
    element_base64: Option<String>,
}

/// The lists of dead letters that flume-bridge keeps for a queue: the letters, and the elements that are too large for one.
#[must_use]
pub fn lists_of(queue: &str) -> [String; 2] {
    // In a Redis cluster a queue with a hash tag of its own keeps it.
    let has_tag = queue.split_once('{').and_then(|(_, rest)| rest.find('}')).is_some_and(|end| end > 0);
    let tag = if has_tag { queue.to_owned() } else { format!("{{{queue}}}") };
    [format!("kiteq:{tag}:dead"), format!("kiteq:{tag}:dead:oversize")]
}

/// What a list holds.
#[derive(Debug, Default)]
pub struct Found {
    /// Of elements of this tool.
    pub markers: Vec<Marker>,
    /// Letters without one.
    pub unknown: u64,
}

impl Found {
    /// Reads all of a list. A list that is not there is empty.
    ///
    /// # Errors
    /// When the server is not there, or the key is no list.
    pub async fn read(&mut self, address: &Address, list: &str) -> anyhow::Result<()> {
        let mut connection = Connection::open(address).await?;
        for from in (0..).step_by(PAGE) {
            let (first, last) = (from.to_string(), (from + PAGE - 1).to_string());
            let command: [&[u8]; 4] = [b"LRANGE", list.as_bytes(), first.as_bytes(), last.as_bytes()];
            let what = || format!("cannot read {list} from Redis at {address}");
            let count = match connection.call(&command).await.with_context(what)? {
                Reply::Array(count) => count,
                other => bail!("{}: it answered {other:?}", what()),
            };
            for _ in 0..count {
                let Reply::Bulk(len) = connection.reply().await? else { bail!("{}: no string", what()) };
                match find(&connection.take(len).await?) {
                    Some(marker) => self.markers.push(marker),
                    None => self.unknown += 1,
                }
            }
            if count < PAGE {
                break;
            }
        }
        Ok(())
    }
}

/// The marker of the element that is this entry, or in it: as it is, within JSON, in base64, compressed.
fn find(entry: &[u8]) -> Option<Marker> {
    Marker::find(entry).or_else(|| {
        let letter = serde_json::from_slice::<Letter>(entry).ok();
        let element = match letter.map(|letter| (letter.element, letter.element_base64)) {
            Some((Some(text), _)) => text.into_bytes(),
            Some((None, Some(base64))) => STANDARD.decode(base64).ok()?,
            _ => entry.to_vec(),
        };
        Marker::find(&element).or_else(|| {
            let mut plain = Vec::new();
            // What could be inflated before an error may hold it.
            let _ = DeflateDecoder::new(&element[..]).take(INFLATED_BYTES_MAX).read_to_end(&mut plain);
            Marker::find(&plain)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flume::element::{ElementMaker, ElementShape};

    #[test]
    fn an_element_is_found_in_any_letter() {
        let marker = Marker { run_id: 3, sequence: 4, pushed_at_ns: 5, clock_tag: 6 };
        let shape = ElementShape {
            businesses: vec!["a".to_owned()],
            log_type: None,
            sizes: 250..=250,
            malformed: 0.0,
            unroutable: 0.0,
            compress: true,
        };
        let mut compressed = Vec::new();
        ElementMaker::new(shape.clone()).put(&mut compressed, marker);
        let mut plain = Vec::new();
        ElementMaker::new(ElementShape { compress: false, ..shape }).put(&mut plain, marker);
        let text = serde_json::json!({"reason": "x", "element": std::str::from_utf8(&plain).unwrap()});
        let base64 = serde_json::json!({"reason": "x", "element_base64": STANDARD.encode(&compressed)});
        for entry in [plain, compressed, text.to_string().into_bytes(), base64.to_string().into_bytes()] {
            assert_eq!(find(&entry), Some(marker), "{}", entry.escape_ascii());
        }
        assert_eq!(find(br#"{"reason":"x","element":"hello"}"#), None);
        assert_eq!(find(b""), None);
    }

    #[test]
    fn the_lists_of_a_queue_share_its_slot() {
        assert_eq!(lists_of("user-log")[0], "kiteq:{user-log}:dead");
        assert_eq!(lists_of("{a}:log")[1], "kiteq:{a}:log:dead:oversize");
    }
}
