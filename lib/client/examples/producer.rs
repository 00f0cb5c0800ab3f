//! Publishes a few messages: `cargo run -p kiteq-client --example producer [REGISTRY-URI]`.

use std::error::Error;
use std::time::Duration;

use kiteq_client::{Client, Publish};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:13801".to_owned());
    let registry = kiteq_registry::connect(&uri).await?;
    let client = Client::builder(registry.clone(), "p-orders").topics(["trade"]).build().await?;
    client.ready(Duration::from_secs(10)).await?;

    // One message: when this returns, the broker has it.
    let paid = Publish::string("trade", "pay-succ", "order 1 is paid")
        .property("order", "1")
        .expires_in(Duration::from_secs(3600));
    let receipt = client.publish(paid).await?;
    println!("{} has {}", receipt.broker, receipt.id);

    // Many in flight: each submit returns as soon as the message is queued.
    let template = Publish::string("trade", "pay-succ", "").snappy();
    let mut waiting = Vec::new();
    for order in 2..=1000 {
        waiting.push(client.submit(template.with_body(format!("order {order} is paid"))).await?);
    }
    let mut again = 0;
    for submitted in waiting {
        match submitted.await {
            Ok(_) => {}
            Err(error) if error.is_retryable() => again += 1,
            Err(error) => return Err(error.into()),
        }
    }
    println!("999 more sent, {again} of them to be published again");

    client.close(Duration::from_secs(10)).await?;
    registry.close().await;
    Ok(())
}
