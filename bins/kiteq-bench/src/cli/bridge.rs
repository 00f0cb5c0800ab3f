//! The arguments of the commands around a bridge.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kiteq_flume::{FRAME_BYTES_MAX, Protocol, Status};

use crate::cli::OutputArgs;
use crate::redis::Address;
use crate::units::{parse_count, parse_duration, parse_share, parse_sizes};

/// Which list of which servers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct QueueArgs {
    /// Redis servers: HOST:PORT or redis://[:PASSWORD@]HOST:PORT[/DB], separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:6379")]
    pub redis: Vec<Address>,
    /// The list, the same on each of them.
    #[arg(long, default_value = "user-log")]
    pub queuename: String,
    /// Connections to each server.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Elements of one command.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub per_command: u32,
    /// Commands that are sent ahead of their answers, on each connection.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub ahead: u32,
}

/// `redis-fill`
#[derive(Debug, Args)]
pub struct RedisFillArgs {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Businesses, in turn.
    #[arg(long, value_delimiter = ',', default_value = "location")]
    pub businesses: Vec<String>,
    /// The elements' log_type; elements are routed by business and log type together, location3 for example.
    #[arg(long)]
    pub log_type: Option<u32>,
    /// Bytes of an element before compression: 250, or a range such as 250-4KiB. What an element needs at least is about 240.
    #[arg(long, value_parser = parse_sizes, default_value = "250")]
    pub size: std::ops::RangeInclusive<usize>,
    /// Share of elements that cannot be parsed, in several ways: 1% or 0.01.
    #[arg(long, value_parser = parse_share, default_value = "0")]
    pub malformed: f64,
    /// Share of elements whose business nobody has (kiteq-bench-nowhere).
    #[arg(long, value_parser = parse_share, default_value = "0")]
    pub unroutable: f64,
    /// Push raw DEFLATE of each element, as a bridge with -iscompress expects.
    #[arg(long)]
    pub compress: bool,
    /// Elements a second over all servers, on a schedule that does not wait for answers. Default: as fast as they come.
    #[arg(long, value_parser = parse_count)]
    pub rate: Option<u64>,
    /// Stop after so many elements. Default without --duration: 100k.
    #[arg(long, value_parser = parse_count)]
    pub count: Option<u64>,
    /// Stop after this time.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// A server that is away comes back within this time; elements whose answer was lost are in doubt and not pushed again.
    #[arg(long, value_parser = parse_duration, default_value = "60s")]
    pub reconnect_timeout: Duration,
    /// Append to this file what Redis took, for flume-verify.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `redis-drain`
#[derive(Debug, Args)]
pub struct RedisDrainArgs {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Stop after this time. Default: when the list is empty.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `flume-sink`
#[derive(Debug, Args)]
pub struct FlumeSinkArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:41414")]
    pub listen: SocketAddr,
    /// The Thrift protocol: compact or binary.
    #[arg(long, default_value_t = Protocol::Compact)]
    pub protocol: Protocol,
    /// A longer frame ends its connection.
    #[arg(long, value_parser = parse_size_of_frame, default_value_t = FRAME_BYTES_MAX)]
    pub frame_max: usize,
    /// Serve TLS with this certificate chain, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Register there as a sink of --businesses: ZooKeeper servers, separated by commas.
    #[arg(long, value_delimiter = ',', requires = "businesses")]
    pub zk: Vec<String>,
    /// Businesses to register for, as they are routed: with the log type at their end.
    #[arg(long, value_delimiter = ',', requires = "zk")]
    pub businesses: Vec<String>,
    /// The host to register. Default: the one of --listen.
    #[arg(long)]
    pub advertise: Option<String>,
    /// What ends it.
    #[command(flatten)]
    pub end: SinkEndArgs,
    /// What goes wrong.
    #[command(flatten)]
    pub faults: FaultArgs,
    /// Append to this file what was taken, before it is acknowledged; what is in it already counts as taken. So a sink may be killed and
    /// started again.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// When a sink ends; SIGINT and SIGTERM end it too.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "End")]
pub struct SinkEndArgs {
    /// After so many different elements, those of an earlier --ledger included.
    #[arg(long, value_parser = parse_count)]
    pub count: Option<u64>,
    /// After this time.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// When nothing has come for so long after the first batch.
    #[arg(long, value_parser = parse_duration)]
    pub idle: Option<Duration>,
}

/// What a sink does wrong.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Faults")]
pub struct FaultArgs {
    /// Wait before each answer.
    #[arg(long, value_parser = parse_duration, default_value = "0")]
    pub delay: Duration,
    /// Refuse every Nth batch; it is not taken.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub fail_every: u64,
    /// With this status.
    #[arg(long, value_enum, default_value_t = Refusal::Failed)]
    pub fail_with: Refusal,
    /// Close the connection of every Nth batch; it is not taken.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub drop_every: u64,
    /// Close the connection of every Nth batch although it is taken: it should come again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub lose_answer_every: u64,
    /// Close every Nth connection at once.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub refuse_every: u64,
    /// For this time neither take nor answer batches; connections that send one then are never answered.
    #[arg(long, value_parser = parse_duration, default_value = "0")]
    pub stall_for: Duration,
    /// When that begins.
    #[arg(long, value_parser = parse_duration, default_value = "0")]
    pub stall_after: Duration,
}

/// How a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Refusal {
    /// FAILED
    Failed,
    /// ERROR
    Error,
    /// UNKNOWN
    Unknown,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed => Self::Failed,
            Refusal::Error => Self::Error,
            Refusal::Unknown => Self::Unknown,
        }
    }
}

/// `flume-verify`
#[derive(Debug, Args)]
pub struct FlumeVerifyArgs {
    /// Ledgers of redis-fill.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub pushed: Vec<PathBuf>,
    /// Ledgers of flume-sink.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub received: Vec<PathBuf>,
    /// So many elements are known to be dead letters, whichever they are.
    #[arg(long, conflicts_with = "dead_letters_of", default_value_t = 0)]
    pub dead_letters: u64,
    /// Look for elements in the bridge's dead letters on these Redis servers.
    #[arg(long, value_name = "REDIS", value_delimiter = ',')]
    pub dead_letters_of: Vec<Address>,
    /// The queue whose dead letters these are.
    #[arg(long, default_value = "user-log")]
    pub queuename: String,
    /// Lists to look in instead of those that flume-bridge keeps for the queue.
    #[arg(long, value_name = "KEY", requires = "dead_letters_of")]
    pub dead_letter_list: Vec<String>,
    /// Of the missing elements, list so many numbers for each run.
    #[arg(long, default_value_t = 10)]
    pub list_missing: usize,
    /// Results.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn parse_size_of_frame(text: &str) -> Result<usize, String> {
    text.parse().map_or_else(|_| parse_sizes(text).map(|sizes| *sizes.end()), Ok)
}
