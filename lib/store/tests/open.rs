//! Which URIs open a store, and what is said about the others.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

fn refused(uri: &str) -> String {
    match kiteq_store::open(uri) {
        Ok(store) => panic!("{uri} opened {}", store.describe()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_uris_of_existing_configurations_open() {
    for uri in ["memory://.?initcap=10000000&maxcap=2000000", "memory://", "mock://kiteq", "mock://"] {
        kiteq_store::open(uri).unwrap().health().unwrap();
    }
}

#[test]
fn a_retired_backend_names_its_replacement() {
    assert!(refused("rocksdb://./db/").contains("mmap://./db/"));
}

#[test]
fn a_store_that_brokers_share_needs_a_name() {
    let refused = refused("mysql://master:3306?db=kite&username=root&password=hunter2");
    assert!(refused.contains("under the name of one") && !refused.contains("hunter2"), "{refused}");
    kiteq_store::check("mysql://master:3306,slave:3306?db=kite&username=root&password=root").unwrap();
}

#[test]
fn a_typing_error_is_an_error_that_names_the_nearest_word() {
    assert!(refused("memroy://").contains("did you mean \"memory\"?"));
    assert!(refused("memory://?maxcaps=5").contains("did you mean \"maxcap\"?"));
    assert!(refused("memory://?maxcap=many").contains("maxcap=many"));
    assert!(refused("memory://?maxcap=0").contains("maxcap=0"));
    assert!(refused("/var/lib/kiteq").contains("mmap:///var/lib/kiteq"));
}
