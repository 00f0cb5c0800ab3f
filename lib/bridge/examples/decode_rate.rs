//! What an element costs before it is sent: decoding it, and putting its event into a batch, beside what serde_json needs to skip it
//! and the standard library to see that it is UTF-8.
//!
//!     cargo run --release -p kiteq-bridge --example decode_rate
//!
//! Times are of the machine and the moment; ratios within a run can be compared.

#![allow(clippy::unwrap_used, reason = "a measurement ends when something fails")]

use std::hint::black_box;
use std::time::Instant;

use kiteq_bridge::{batch_elements, decode_elements};
use serde::de::IgnoredAny;

/// So many that a processor does not know them by heart.
const ELEMENTS: usize = 2000;
const ROUNDS: usize = 100;

fn main() {
    fastrand::seed(7);
    println!("nanoseconds per element, the best of {ROUNDS} rounds");
    println!(
        "{:10} {:>6} {:>6} {:>11} {:>7} {:>7}",
        "elements", "bytes", "UTF-8", "serde skips", "decode", "batch"
    );
    type Make = fn() -> String;
    let kinds: [(&str, Make); 5] = [
        ("location", location),
        ("spaced", || location().replace(',', ", ").replace(':', ": ")),
        ("pretty", || {
            let value: serde_json::Value = serde_json::from_str(&location()).unwrap();
            serde_json::to_string_pretty(&value).unwrap()
        }),
        ("escaped", || location().replace("\"ip\"", "\"url\":\"http:\\/\\/a.example\\/\\u964c\",\"ip\"")),
        ("bench", bench),
    ];
    for (name, make) in kinds {
        measure(name, make);
    }
}

fn measure(name: &str, make: fn() -> String) {
    let elements: Vec<_> = (0..ELEMENTS).map(|_| make().into_bytes()).collect();
    let bytes = elements.iter().map(Vec::len).sum::<usize>();
    let each = |is_sound: fn(&[u8]) -> bool| {
        move |all: &[Vec<u8>]| all.iter().filter(|bytes| is_sound(bytes)).count()
    };
    let utf8 = best(&elements, each(|bytes| std::str::from_utf8(black_box(bytes)).is_ok()));
    let skip = best(&elements, each(|bytes| serde_json::from_slice::<IgnoredAny>(black_box(bytes)).is_ok()));
    let decode = best(&elements, decode_elements);
    let batch = best(&elements, |all| batch_elements(all, 2 * bytes));
    let bytes = bytes / ELEMENTS;
    println!("{name:10} {bytes:6} {utf8:6.1} {skip:11.1} {decode:7.1} {batch:7.1}");
}

/// Nanoseconds per element that `work` takes at best.
fn best(elements: &[Vec<u8>], work: impl Fn(&[Vec<u8>]) -> usize) -> f64 {
    let round = || {
        let begun = Instant::now();
        assert_eq!(work(black_box(elements)), elements.len());
        begun.elapsed().as_nanos() as f64 / elements.len() as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// The element of the format, with other numbers in it.
fn location() -> String {
    let number =
        |digits: std::ops::RangeInclusive<u32>| 10_u64.pow(fastrand::u32(digits)) + fastrand::u64(..9);
    let place = |whole: u32| {
        format!("{}.{}", fastrand::u32(..whole), fastrand::u64(..10_u64.pow(fastrand::u32(9..=13))))
    };
    let ip = [(); 4].map(|()| fastrand::u8(..).to_string()).join(".");
    format!(
        "{{\"action\":\"location\",\"params\":{{\"momoid\":\"{}\",\"businessName\":\"location\",\"type\":\"{}\",\
         \"log_type\":{},\"body\":{{\"lat\":{},\"lng\":{},\"acc\":{},\"ip\":\"{ip}\",\"loctype\":{},\"timestamp\":{}}}}}}}",
        number(3..=8),
        ["update", "add", "remove"][fastrand::usize(..3)],
        fastrand::u8(..10),
        place(90),
        place(180),
        number(0..=3),
        fastrand::u8(..3),
        number(9..=9),
    )
}

/// As the load tool makes them.
fn bench() -> String {
    let mut body = format!(
        "\"bench\":\"kbench:{:016x}:{:012x}:{:016x}:{:08x}\",\"lat\":39.996176990443,\"lng\":116.47478272276,\"acc\":65,\"pad\":\"",
        7,
        fastrand::u32(..),
        fastrand::u64(..),
        9,
    );
    body.extend((0..fastrand::usize(1..40)).map(|_| fastrand::lowercase()));
    format!(
        "{{\"action\":\"location\",\"params\":{{\"momoid\":\"100777\",\"businessName\":\"location\",\"type\":\"update\",\
         \"log_type\":3,\"body\":{{{body}\"}}}}}}"
    )
}
