//! The command line.

pub mod bridge;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::bridge::{FlumeSinkArgs, FlumeVerifyArgs, RedisDrainArgs, RedisFillArgs};
use crate::units::{parse_count, parse_duration, parse_share, parse_size};
use crate::wire::in_flight::WINDOW_MAX;

const EXAMPLES: &str = "\
Start a broker with `kiteq` (no flags needed), then in another terminal:

  kiteq-bench e2e --count 100k --verify       did everything arrive? Exit code 1 when not
  kiteq-bench e2e --duration 10s --with-limits
                                              how fast, and what share of what this machine can do
  kiteq-bench e2e --connections 1 --consumers 1 --window 1 --duration 5s
                                              the latency of one message at a time
  kiteq-bench e2e --rate 100k --duration 30s  the latency at a given rate, stalls included
  kiteq-bench backlog --count 10M             messages pile up for a group that is away, then it comes back
  kiteq-bench limits                          the machine alone: no broker needed

Around a flume-bridge with -redis=127.0.0.1:6379 -queuename=user-log -businesses=location -zkhost=127.0.0.1:2181:

  kiteq-bench flume-sink --zk 127.0.0.1:2181 --businesses location --ledger received.txt
                                              a sink, until Ctrl-C
  kiteq-bench redis-fill --count 1M --malformed 1% --ledger pushed.txt
                                              elements for it
  kiteq-bench flume-verify --pushed pushed.txt --received received.txt --dead-letters-of 127.0.0.1:6379
                                              did all arrive, or become dead letters? Exit code 1 when not
  kiteq-bench redis-drain                     how fast Redis gives elements away when nobody does anything with them

Reading the result: publish-to-ack is the time from the moment a message was to be sent to its ack, end-to-end the time \
to its receipt by a consumer. With --rate the moments come from a schedule that never waits for the broker, so a stall \
shows in every message that it held up. Rates and times of different machines, or of a busy machine, say little: compare \
with the limits that --with-limits measures just before, in the same run.";

/// Puts load on a KiteQ broker, measures what it does, and checks that nothing acked is lost.
#[derive(Debug, Parser)]
#[command(name = "kiteq-bench", version, about, after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure what this machine can do with the same frames and no broker: echo, append, append + fdatasync.
    Limits(LimitsArgs),
    /// Publish only.
    Produce(ProduceArgs),
    /// Receive only, from this tool's producers or anybody else's.
    Consume(ConsumeArgs),
    /// Publish and receive in one process, and measure from end to end.
    E2e(E2eArgs),
    /// Let messages pile up for a group that is away, then let it come back and drain them.
    Backlog(BacklogArgs),
    /// Push elements into a Redis list, as applications do in front of flume-bridge.
    RedisFill(RedisFillArgs),
    /// Take all elements out of a Redis list and do nothing with them: what a bridge is measured by.
    RedisDrain(RedisDrainArgs),
    /// Be a Flume Thrift source that counts and keeps a ledger, and fails on request.
    FlumeSink(FlumeSinkArgs),
    /// Hold the ledgers of redis-fill against those of flume-sink and the dead letters; exit code 1 when an element is missing.
    FlumeVerify(FlumeVerifyArgs),
}

