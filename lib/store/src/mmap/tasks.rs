//! Slow work on files that the log's writer leaves to other threads, so that appends do not wait for it.

use std::io;
use std::sync::{Arc, Mutex};

use super::compaction::{CollectJob, Collected};
use super::disk::{Disk, DiskFile};
use super::files::{segment_name, spare_name};
use super::index::Index;

/// Emptied segment files kept to become the next segments: writing over pages that are in memory already, on blocks that
/// are allocated already, is the fastest way to write.
pub(crate) const SPARES_MAX: usize = 2;

/// One piece of work.
pub(crate) enum Task {
    /// Makes the file of segment `number`, out of a spare one if there is one.
    Prepare { number: u32, len: u64, spare: Option<String> },
    /// Takes the oldest segments away, for good or to be used again.
    Retire { segments: Vec<Retiring> },
    /// Makes everything before `lsn` durable.
    Sync { files: Vec<Arc<dyn DiskFile>>, lsn: u64 },
    /// Finds messages that must leave the oldest segment.
    Collect(CollectJob),
}

/// A segment on its way out.
pub(crate) struct Retiring {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Keep the file to be used again, if it has this length.
    pub(crate) keep_len: Option<u64>,
}

/// What became of it.
pub(crate) enum Outcome {
    Prepared(Result<Prepared, String>),
    /// The names of the files that are kept.
    Retired(io::Result<Vec<String>>),
    Synced {
        lsn: u64,
        result: io::Result<()>,
    },
    Collected(Collected),
}

/// A file with room for a segment, whose name is durable.
pub(crate) struct Prepared {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// Carries out tasks, elsewhere or at once. Tasks that touch names ([`Task::Prepare`], [`Task::Retire`]) are done one
/// after the other in the order in which they were started.
pub(crate) trait Helper: Send {
    fn start(&mut self, task: Task);

    /// The outcome of the preparation that was started last, if it is there.
    fn prepared(&mut self) -> Option<Result<Prepared, String>>;

    /// Waits for it.
    fn wait_prepared(&mut self) -> Result<Prepared, String>;
}

/// Does a task.
pub(crate) fn carry_out(task: Task, disk: &dyn Disk, index: &Mutex<Index>) -> Outcome {
    match task {
        Task::Prepare { number, len, spare } => {
            Outcome::Prepared(prepare(disk, number, len, spare.as_deref()).map_err(|error| error.to_string()))
        }
        Task::Retire { segments } => Outcome::Retired(retire(disk, segments)),
        Task::Sync { files, lsn } => {
            Outcome::Synced { lsn, result: files.iter().try_for_each(|file| file.sync()) }
        }
        Task::Collect(job) => Outcome::Collected(job.run(disk, index)),
    }
}

fn prepare(disk: &dyn Disk, number: u32, len: u64, spare: Option<&str>) -> io::Result<Prepared> {
    let name = segment_name(number);
    let file = match spare {
        Some(spare) => {
            disk.rename(spare, &name)?;
            disk.open(&name)?
        }
        None => disk.create(&name, len)?,
    };
    // Before anything is written to it: what is acknowledged must not sit in a file without a name.
    if let Err(error) = disk.sync_directory() {
        // Or every further attempt would leave a file behind; the error that counts is the first.
        let _ = disk.delete(&name);
        return Err(error);
    }
    Ok(Prepared { number, file })
}

/// Removes names in the order of the segments, so that what says that a message is settled never goes before the message:
/// file systems with a journal keep the order of such changes in a crash too.
fn retire(disk: &dyn Disk, segments: Vec<Retiring>) -> io::Result<Vec<String>> {
    let mut spares = Vec::new();
    for Retiring { number, file, keep_len } in segments {
        let name = segment_name(number);
        // Nobody can get at the file any more but those who have it already.
        let unused = Arc::strong_count(&file) == 1;
        let len = file.len();
        drop(file);
        if unused && keep_len == Some(len) {
            let spare = spare_name(number);
            disk.rename(&name, &spare)?;
            spares.push(spare);
        } else {
            disk.delete(&name)?;
        }
    }
    disk.sync_directory()?;
    Ok(spares)
}
