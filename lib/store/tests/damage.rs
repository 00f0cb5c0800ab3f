//! Damaged logs: whatever happens to the bytes, what is found was once written, and the rest is still there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/damaged_log.rs"]
mod damaged_log;

use damaged_log::{Damage, check};

const SEEDS: u64 = 100;

#[test]
fn an_undamaged_log_is_found_whole() {
    check(&[]);
}

#[test]
fn damage_costs_no_more_than_what_it_hit() {
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let damages: Vec<Damage> = (0..random.usize(1..4))
            .map(|_| {
                let mut bytes = vec![0; random.usize(1..40)];
                random.fill(&mut bytes);
                Damage { at: random.u16(..), bytes }
            })
            .collect();
        let outcome = std::panic::catch_unwind(|| check(&damages));
        assert!(outcome.is_ok(), "seed {seed}: {damages:?}");
    }
}
