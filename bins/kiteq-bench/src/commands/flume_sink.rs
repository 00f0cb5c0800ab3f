//! `kiteq-bench flume-sink`

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use kiteq_flume::{Server, ServerOptions, TlsServerFiles, TlsServerOptions};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cli::bridge::{FaultArgs, FlumeSinkArgs, SinkEndArgs};
use crate::clock::now_ns;
use crate::commands::Verdict;
use crate::commands::bridge_run::{TICK, publish};
use crate::flume::books::Books;
use crate::flume::faults::{FaultPlan, Faults};
use crate::flume::journal::{self, Journal};
use crate::flume::registration::Registration;
use crate::flume::sink::Sink;
use crate::format::{Table, count};
use crate::load::MIB;
use crate::progress::Progress;
use crate::report::{Flow, flows_table};
use crate::signals::Signals;

/// What a sink took.
#[derive(Debug, Serialize)]
pub struct SinkReport {
    /// Where it listened.
    pub address: String,
    /// How it went, from the first batch to the last.
    pub flows: Vec<Flow>,
    /// Batches that were taken.
    pub batches: u64,
    /// Batches that met a fault.
    pub faults: u64,
    /// Different elements, those of an earlier ledger included.
    pub received: u64,
    /// Receipts beyond an element's first.
    pub duplicates: u64,
    /// Events that redis-fill did not make.
    pub foreign: u64,
    /// Events by the header `businessName`.
    pub businesses: BTreeMap<String, u64>,
}

impl fmt::Display for SinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", flows_table(&self.flows))?;
        if self.businesses.len() > 1 {
            let mut table = Table::new(&["business", "events"]);
            for (business, events) in &self.businesses {
                table.row([business.clone(), count(*events)]);
            }
            write!(f, "\n{table}")?;
        }
        writeln!(
            f,
            "\nbatches {}, met by a fault {}; different elements {}, came again {}, events of others {}",
            count(self.batches),
            count(self.faults),
            count(self.received),
            count(self.duplicates),
            count(self.foreign)
        )
    }
}

/// Takes events until it is to end, and shows what came.
///
/// # Errors
/// When the port cannot be had, or a file cannot be used.
pub async fn run(args: FlumeSinkArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let options = server_options(&args)?;
    let sink = Arc::new(open(args.ledger.as_deref(), &args.faults, args.end.count)?);
    let server = Server::bind(args.listen, options)
        .await
        .with_context(|| format!("cannot listen on {}: take another port with --listen", args.listen))?;
    let address = server.local_addr()?;
    eprintln!(
        "flume-sink listens on {address} ({}{})",
        args.protocol,
        if args.tls_key.is_some() { ", TLS" } else { "" }
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(server.run(Arc::clone(&sink)));
    if !args.zk.is_empty() {
        let registration = Registration {
            zookeeper: args.zk.clone(),
            businesses: args.businesses.clone(),
            host: args.advertise.clone().unwrap_or_else(|| address.ip().to_string()),
            port: address.port(),
        };
        tasks.spawn(registration.keep());
    }
    until_end(&sink, &args.end, args.output.quiet, signals).await;
    // Nothing is taken after the report: dropping the server ends its connections.
    tasks.shutdown().await;
    publish("flume-sink", &report(&sink, address), &args.output)?;
    Ok(Verdict::Fine)
}

fn server_options(args: &FlumeSinkArgs) -> anyhow::Result<ServerOptions> {
    let tls = match (&args.tls_certificate, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.clone(), key.clone());
            Some(TlsServerOptions::load(&TlsServerFiles { certificate, key, client_ca: None })?)
        }
        _ => None,
    };
    let (protocol, frame_bytes_max) = (args.protocol, args.frame_max);
    Ok(ServerOptions { protocol, tls, frame_bytes_max, ..ServerOptions::default() })
}

/// A sink with the books of its ledger.
fn open(ledger: Option<&Path>, faults: &FaultArgs, enough: Option<u64>) -> anyhow::Result<Sink> {
    let mut books = Books::default();
    if let Some(path) = ledger.filter(|path| path.exists()) {
        journal::read(path)?.iter().for_each(|line| books.book(line));
    }
    let journal = ledger.map(Journal::open).transpose()?;
    let faults = FaultPlan::new(Faults {
        delay: faults.delay,
        fail_every: faults.fail_every,
        fail_with: faults.fail_with.into(),
        drop_every: faults.drop_every,
        lose_answer_every: faults.lose_answer_every,
        refuse_every: faults.refuse_every,
        stall_after: faults.stall_after,
        stall_for: faults.stall_for,
    });
    Ok(Sink::new(faults, books, journal, enough))
}

async fn until_end(sink: &Sink, end: &SinkEndArgs, quiet: bool, signals: &mut Signals) {
    let mut progress = Progress::new("flume-sink", quiet);
    let over_at = end.duration.map(|duration| Instant::now() + duration);
    let mut enough = std::pin::pin!(sink.has_enough.cancelled());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut enough => return,
            () = signals.next() => return,
            _ = tick.tick() => {
                progress.show(&sink.counters, 0);
                let is_over = over_at.is_some_and(|over_at| Instant::now() >= over_at);
                if is_over || end.idle.is_some_and(|idle| is_idle(sink, idle)) {
                    return;
                }
            }
        }
    }
}

fn is_idle(sink: &Sink, idle: Duration) -> bool {
    let last_ns = sink.counters.last_delivery_ns.load(Relaxed);
    last_ns > 0 && u128::from(now_ns().saturating_sub(last_ns)) >= idle.as_nanos()
}

fn report(sink: &Sink, address: SocketAddr) -> SinkReport {
    let counters = sink.counters.snapshot();
    let taken = sink.taken();
    let last_ns = sink.counters.last_delivery_ns.load(Relaxed);
    let seconds = last_ns.saturating_sub(taken.first_at_ns).max(1) as f64 / 1e9;
    let flow = Flow {
        name: "receive".to_owned(),
        messages: counters.delivered,
        messages_per_second: counters.delivered as f64 / seconds,
        mib_per_second: counters.delivered_bytes as f64 / MIB / seconds,
        latency_name: "push-to-ledger".to_owned(),
        latency: taken.latencies.summary(),
    };
    SinkReport {
        address: address.to_string(),
        flows: vec![flow],
        batches: taken.batches,
        faults: sink.faults.made(),
        received: taken.books.received(),
        duplicates: taken.books.duplicates(),
        foreign: counters.foreign,
        businesses: taken.businesses.clone(),
    }
}
