//! Consuming: what is acked, what is nacked, and what bounds it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiteq_client::{Bind, Delivery, Nack, Publish};
use kiteq_registry::BindType;
use support::{FakeBroker, TestRegistry, client_of, header, soon};
use tokio::sync::Semaphore;

#[tokio::test]
async fn bindings_are_published_and_a_handled_message_is_acked() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let binds = [Bind::direct("trade", "pay-succ").watermark(100), Bind::fanout("trade").persistent(false)];
    let (seen, mut handled) = tokio::sync::mpsc::channel::<Delivery>(8);
    let handler = move |delivery: Delivery| {
        let seen = seen.clone();
        async move {
            seen.send(delivery).await.map_err(|_| Nack::new("gone"))?;
            Ok(())
        }
    };
    let _client = client_of(&registry, "s-ledger").consume(binds, handler).build().await.unwrap();
    let mut connection = broker.accept().await;
    {
        let published = registry.published.lock().unwrap();
        assert_eq!(published.len(), 2);
        assert!(published.iter().all(|binding| binding.group_id == "s-ledger"));
        assert_eq!((published[0].bind_type, published[0].watermark), (BindType::Direct, 100));
        assert_eq!((published[1].message_type.as_str(), published[1].persistent), ("*", false));
    }
    let mut sent = header(1);
    sent.properties.push(kiteq_protocol::pb::Entry { key: "trace".into(), value: "17".into() });
    connection.deliver(9, sent.clone(), b"echo").await;
    let delivery = soon("a delivery", handled.recv()).await.unwrap();
    assert_eq!(delivery.id().to_string(), sent.message_id);
    assert_eq!((delivery.topic(), delivery.message_type()), ("trade", "pay-succ"));
    assert_eq!((delivery.text(), delivery.publish_group()), (Some("echo"), "p-orders"));
    assert_eq!((delivery.property("trace"), delivery.property("none")), (Some("17"), None));
    let (opaque, ack) = connection.delivered().await;
    assert_eq!((opaque, ack.status), (9, true));
    assert_eq!((ack.message_id, ack.group_id.as_str()), (sent.message_id, "s-ledger"));
}

#[tokio::test]
async fn an_error_and_a_panic_are_nacks_and_the_next_message_is_handled() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let handler = async |delivery: Delivery| {
        match delivery.text() {
            Some("panic") => panic!("on purpose"),
            Some("panic later") => {
                tokio::task::yield_now().await;
                panic!("on purpose")
            }
            Some(number) => number.parse::<u32>()?,
            None => return Err(Nack::new("not text")),
        };
        Ok(())
    };
    let binds = [Bind::fanout("trade")];
    let _client = client_of(&registry, "s").consume(binds, handler).build().await.unwrap();
    let mut connection = broker.accept().await;
    for (opaque, body, status, feedback) in [
        (1, "panic", false, "panicked"),
        (2, "seventeen", false, "invalid digit"),
        (3, "panic later", false, "panicked"),
        (4, "17", true, ""),
    ] {
        connection.deliver_string(opaque, header(1), body).await;
        let (answered, ack) = connection.delivered().await;
        assert_eq!((answered, ack.status), (opaque, status), "{body}");
        assert!(ack.feedback.unwrap().contains(feedback), "{body}");
    }
}

#[tokio::test]
async fn no_more_handlers_run_than_allowed_and_the_rest_waits() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, started) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
        move |_delivery: Delivery| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                started.add_permits(1);
                gate.acquire().await?.forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<(), Nack>(())
            }
        }
    };
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let _client = client.concurrency(3).backlog(4).build().await.unwrap();
    let mut connection = broker.accept().await;
    for opaque in 1..=20 {
        connection.deliver(opaque, header(1), b"").await;
    }
    soon("three handlers", started.acquire_many(3)).await.unwrap().forget();
    connection.assert_silent().await;
    assert_eq!(running.load(Ordering::SeqCst), 3);
    gate.add_permits(20);
    for _ in 0..20 {
        assert!(connection.delivered().await.1.status);
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_handler_can_publish_while_every_handler_waits_for_an_ack() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let handle: Arc<tokio::sync::OnceCell<kiteq_client::Client>> = Arc::default();
    let handler = {
        let handle = Arc::clone(&handle);
        move |_delivery: Delivery| {
            let client = handle.get().unwrap().clone();
            async move {
                client.publish(Publish::bytes("trade", "forwarded", "x")).await?;
                Ok(())
            }
        }
    };
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let client = client.concurrency(2).build().await.unwrap();
    handle.set(client).unwrap();
    let mut connection = broker.accept().await;
    for opaque in 1..=6 {
        connection.deliver(opaque, header(1), b"").await;
    }
    let mut acks = 0;
    while acks < 6 {
        let frame = connection.next().await.unwrap();
        match kiteq_protocol::Command::from_byte(frame.cmd).unwrap() {
            kiteq_protocol::Command::BytesMessage => {
                let mut buf = bytes::BytesMut::new();
                kiteq_protocol::reply::put_store_ack(
                    &mut buf,
                    connection.dialect(),
                    frame.opaque,
                    b"",
                    true,
                    "",
                );
                connection.raw(&buf).await;
            }
            kiteq_protocol::Command::DeliverAck => acks += 1,
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_answer_never_goes_over_another_connection_than_its_delivery() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |_delivery: Delivery| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await?.forget();
                Ok::<(), Nack>(())
            }
        }
    };
    let _client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler).build().await.unwrap();
    let mut first = broker.accept().await;
    first.deliver(1, header(1), b"").await;
    drop(first);
    let mut second = broker.accept().await;
    gate.add_permits(1);
    second.assert_silent().await;
    second.deliver(2, header(2), b"").await;
    gate.add_permits(1);
    assert_eq!(second.delivered().await.0, 2);
}
