//! Bytes of a log are overwritten: what is found was once written, and damage costs no more than what it hit. The property is
//! that of lib/store/tests/damage.rs.

#![no_main]

#[path = "../../lib/store/tests/support/damaged_log.rs"]
mod damaged_log;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|damages: Vec<(u16, Vec<u8>)>| {
    let damages = damages.into_iter().take(8).filter(|(_, bytes)| !bytes.is_empty());
    let damages: Vec<_> = damages.map(|(at, bytes)| damaged_log::Damage { at, bytes }).collect();
    damaged_log::check(&damages);
});
