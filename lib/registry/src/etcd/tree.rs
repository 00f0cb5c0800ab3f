//! The keys that existing brokers and clients share, and the single operations on them.
//!
//! | key | kind | value |
//! |---|---|---|
//! | `/kiteq/server/{topic}/{host:port}` | leased | empty |
//! | `/kiteq/alive_servers/{host:port}` | leased | empty |
//! | `/kiteq/all_servers/{host:port}` | persistent | empty |
//! | `/kiteq/pub/{topic}/{group}/{host}` | persistent | empty |
//! | `/kiteq/sub/{topic}/{group}-bind` | persistent | JSON array of bindings |
//!
//! etcd has no directories: nothing stands for a topic without keys below it.

use tonic::{Code, Status};

use super::api::compare::{CompareResult, CompareTarget, TargetUnion};
use super::api::request_op::Request;
use super::api::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
};
use super::rpc::Rpc;

/// Keys that are written at a time: a server takes 128 operations by default.
const KEYS_AT_ONCE: usize = 64;
/// Keys that are read at a time, with values of up to a megabyte each, and without.
const PAGE_WITH_VALUES: i64 = 100;
const PAGE_OF_KEYS: i64 = 2_000;

/// What all keys of living brokers begin with.
pub(super) const ALIVE_SERVERS: &str = "/kiteq/alive_servers/";
pub(super) const ALL_SERVERS: &str = "/kiteq/all_servers/";

/// What all keys of a topic's brokers begin with.
pub(super) fn servers(topic: &str) -> String {
    format!("/kiteq/server/{topic}/")
}

pub(super) fn publisher(topic: &str, group: &str, host: &str) -> String {
    format!("/kiteq/pub/{topic}/{group}/{host}")
}

/// What all binding nodes of a topic begin with.
pub(super) fn subscribers(topic: &str) -> String {
    format!("/kiteq/sub/{topic}/")
}

/// The end of the range of all keys that begin with `prefix`, whose last byte is a slash.
pub(super) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// All keys that begin with a prefix, as they were at one revision.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) pairs: Vec<KeyValue>,
    pub(super) revision: i64,
}

/// Reads up to `keys_max` of the keys that begin with `prefix`, in their order.
pub(super) async fn read(
    rpc: &Rpc,
    prefix: &str,
    keys_only: bool,
    keys_max: usize,
) -> Result<Snapshot, Status> {
    let mut request = RangeRequest {
        key: prefix.as_bytes().to_vec(),
        range_end: range_end(prefix),
        limit: if keys_only { PAGE_OF_KEYS } else { PAGE_WITH_VALUES },
        revision: 0,
        keys_only,
    };
    let mut pairs: Vec<KeyValue> = Vec::new();
    loop {
        let page = match rpc.range(request.clone()).await {
            // The revision of the first page has been compacted meanwhile: they are read from the start.
            Err(status) if status.code() == Code::OutOfRange && request.revision != 0 => {
                request.revision = 0;
                request.key = prefix.as_bytes().to_vec();
                pairs.clear();
                continue;
            }
            page => page?,
        };
        if request.revision == 0 {
            request.revision = page.header.map_or(0, |header| header.revision);
        }
        pairs.extend(page.kvs);
        match pairs.last() {
            Some(last) if page.more && pairs.len() < keys_max => {
                request.key = [last.key.as_slice(), b"\0"].concat();
            }
            _ => break,
        }
    }
    pairs.truncate(keys_max);
    Ok(Snapshot { pairs, revision: request.revision })
}

/// Where the cluster stands, as a majority of it agrees; `None` where the caller may not read who lives.
pub(super) async fn history(rpc: &Rpc) -> Result<Option<ResponseHeader>, Status> {
    let request = RangeRequest {
        key: ALIVE_SERVERS.as_bytes().to_vec(),
        range_end: range_end(ALIVE_SERVERS),
        limit: 1,
        revision: 0,
        keys_only: true,
    };
    match rpc.range(request).await {
        Ok(answer) => Ok(answer.header),
        // Rights are looked at after the majority has been asked.
        Err(status) if status.code() == Code::PermissionDenied => Ok(None),
        Err(status) => Err(status),
    }
}

fn compare(key: &str, result: CompareResult, target: CompareTarget, union: TargetUnion) -> Compare {
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.as_bytes().to_vec(),
        target_union: Some(union),
    }
}

fn put(key: &str, value: &[u8], lease: i64) -> RequestOp {
    let put = PutRequest { key: key.as_bytes().to_vec(), value: value.to_vec(), lease };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

fn is_of(key: &str, lease: i64) -> Compare {
    compare(key, CompareResult::Equal, CompareTarget::Lease, TargetUnion::Lease(lease))
}

/// Writes empty keys that go with `lease`. Those that an earlier lease has left become this one's: they would vanish with
/// it. Keys that have it already are not written again, so that nobody is woken for nothing.
pub(super) async fn put_leased(rpc: &Rpc, keys: &[String], lease: i64) -> Result<(), Status> {
    for keys in keys.chunks(KEYS_AT_ONCE) {
        let compare = keys.iter().map(|key| is_of(key, lease)).collect();
        let failure = keys.iter().map(|key| put(key, b"", lease)).collect();
        rpc.txn(TxnRequest { compare, success: Vec::new(), failure }).await?;
    }
    Ok(())
}

/// Deletes a key if it goes with `lease`.
pub(super) async fn delete_leased(rpc: &Rpc, key: &str, lease: i64) -> Result<(), Status> {
    let delete = DeleteRangeRequest { key: key.as_bytes().to_vec() };
    let success = vec![RequestOp { request: Some(Request::RequestDeleteRange(delete)) }];
    rpc.txn(TxnRequest { compare: vec![is_of(key, lease)], success, failure: Vec::new() }).await
}

/// Writes a persistent key unless it is there.
pub(super) async fn make(rpc: &Rpc, key: &str) -> Result<(), Status> {
    let compare = vec![compare(key, CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(0))];
    rpc.txn(TxnRequest { compare, success: Vec::new(), failure: vec![put(key, b"", 0)] }).await
}

/// Gives a persistent key its value. What is there already is not written again.
pub(super) async fn write(rpc: &Rpc, key: &str, value: &[u8]) -> Result<(), Status> {
    let union = TargetUnion::Value(value.to_vec());
    let compare = vec![compare(key, CompareResult::Equal, CompareTarget::Value, union)];
    rpc.txn(TxnRequest { compare, success: Vec::new(), failure: vec![put(key, value, 0)] }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_is_below_a_prefix_and_nothing_else() {
        let (start, end) = (servers("trade"), range_end(&servers("trade")));
        let holds = |key: &str| key.as_bytes() >= start.as_bytes() && key.as_bytes() < end.as_slice();
        assert!(holds("/kiteq/server/trade/a:1") && holds("/kiteq/server/trade/\u{10ffff}"));
        for other in ["/kiteq/server/trade", "/kiteq/server/trade-2/a:1", "/kiteq/server/trad/a:1"] {
            assert!(!holds(other), "{other}");
        }
    }
}
