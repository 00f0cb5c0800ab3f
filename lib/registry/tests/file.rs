//! The file registry: what it takes, what it refuses, and what it keeps when the file goes bad.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiteq_registry::{Binding, BrokerRecord, FileRegistry, Registry, RegistryError, connect};
use support::Log;
use support::{eventually, until};

const GOOD: &str = r#"
brokers:
  - address: "localhost:13800"
    topics: ["trade", "feed"]
    env: "dev"
  - address: "localhost:13801"
    topics: ["trade"]
    env: "pre"
bindings:
  - groupIds: ["s-pay"]
    topic: "trade"
    messageType: "pay"
    bindType: "direct"
    watermark: 10
    persistent: true
"#;

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
    registry: Arc<FileRegistry>,
}

impl Fixture {
    async fn open(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.yaml");
        std::fs::write(&path, text).unwrap();
        let registry = FileRegistry::open(&path, None).await.unwrap();
        Self { _directory: directory, path, registry }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }
}

fn addresses(registry: &dyn Registry) -> Vec<String> {
    registry.watch_brokers("trade").borrow().as_deref().unwrap().to_vec()
}

#[tokio::test]
async fn a_file_that_cannot_be_used_at_the_start_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.yaml");
    let error = FileRegistry::open(&missing, None).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Unavailable { place, .. } if place.contains("missing.yaml")),
        "{error}"
    );
    let error = FileRegistry::open(directory.path(), None).await.unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");

    let path = directory.path().join("wrong.yaml");
    for (content, part) in [
        (b"brokers:\n  - adress: a:1\n".as_slice(), "the nearest known one is \"address\" at line 2"),
        (b"brokers: [".as_slice(), "line"),
        (b"\xff\xfe".as_slice(), "utf-8"),
        (&vec![b'#'; (4 << 20) + 1], "larger than"),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = FileRegistry::open(&path, None).await.unwrap_err();
        assert!(matches!(&error, RegistryError::Content { .. }), "{error:?}");
        assert!(error.to_string().contains(part) && error.to_string().contains("wrong.yaml"), "{error}");
    }
}

#[tokio::test]
async fn the_environment_of_the_uri_selects_the_brokers() {
    let fixture = Fixture::open(GOOD).await;
    assert_eq!(addresses(fixture.registry.as_ref()), ["localhost:13800", "localhost:13801"]);
    let uri = format!("file://{}?env=pre", fixture.path.display());
    let registry = connect(&uri).await.unwrap();
    assert_eq!(addresses(registry.as_ref()), ["localhost:13801"]);
    assert_eq!(registry.describe(), uri);
}

#[tokio::test]
async fn a_file_that_goes_bad_is_logged_once_and_changes_nothing_until_it_is_mended() {
    let (log, _guard) = Log::capture();
    let fixture = Fixture::open(GOOD).await;
    let mut brokers = fixture.registry.watch_brokers("trade");
    let mut bindings = fixture.registry.watch_bindings("trade");
    for (text, part) in [
        ("brokers: [", "line"),
        (
            "brokers:\n  - {address: \"a:1\", topics: []}\n  - {address: \"a:1\", topics: []}\n",
            "brokers[0] already",
        ),
        ("bindings:\n  - {groupIds: [g], topic: t, bindType: fan}\n", "not \"fan\""),
    ] {
        fixture.write(text);
        eventually("the error is logged", async || (log.count(part) == 1).then_some(())).await;
        assert_eq!(brokers.borrow_and_update().as_deref().unwrap().len(), 2);
        assert_eq!(bindings.borrow_and_update().as_deref().unwrap().len(), 1);
    }
    std::fs::remove_file(&fixture.path).unwrap();
    eventually("the loss is logged", async || (log.count("No such file") == 1).then_some(())).await;
    assert_eq!(log.count("not usable"), 4, "each cause once: {}", log.text());

    fixture.write("brokers:\n  - {address: \"localhost:1\", topics: [trade]}\n");
    until(&mut brokers, "the mended file", |seen| seen == ["localhost:1".to_owned()]).await;
    until(&mut bindings, "no bindings in it", <[_]>::is_empty).await;
}

#[tokio::test]
async fn the_same_content_after_a_failure_is_taken_again() {
    let (log, _guard) = Log::capture();
    let fixture = Fixture::open(GOOD).await;
    std::fs::remove_file(&fixture.path).unwrap();
    eventually("the loss is logged", async || (log.count("not usable") == 1).then_some(())).await;
    fixture.write(GOOD);
    eventually("the return is logged", async || (log.count("registry file read") == 1).then_some(())).await;
    assert_eq!(addresses(fixture.registry.as_ref()).len(), 2);
}

#[tokio::test]
async fn what_the_file_lacks_is_logged_and_not_published() {
    let (log, _guard) = Log::capture();
    let fixture = Fixture::open(GOOD).await;
    let known = Binding::direct("s-pay", "trade", "pay", 10, true);
    fixture.registry.publish_bindings("s-pay", std::slice::from_ref(&known)).await.unwrap();
    assert_eq!(log.count("what the file says"), 0, "{}", log.text());

    let unknown = Binding::fanout("s-other", "trade", 0, true);
    for _ in 0..2 {
        fixture.registry.publish_bindings("s-other", std::slice::from_ref(&unknown)).await.unwrap();
    }
    assert_eq!(log.count("what the file says"), 1, "{}", log.text());
    assert_eq!(fixture.registry.watch_bindings("trade").borrow().as_deref(), Some([known].as_slice()));
}

#[tokio::test]
async fn a_broker_that_the_file_does_not_know_is_told_so() {
    let (log, _guard) = Log::capture();
    let fixture = Fixture::open(GOOD).await;
    let broker = |address: &str, topics: &[&str]| BrokerRecord {
        address: address.to_owned(),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
    };
    fixture.registry.register_broker(broker("localhost:13800", &["trade", "feed"])).await.unwrap();
    fixture.registry.register_broker(broker("localhost:13801", &["*"])).await.unwrap();
    assert_eq!(log.text(), "");
    fixture.registry.register_broker(broker("localhost:9", &["trade"])).await.unwrap();
    assert_eq!(log.count("does not list this broker"), 1, "{}", log.text());
    fixture.registry.register_broker(broker("localhost:13800", &["trade"])).await.unwrap();
    assert_eq!(log.count("topics that it does not serve"), 1, "{}", log.text());
}

#[tokio::test]
async fn a_relative_path_is_read_too() {
    let error = connect("file://./does-not-exist.yaml").await.err().unwrap();
    assert!(error.to_string().contains(&Path::new("./does-not-exist.yaml").display().to_string()), "{error}");
}
