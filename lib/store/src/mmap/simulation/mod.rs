//! The log against a disk that fails in every way, thousands of times.
//!
//! Every run follows from its seed: `KITEQ_SIM_SEED=7 cargo test -p kiteq-store simulation` replays run 7, and
//! `KITEQ_SIM_SEEDS=100000` makes so many runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod disk;
mod model;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::World;

const SEEDS: u64 = 2500;
const STEPS: u32 = 150;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn what_was_promised_survives_every_crash() {
    if let Some(seed) = number_from("KITEQ_SIM_SEED") {
        return World::new(seed).run(STEPS);
    }
    let seeds = number_from("KITEQ_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| World::new(seed).run(STEPS))).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seed = failed.into_inner();
    assert!(seed == u64::MAX, "seed {seed} failed; replay it with KITEQ_SIM_SEED={seed}");
}
