//! What Redis gives at best: `LPOP queue N`, several ahead, and nothing done with the elements.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::clock::now_ns;
use crate::counters::Counters;
use crate::redis::connection::put_command;
use crate::redis::{Address, Connection, Reply};

/// How to drain.
#[derive(Debug, Clone)]
pub struct DrainPlan {
    /// The list.
    pub queue: String,
    /// Elements of one command.
    pub per_command: usize,
    /// Commands that are sent ahead of their answers.
    pub ahead: usize,
}

/// Takes elements until the list is empty or `stop`; what it takes is gone.
///
/// # Errors
/// When the server is not there, or the key is no list.
pub async fn drain(
    address: Address,
    plan: DrainPlan,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(&address).await?;
    let mut command = Vec::new();
    put_command(&mut command, &[b"LPOP", plan.queue.as_bytes(), plan.per_command.to_string().as_bytes()]);
    let what = || format!("cannot pop from {} of Redis at {address}", plan.queue);
    connection.send(&command.repeat(plan.ahead)).await.with_context(what)?;
    let (mut ahead, mut is_over) = (plan.ahead, false);
    // What was asked for is taken, whether or not it is to go on: it is gone from Redis.
    while ahead > 0 {
        match connection.reply().await.with_context(what)? {
            Reply::Nil | Reply::Array(0) => is_over = true,
            Reply::Array(count) => pass(&mut connection, count, &counters).await.with_context(what)?,
            other => bail!("{}: it answered {other:?}", what()),
        }
        is_over |= stop.is_cancelled();
        if is_over {
            ahead -= 1;
        } else {
            connection.send(&command).await.with_context(what)?;
        }
    }
    Ok(())
}

async fn pass(connection: &mut Connection, count: usize, counters: &Counters) -> anyhow::Result<()> {
    let mut bytes = 0;
    for _ in 0..count {
        let Reply::Bulk(len) = connection.reply().await? else { bail!("an element is no string") };
        connection.skip(len).await?;
        bytes += len as u64;
    }
    Counters::add(&counters.delivered, count as u64);
    Counters::add(&counters.delivered_bytes, bytes);
    counters.last_delivery_ns.store(now_ns(), Relaxed);
    Ok(())
}
