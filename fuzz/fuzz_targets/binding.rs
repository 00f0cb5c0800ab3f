//! Binding nodes are written by other people's clients: any bytes are either refused or bindings that survive a round trip.

#![no_main]

use kiteq_registry::Binding;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|node: &[u8]| {
    let Ok(bindings) = serde_json::from_slice::<Vec<Binding>>(node) else { return };
    for binding in &bindings {
        let _ = binding.validate();
    }
    let Ok(written) = serde_json::to_vec(&bindings) else { panic!("a binding cannot be written") };
    match serde_json::from_slice::<Vec<Binding>>(&written) {
        Ok(read_back) => assert_eq!(read_back, bindings),
        Err(error) => panic!("a written binding is refused: {error}"),
    }
});