/// `limits`
#[derive(Debug, Args)]
pub struct LimitsArgs {
    /// The frames.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Time for each of the four measurements.
    #[arg(long, value_parser = parse_duration, default_value = "3s")]
    pub duration: Duration,
    /// Where the append modes put their file (at most 1 GiB at a time, deleted afterwards). Take the broker's disk.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `produce`
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The broker.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The frames.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The comparison.
    #[command(flatten)]
    pub limits: WithLimitsArgs,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `consume`
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The broker.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The groups.
    #[command(flatten)]
    pub groups: GroupArgs,
    /// Topics to bind: how many (named bench-1, bench-2, ...), or a list of names.
    #[arg(long, default_value = "1")]
    pub topics: String,
    /// Message types to bind with --bind direct: how many, or a list of names.
    #[arg(long, default_value = "1")]
    pub types: String,
    /// Stop after so many receipts.
    #[arg(long, value_parser = parse_count)]
    pub count: Option<u64>,
    /// Stop after this time.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Threads of this tool. Default: one for each core.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `e2e`
#[derive(Debug, Args)]
pub struct E2eArgs {
    /// The broker.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The frames.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The groups.
    #[command(flatten)]
    pub groups: GroupArgs,
    /// The check.
    #[command(flatten)]
    pub verify: VerifyArgs,
    /// The comparison.
    #[command(flatten)]
    pub limits: WithLimitsArgs,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `backlog`
#[derive(Debug, Args)]
pub struct BacklogArgs {
    /// The broker.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The frames.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// The groups.
    #[command(flatten)]
    pub groups: GroupArgs,
    /// Messages to pile up.
    #[arg(long, value_parser = parse_count, default_value = "1M")]
    pub count: u64,
    /// Topics, in turn: how many, or a list of names.
    #[arg(long, default_value = "1")]
    pub topics: String,
    /// Only pile up, and leave the messages waiting (to restart the broker, say).
    #[arg(long, conflicts_with = "drain_only")]
    pub fill_only: bool,
    /// Only drain what an earlier --fill-only left.
    #[arg(long)]
    pub drain_only: bool,
    /// Check that every acked message reaches every group; exit code 1 when one does not.
    #[arg(long, conflicts_with_all = ["fill_only", "drain_only"])]
    pub verify: bool,
    /// Of the missing messages, list so many ids for each group.
    #[arg(long, default_value_t = 10)]
    pub list_missing: usize,
    /// Give up when nothing has arrived for so long.
    #[arg(long, value_parser = parse_duration, default_value = "30s")]
    pub settle_timeout: Duration,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where the broker is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Broker")]
pub struct TargetArgs {
    /// The registry in which brokers are found and bindings published: http://HOST:PPORT (the HTTP port of a broker on
    /// its embedded registry), zk://HOST:PORT, etcd://http://HOST:PORT, file://PATH. Default without --broker:
    /// http://127.0.0.1:13801.
    #[arg(long, value_name = "URI")]
    pub registry: Option<String>,
    /// Connect here instead of asking a registry. Bindings go to --registry when it is given too, and are taken to be
    /// there already when it is not.
    #[arg(long, value_name = "HOST:PORT")]
    pub broker: Option<String>,
    /// Secret of all groups, when the broker asks for one.
    #[arg(long, default_value = "")]
    pub secret: String,
    /// The broker's process, for its CPU time and memory. Default: found by its port, when it runs on this machine.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// What the frames are like.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Messages")]
pub struct ShapeArgs {
    /// Producer connections.
    #[arg(long, visible_alias = "producers", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Publishes that each connection may have without an ack.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=WINDOW_MAX as i64))]
    pub window: u32,
    /// Length of a body: 1024, 1KiB, 64k. From 32 bytes on a body carries its send time.
    #[arg(long, value_parser = parse_size, default_value = "1KiB")]
    pub size: usize,
    /// Threads of this tool. Default: one for each core.
    #[arg(long)]
    pub threads: Option<usize>,
}

/// How much of it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Messages a second over all connections, on a schedule that does not wait for the broker. Default: as fast as
    /// acks come.
    #[arg(long, value_parser = parse_count)]
    pub rate: Option<u64>,
    /// Stop after so many messages: 100000, 100k, 10M.
    #[arg(long, value_parser = parse_count)]
    pub count: Option<u64>,
    /// Stop after this time: 500ms, 10s, 2m. Default without --count: 10s.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Not measured at the start. Default: 1s when the time is limited, nothing when the count is.
    #[arg(long, value_parser = parse_duration)]
    pub warm_up: Option<Duration>,
    /// Share of the messages that are transactions (prepared, then committed): 10% or 0.1.
    #[arg(long, value_parser = parse_share, default_value = "0")]
    pub transactions: f64,
    /// Messages that are never stored, only delivered to whoever is connected.
    #[arg(long, conflicts_with = "transactions")]
    pub fly: bool,
    /// Topics, in turn: how many, or a list of names.
    #[arg(long, default_value = "1")]
    pub topics: String,
    /// Message types, in turn: how many, or a list of names.
    #[arg(long, default_value = "1")]
    pub types: String,
    /// Group of the producers.
    #[arg(long, default_value = "bench-producer")]
    pub group: String,
}

/// Who receives.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Consumers")]
pub struct GroupArgs {
    /// Consumer groups: how many, or a list of names. Each of them gets every message.
    #[arg(long, default_value = "1")]
    pub groups: String,
    /// Connections of each group.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub consumers: u32,
    /// How groups bind: fanout (whole topics) or direct (each message type).
    #[arg(long, value_enum, default_value_t = Bind::Fanout)]
    pub bind: Bind,
    /// Bindings that do not make messages wait while the group is away.
    #[arg(long)]
    pub not_persistent: bool,
    /// Messages a second that a group takes of a topic, as its binding says; 0: the broker's default.
    #[arg(long, default_value_t = 0)]
    pub watermark: i32,
    /// Publish no bindings: they are there already.
    #[arg(long)]
    pub no_bindings: bool,
}

/// How groups bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bind {
    /// Whole topics.
    Fanout,
    /// Each message type.
    Direct,
}

/// Checking that nothing is lost.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Verification")]
pub struct VerifyArgs {
    /// Keep a ledger of every acked message: exit code 1 when one did not reach every group. Uses the client engine, which
    /// survives restarts of the broker; SIGTERM ends publishing and then settles the ledger.
    #[arg(long)]
    pub verify: bool,
    /// Which engine: wire (lean, ends with the connection) or client (what applications link, reconnects). Default:
    /// client with --verify, wire without.
    #[arg(long, value_enum)]
    pub engine: Option<Engine>,
    /// At the end, give up waiting for what is outstanding when nothing has arrived for so long.
    #[arg(long, value_parser = parse_duration, default_value = "30s")]
    pub settle_timeout: Duration,
    /// Of the missing messages, list so many ids for each group.
    #[arg(long, default_value_t = 10)]
    pub list_missing: usize,
}

/// Which engine drives the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The lean one.
    Wire,
    /// kiteq-client.
    Client,
}

/// Comparing with the machine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Comparison")]
pub struct WithLimitsArgs {
    /// Measure the machine's limits just before, and show ratios to them.
    #[arg(long)]
    pub with_limits: bool,
    /// Where the append limits put their file. Take the broker's disk.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Time for each of the four limits.
    #[arg(long, value_parser = parse_duration, default_value = "2s")]
    pub limits_duration: Duration,
}

/// What to do with the result.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Write everything that was measured to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No progress lines.
    #[arg(long)]
    pub quiet: bool,
}

/// One thread for each core unless told otherwise.
#[must_use]
pub fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

/// Whether an address is on this machine.
#[must_use]
pub fn is_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_in_the_help_parses() {
        let examples: Vec<_> =
            EXAMPLES.lines().filter_map(|line| line.trim().strip_prefix("kiteq-bench ")).collect();
        assert_eq!(examples.len(), 10);
        for example in examples {
            let arguments = example.split("  ").next().unwrap().split_whitespace();
            Cli::try_parse_from(std::iter::once("kiteq-bench").chain(arguments)).unwrap();
        }
    }

    #[test]
    fn local_addresses_are_recognised() {
        assert!(is_local("127.0.0.1:13800") && is_local("localhost:1") && is_local("[::1]:1"));
        assert!(!is_local("192.0.2.1:13800") && !is_local("broker.example:1"));
    }
}
