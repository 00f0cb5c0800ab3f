//! Elements as applications push them, and some that no bridge can make an event of.

use std::ops::RangeInclusive;

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::flume::marker::Marker;

/// What elements are like.
#[derive(Debug, Clone)]
pub struct ElementShape {
    /// Names of businesses, in turn.
    pub businesses: Vec<String>,
    /// Their log type.
    pub log_type: Option<u32>,
    /// Their length before compression; a shorter one than an element needs makes the shortest element.
    pub sizes: RangeInclusive<usize>,
    /// The share that cannot be parsed.
    pub malformed: f64,
    /// The share whose business nobody routes.
    pub unroutable: f64,
    /// As raw DEFLATE.
    pub compress: bool,
}

/// What becomes of an element in a bridge that routes the businesses of its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// An event.
    Event,
    /// A dead letter.
    DeadLetter,
}

/// Makes elements.
#[derive(Debug)]
pub struct ElementMaker {
    shape: ElementShape,
    filler: Vec<u8>,
    plain: Vec<u8>,
    /// Kept, because its tables cost more than an element does.
    compress: Compress,
}

/// A business that is in nobody's configuration.
const NOWHERE: &str = "kiteq-bench-nowhere";

/// In how many ways an element can be malformed.
const MALFORMATIONS: u64 = 6;

impl ElementMaker {
    /// A maker of elements of this shape.
    #[must_use]
    pub fn new(shape: ElementShape) -> Self {
        // Letters that compress as text does, and without the one that a marker begins with.
        let letter = |_| b"etaoinshrdlucmfwypvbgqxz"[fastrand::usize(..24).min(fastrand::usize(..24))];
        let filler = (0..64 * 1024).map(letter).collect();
        Self { shape, filler, plain: Vec::new(), compress: Compress::new(Compression::fast(), false) }
    }

    /// Appends an element to `out`, and says what is to become of it.
    pub fn put(&mut self, out: &mut Vec<u8>, marker: Marker) -> Fate {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let fate = self.put_plain(&mut plain, marker);
        if self.shape.compress {
            deflate(&mut self.compress, &plain, out);
        } else {
            out.extend_from_slice(&plain);
        }
        self.plain = plain;
        fate
    }

