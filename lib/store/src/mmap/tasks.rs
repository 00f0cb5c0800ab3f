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
    /// Takes the oldest segment away, for good or to be used again.
    Retire { number: u32, file: Arc<dyn DiskFile>, keep_len: Option<u64> },
    /// Makes everything before `lsn` durable.
    Sync { files: Vec<Arc<dyn DiskFile>>, lsn: u64 },
    /// Finds messages that must leave the oldest segment.
    Collect(CollectJob),
}

/// What became of it.
pub(crate) enum Outcome {
    Prepared(Result<Prepared, String>),
    Retired(io::Result<Option<String>>),
    Synced { lsn: u64, result: io::Result<()> },
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
        Task::Retire { number, file, keep_len } => Outcome::Retired(retire(disk, number, file, keep_len)),
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

fn retire(
    disk: &dyn Disk,
    number: u32,
    file: Arc<dyn DiskFile>,
    keep_len: Option<u64>,
) -> io::Result<Option<String>> {
    let name = segment_name(number);
    // Nobody can get at the file any more but those who have it already.
    let unused = Arc::strong_count(&file) == 1;
    let len = file.len();
    drop(file);
    let spare = (unused && keep_len == Some(len)).then(|| spare_name(number));
    match &spare {
        Some(spare) => disk.rename(&name, spare)?,
        None => disk.delete(&name)?,
    }
    // Before the next one goes: a later segment says which messages of this one are settled.
    disk.sync_directory()?;
    Ok(spare)
}
