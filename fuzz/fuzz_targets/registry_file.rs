//! A registry file is written by people: any text is either refused, with a reason, or offers what it says.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fuzz_target!(|text: &[u8]| {
    let path = DIRECTORY.path().join("registry.yaml");
    fs::write(&path, text).expect("a file");
    RUNTIME.block_on(async {
        match kiteq_registry::connect(&format!("file://{}", path.display())).await {
            Ok(registry) => {
                for topic in ["trade", "user-profile"] {
                    let bindings = registry.watch_bindings(topic).borrow().clone();
                    assert!(
                        bindings
                            .is_some_and(|bindings| bindings.iter().all(|binding| binding.topic == topic))
                    );
                    assert!(registry.watch_brokers(topic).borrow().is_some());
                }
                registry.close().await;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
});
