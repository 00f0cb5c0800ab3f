//! What the system says about this process, read at each scrape.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Linux reports processor time in these, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;
const KIB: u64 = 1024;

/// Process metrics under the names that every Prometheus client library uses. What the system does not tell is left out.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    started_at: f64,
}

impl Default for ProcessCollector {
    fn default() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started_at: since_epoch.as_secs_f64() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let name = "process_resident_memory_bytes";
            gauge(&mut encoder, name, "Resident memory", bytes as f64)?;
        }
        if let Some(count) = open_files() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", count as f64)?;
        }
        let name = "process_start_time_seconds";
        gauge(&mut encoder, name, "Start of the process, unix seconds", self.started_at)?;
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "User and system processor time";
            let metric =
                encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * KIB)
}

fn open_files() -> Option<usize> {
    // The listing itself holds one.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command, in parentheses, may hold spaces; utime and stime are the 14th and 15th fields.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND)
}
