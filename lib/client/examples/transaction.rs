//! Publishes with a local transaction: `cargo run -p kiteq-client --example transaction [REGISTRY-URI]`.

use std::collections::HashSet;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiteq_client::{Client, MessageId, Publish, TransactionError, TxCheck, Verdict};

/// Stands for the application's database: the ids of the messages whose orders have been written.
#[derive(Clone, Default)]
struct Orders(Arc<Mutex<HashSet<MessageId>>>);

impl Orders {
    async fn write(&self, id: MessageId, amount: i64) -> Result<(), String> {
        if amount <= 0 {
            return Err(format!("an order over {amount}"));
        }
        self.0.lock().map_err(|error| error.to_string())?.insert(id);
        Ok(())
    }

    fn contains(&self, id: MessageId) -> bool {
        self.0.lock().is_ok_and(|ids| ids.contains(&id))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:13801".to_owned());
    let registry = kiteq_registry::connect(&uri).await?;
    let orders = Orders::default();
    // Asked about the transactions of a process before this one, which only the database remembers.
    let check = {
        let orders = orders.clone();
        move |check: TxCheck| {
            let is_written = orders.contains(check.id());
            async move { if is_written { Verdict::Commit } else { Verdict::Rollback } }
        }
    };
    let client =
        Client::builder(registry.clone(), "p-orders").topics(["trade"]).on_check(check).build().await?;
    client.ready(Duration::from_secs(10)).await?;

    for amount in [100, -1] {
        let message = Publish::string("trade", "order-new", format!("an order over {amount}"));
        let write =
            async |transaction: kiteq_client::Transaction| orders.write(transaction.id(), amount).await;
        match client.transaction(message, write).await {
            Ok(()) => println!("{amount}: committed, the message is delivered"),
            Err(TransactionError::RolledBack(error)) => println!("{amount}: rolled back: {error}"),
            Err(error) => return Err(error.into()),
        }
    }

    client.close(Duration::from_secs(10)).await?;
    registry.close().await;
    Ok(())
}
