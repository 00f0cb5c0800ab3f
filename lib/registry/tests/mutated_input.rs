//! What people and other clients write, with random damage: refused in words, or read as what it says. The fuzz targets
//! `binding` and `registry_file` look further for the same.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use kiteq_registry::Binding;

const SEEDS: u64 = 2_000;

const NODE: &str = r#"[{"groupId":"s-mts-test","topic":"trade","messageType":"pay-succ","bindType":0,"version":"1.0.0","watermark":1000,"persistent":true},{"groupId":"s-all","topic":"trade","messageType":"*","bindType":2}]"#;

const FILE: &str = r#"
brokers:
  - address: "localhost:13800"
    topics: ["trade", "feed"]
    env: "dev"
bindings:
  - groupIds: ["s-mts-test", "s-other"]
    topic: "trade"
    messageType: "^pay-"
    bindType: "regx"
    watermark: 1000
    persistent: true
"#;

/// Bytes that mean something in JSON and YAML, and some that mean nothing anywhere.
const PIECES: [&[u8]; 14] = [
    b"\"", b"{", b"}", b"[", b"]", b":", b",", b"-1", b"1e400", b"null", b"\n  - ", b"&a *a", b"\xff", b"\0",
];

fn mutated(text: &str, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..bytes.len());
        let end = (at + random.usize(..8)).min(bytes.len());
        let piece = PIECES[random.usize(..PIECES.len())];
        bytes.splice(at..end, piece.iter().copied());
    }
    bytes
}

#[test]
fn what_is_read_of_a_mutated_binding_node_can_be_written_and_read_again() {
    let mut read = 0;
    for seed in 0..SEEDS {
        let node = mutated(NODE, &mut fastrand::Rng::with_seed(seed));
        let Ok(bindings) = serde_json::from_slice::<Vec<Binding>>(&node) else { continue };
        read += 1;
        let written = serde_json::to_vec(&bindings).unwrap();
        assert_eq!(serde_json::from_slice::<Vec<Binding>>(&written).unwrap(), bindings, "seed {seed}");
    }
    assert!(read > 0, "no mutation left a node that can be read: the test shows nothing");
}

#[tokio::test]
async fn a_mutated_registry_file_is_refused_in_words_or_offers_bindings_of_the_topic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.yaml");
    let uri = format!("file://{}", path.display());
    let (mut read, mut refused) = (0, 0);
    for seed in 0..SEEDS / 10 {
        std::fs::write(&path, mutated(FILE, &mut fastrand::Rng::with_seed(seed))).unwrap();
        match kiteq_registry::connect(&uri).await {
            Ok(registry) => {
                read += 1;
                let bindings = registry.watch_bindings("trade").borrow().clone().expect("read at start");
                assert!(bindings.iter().all(|binding| binding.topic == "trade"), "seed {seed}");
                assert!(bindings.iter().all(|binding| binding.validate().is_ok()), "seed {seed}");
                registry.close().await;
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("registry.yaml"), "seed {seed}: {error}");
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused: the test shows one side only");
}
