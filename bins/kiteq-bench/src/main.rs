//! Placeholder until its first slice lands.

fn main() {}