    fn put_plain(&self, out: &mut Vec<u8>, marker: Marker) -> Fate {
        let draw = if self.shape.malformed + self.shape.unroutable > 0.0 { fastrand::f64() } else { 1.0 };
        if draw < self.shape.malformed {
            put_malformed(out, marker);
            return Fate::DeadLetter;
        }
        let is_lost = draw < self.shape.malformed + self.shape.unroutable;
        let businesses = &self.shape.businesses;
        let business =
            if is_lost { NOWHERE } else { &businesses[(marker.sequence % businesses.len() as u64) as usize] };
        for part in
            [br#"{"action":""#, business.as_bytes(), br#"","params":{"momoid":"100777","businessName":""#]
        {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(business.as_bytes());
        out.extend_from_slice(br#"","type":"update""#);
        if let Some(log_type) = self.shape.log_type {
            out.extend_from_slice(br#","log_type":"#);
            out.extend_from_slice(log_type.to_string().as_bytes());
        }
        out.extend_from_slice(br#","body":{"bench":""#);
        marker.put(out);
        out.extend_from_slice(br#"","lat":39.996176990443,"lng":116.47478272276,"acc":65"#);
        self.put_filler(out);
        out.extend_from_slice(b"}}}");
        if is_lost { Fate::DeadLetter } else { Fate::Event }
    }

    /// Brings the element to its length.
    fn put_filler(&self, out: &mut Vec<u8>) {
        const NAME: &[u8] = br#","pad":""#;
        /// The filler's closing quote and the three closing braces.
        const REST: usize = 4;
        let (min, max) = (*self.shape.sizes.start(), *self.shape.sizes.end());
        let size = if min == max { min } else { fastrand::usize(min..=max) };
        let Some(mut left) = size.checked_sub(out.len() + NAME.len() + REST) else { return };
        out.extend_from_slice(NAME);
        while left > 0 {
            let part = left.min(self.filler.len());
            let from = fastrand::usize(..=self.filler.len() - part);
            out.extend_from_slice(&self.filler[from..from + part]);
            left -= part;
        }
        out.push(b'"');
    }
}

/// One that breaks in one way or another, its marker in sight.
fn put_malformed(out: &mut Vec<u8>, marker: Marker) {
    let (before, after): (&[u8], &[u8]) = match marker.sequence % MALFORMATIONS {
        0 => (br#"{"action":"location","params":{"momoid":""#, b""),
        1 => (br#"["#, br#"]"#),
        2 => (br#"{"action":"a","params":{"businessName":"location","type":"update","body":{"bench":""#, br#""}}}"#),
        3 => (br#"{"action":"a","params":{"momoid":7,"businessName":"location","type":"update","body":{"bench":""#, br#""}}}"#),
        4 => (br#"{"action":"a","params":{"momoid":"1","businessName":"location","type":"update","body":""#, br#""}}"#),
        _ => (b"{\"action\":\"a\xff\xfe", b"\"}"),
    };
    out.extend_from_slice(before);
    marker.put(out);
    out.extend_from_slice(after);
}

/// Appends `plain` as one raw DEFLATE stream.
fn deflate(compress: &mut Compress, plain: &[u8], out: &mut Vec<u8>) {
    /// What a stream has beside its data when nothing can be saved; longer ones take another round.
    const OVERHEAD_BYTES: usize = 64;
    compress.reset();
    loop {
        let rest = &plain[compress.total_in() as usize..];
        out.reserve(rest.len() + OVERHEAD_BYTES);
        match compress.compress_vec(rest, out, FlushCompress::Finish) {
            Ok(Status::Ok | Status::BufError) => {}
            // Compression has no other error than misuse of its stream, which begins anew for each element.
            Ok(Status::StreamEnd) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use flate2::read::DeflateDecoder;
    use serde_json::Value;

    fn shape() -> ElementShape {
        ElementShape {
            businesses: vec!["location".to_owned(), "feed".to_owned()],
            log_type: Some(3),
            sizes: 250..=250,
            malformed: 0.0,
            unroutable: 0.0,
            compress: false,
        }
    }

    fn marker(sequence: u64) -> Marker {
        Marker { run_id: 5, sequence, pushed_at_ns: 9, clock_tag: 1 }
    }

    fn element(shape: ElementShape, sequence: u64) -> (Vec<u8>, Fate) {
        let mut out = Vec::new();
        let fate = ElementMaker::new(shape).put(&mut out, marker(sequence));
        (out, fate)
    }

    #[test]
    fn an_element_is_what_a_bridge_expects() {
        for (sequence, business) in [(0, "location"), (1, "feed"), (2, "location")] {
            let (bytes, fate) = element(shape(), sequence);
            let json: Value = serde_json::from_slice(&bytes).unwrap();
            let params = &json["params"];
            assert_eq!(
                (params["businessName"].as_str(), params["log_type"].as_u64()),
                (Some(business), Some(3))
            );
            assert!(params["momoid"].is_string() && params["type"].is_string() && params["body"].is_object());
            assert_eq!(Marker::find(&bytes), Some(marker(sequence)));
            assert_eq!(fate, Fate::Event);
        }
        let without = element(ElementShape { log_type: None, ..shape() }, 0).0;
        assert!(serde_json::from_slice::<Value>(&without).unwrap()["params"].get("log_type").is_none());
    }

    #[test]
    fn an_element_has_the_length_that_was_asked_for() {
        assert_eq!(element(shape(), 0).0.len(), 250);
        assert_eq!(element(ElementShape { sizes: 300_000..=300_000, ..shape() }, 0).0.len(), 300_000);
        let some = element(ElementShape { sizes: 1000..=1010, ..shape() }, 0).0.len();
        assert!((1000..=1010).contains(&some), "{some}");
        let least = element(ElementShape { sizes: 1..=1, ..shape() }, 0).0;
        serde_json::from_slice::<Value>(&least).unwrap();
    }

    #[test]
    fn compressed_elements_are_raw_deflate() {
        let mut maker = ElementMaker::new(ElementShape { compress: true, sizes: 250..=100_000, ..shape() });
        for sequence in 0..20 {
            let (mut bytes, mut plain) = (Vec::new(), Vec::new());
            maker.put(&mut bytes, marker(sequence));
            let mut decoder = DeflateDecoder::new(&bytes[..]);
            decoder.read_to_end(&mut plain).unwrap();
            assert_eq!(decoder.total_in(), bytes.len() as u64);
            assert!(serde_json::from_slice::<Value>(&plain).is_ok());
            assert_eq!(Marker::find(&plain), Some(marker(sequence)));
        }
    }

    #[test]
    fn every_malformed_element_is_malformed_and_carries_its_marker() {
        for sequence in 0..MALFORMATIONS {
            let (bytes, fate) = element(ElementShape { malformed: 1.0, ..shape() }, sequence);
            assert_eq!((fate, Marker::find(&bytes)), (Fate::DeadLetter, Some(marker(sequence))));
            let is_good = serde_json::from_slice::<Value>(&bytes).is_ok_and(|json| {
                let params = &json["params"];
                params["momoid"].is_string() && params["body"].is_object()
            });
            assert!(!is_good, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_unroutable_element_is_sound_and_goes_nowhere() {
        let (bytes, fate) = element(ElementShape { unroutable: 1.0, ..shape() }, 0);
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["params"]["businessName"], NOWHERE);
        assert_eq!(fate, Fate::DeadLetter);
    }
}
