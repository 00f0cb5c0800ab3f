//! What an application links to publish to KiteQ and to consume from it.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use kiteq_client::{Bind, Client, Delivery, Nack, Publish};
//! # async fn example(registry: Arc<dyn kiteq_registry::Registry>) -> Result<(), Box<dyn std::error::Error>> {
//! let producer = Client::builder(Arc::clone(&registry), "p-orders").topics(["trade"]).build().await?;
//! let receipt = producer.publish(Publish::string("trade", "pay-succ", "order 17 is paid")).await?;
//! println!("{} has {}", receipt.broker, receipt.id);
//!
//! let consumer = Client::builder(registry, "s-ledger")
//!     .consume([Bind::direct("trade", "pay-succ")], async |delivery: Delivery| {
//!         println!("{}", delivery.text().unwrap_or("not text"));
//!         Ok::<(), Nack>(())
//!     })
//!     .build()
//!     .await?;
//! consumer.close(Duration::from_secs(10)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! * A [`Receipt`] is a broker's promise to deliver the message at least once to every group bound to it. Without one,
//!   [`PublishError`] says whether publishing again is safe and whether it is sensible.
//! * A message is acked to the broker when its [`Handler`] has returned `Ok`, and only then. It can come more than once.
//! * Everything has a bound: what waits for acks ([`ClientBuilder::window`]), what waits for the handler
//!   ([`ClientBuilder::backlog`]), handlers at once ([`ClientBuilder::concurrency`]), remembered transactions. At the bound
//!   the caller waits, or the socket is not read.
//! * Brokers and registry may come and go. The client follows the registry, reconnects with growing, jittered waits, and
//!   sends again under the same id what a broken connection took with it.
//!
//! It speaks to this project's broker and to existing ones alike.

mod builder;
mod client;
mod close;
mod consumer;
mod delivery;
mod discovery;
mod encode;
mod error;
mod id;
mod in_flight;
mod link;
mod panics;
mod publish;
mod reconnect;
mod route;
mod session;
mod settings;
mod shared;
mod slots;
mod snappy;
mod sync;
mod transaction;

pub use builder::{Bind, ClientBuilder};
pub use client::Client;
pub use delivery::{Delivery, Handler, Nack};
pub use error::{BuildError, CloseError, NotReady, PublishError, Refusal, TransactionError};
pub use in_flight::Submitted;
pub use kiteq_protocol::{Framing, MessageId, MessageKind};
pub use publish::{Publish, Receipt};
pub use transaction::{CheckHandler, Transaction, TxCheck, Verdict};
