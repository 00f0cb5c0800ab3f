//! What an mmap store's URI says.

use std::path::PathBuf;
use std::time::Duration;

use crate::dedupe::DedupeLimits;
use crate::error::OpenError;
use crate::uri::{StoreUri, parse_duration};

const SEGMENT_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 4 << 30;
const MESSAGES_MAX: u64 = 50_000_000;
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// What the store of the Go broker knew and this one has no use for.
const RETIRED: [&str; 7] =
    ["cap", "initcap", "checkSeconds", "flushSeconds", "batchUpdateSize", "batchDelSize", "flushBatchSize"];

/// When an appended message counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncMode {
    /// When it is on the disk; one fdatasync for all that arrived meanwhile. Survives a crash of the machine.
    Group,
    /// When the operating system has it. Survives a crash of the broker.
    Os,
    /// Like `Os`, with an fdatasync so often: a crash of the machine costs at most that much.
    Interval(Duration),
}

impl SyncMode {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "group" => Some(Self::Group),
            "os" => Some(Self::Os),
            _ => parse_duration(text.strip_prefix("interval:")?)
                .filter(|interval| (INTERVAL_MIN..=INTERVAL_MAX).contains(interval))
                .map(Self::Interval),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Group => "group".to_owned(),
            Self::Os => "os".to_owned(),
            Self::Interval(interval) => format!("interval:{}ms", interval.as_millis()),
        }
    }
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub(crate) struct MmapOptions {
    pub(crate) directory: PathBuf,
    pub(crate) sync: SyncMode,
    /// Length of a segment file.
    pub(crate) segment_bytes: u64,
    /// Messages and dead letters that may be held; more are refused.
    pub(crate) messages_max: u64,
    pub(crate) dedupe: DedupeLimits,
}

impl MmapOptions {
    /// Reads `mmap://DIRECTORY?...`, and `file://DIRECTORY?...` as existing configurations have it.
    pub(crate) fn read(mut uri: StoreUri<'_>) -> Result<Self, OpenError> {
        if uri.place.is_empty() {
            return Err(uri.error(format!("no directory; write for example {}:///var/lib/kiteq", uri.scheme)));
        }
        let sync = match uri.text("sync") {
            None => SyncMode::Group,
            Some(text) => SyncMode::parse(text).ok_or_else(|| {
                uri.error(format!("sync={text}: expected group, os, or interval:TIME from 1ms to 60s"))
            })?,
        };
        let options = Self {
            directory: PathBuf::from(uri.place),
            sync,
            segment_bytes: uri
                .bytes("segment", SEGMENT_BYTES, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)?
                .next_multiple_of(4096),
            messages_max: uri.number("maxcap", MESSAGES_MAX, 1, u64::from(u32::MAX - 1))?,
            dedupe: uri.dedupe()?,
        };
        if uri.scheme == "file" {
            let ignored = uri.retired(&RETIRED);
            if !ignored.is_empty() {
                tracing::warn!(
                    parameters = ignored.join(", "),
                    "these parameters of the file:// store mean nothing any more and are ignored"
                );
            }
        }
        uri.finish()?;
        Ok(options)
    }

    pub(crate) fn describe(&self) -> String {
        format!("mmap://{}?sync={}", self.directory.display(), self.sync.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Result<MmapOptions, OpenError> {
        MmapOptions::read(StoreUri::parse(uri).unwrap())
    }

    #[test]
    fn defaults_and_parameters() {
        let options = read("mmap:///var/lib/kiteq").unwrap();
        assert_eq!((options.sync, options.segment_bytes), (SyncMode::Group, 64 << 20));
        assert_eq!(options.describe(), "mmap:///var/lib/kiteq?sync=group");
        let options = read("mmap://data?sync=interval:100ms&segment=1MiB&maxcap=5&dedupeWindow=1s").unwrap();
        assert_eq!(options.sync, SyncMode::Interval(Duration::from_millis(100)));
        assert_eq!((options.segment_bytes, options.messages_max), (1 << 20, 5));
        assert_eq!(options.dedupe.window, Duration::from_secs(1));
    }

    #[test]
    fn the_file_form_of_existing_configurations_is_accepted() {
        let options = read("file://.?cap=10000000&checkSeconds=10").unwrap();
        assert_eq!(options.describe(), "mmap://.?sync=group");
        assert!(read("mmap://.?cap=10000000").is_err());
        let error = read("file://.?checkSecond=10&syncs=os").unwrap_err().reason;
        assert!(error.contains("checkSecond"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["?sync=maybe", "?sync=interval:0s", "?sync=interval:2m", "?segment=1KiB", "?segment=5GiB"]
        {
            assert!(read(&format!("mmap://data{bad}")).is_err(), "{bad}");
        }
        assert!(read("mmap://").unwrap_err().reason.contains("mmap:///var/lib/kiteq"));
    }
}
