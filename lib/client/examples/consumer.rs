//! Prints what arrives until Ctrl-C: `cargo run -p kiteq-client --example consumer [REGISTRY-URI]`.

use std::error::Error;
use std::time::Duration;

use kiteq_client::{Bind, Client, Delivery, Nack};

/// Handles one message. `Ok` acks it; an error lets the broker deliver it again later.
async fn handle(delivery: Delivery) -> Result<(), Nack> {
    let Some(text) = delivery.text() else {
        return Err(Nack::new("not text"));
    };
    println!("{} {}/{}: {text}", delivery.id(), delivery.topic(), delivery.message_type());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let uri = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:13801".to_owned());
    let registry = kiteq_registry::connect(&uri).await?;
    let binds = [Bind::direct("trade", "pay-succ"), Bind::regx("trade", "^refund-").watermark(100)];
    let client =
        Client::builder(registry.clone(), "s-ledger").consume(binds, handle).concurrency(16).build().await?;

    tokio::signal::ctrl_c().await?;
    client.close(Duration::from_secs(10)).await?;
    registry.close().await;
    Ok(())
}
