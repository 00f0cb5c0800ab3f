//! The threads of the engine: one single-threaded runtime each, with its share of the connections.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::task::LocalSet;

use crate::run::{Measured, Run};
use crate::wire::connection::{Scratch, WireError, scratch};

/// What a connection needs of its thread.
#[derive(Debug, Clone)]
pub struct Local {
    /// The run.
    pub run: Arc<Run>,
    /// The thread's read buffer.
    pub scratch: Scratch,
    /// The thread's latencies.
    pub measured: Rc<RefCell<Measured>>,
}

/// The threads, at work.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<Result<Measured, WireError>>>,
}

impl Workers {
    /// Starts `threads` threads. `connection(index)` makes the task of a connection; `index` runs from 0 to `connections`,
    /// dealt out to the threads in turn. The first error makes everybody leave.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start<Task, Made>(
        run: &Arc<Run>,
        threads: usize,
        connections: usize,
        connection: Made,
    ) -> std::io::Result<Self>
    where
        Made: Fn(Local, usize) -> Task + Send + Clone + 'static,
        Task: Future<Output = Result<(), WireError>> + 'static,
    {
        let threads = threads.clamp(1, connections.max(1));
        let start = |thread: usize| {
            let (run, connection) = (Arc::clone(run), connection.clone());
            let indices = (thread..connections).step_by(threads);
            std::thread::Builder::new()
                .name(format!("bench-{thread}"))
                .spawn(move || work(run, indices, connection))
        };
        Ok(Self { threads: (0..threads).map(start).collect::<Result<_, _>>()? })
    }

    /// Waits for the threads, which blocks, and gives what they measured or the first error.
    ///
    /// # Errors
    /// The first connection's error.
    pub fn join(self) -> Result<Measured, WireError> {
        let mut all = Measured::default();
        let mut first_error = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(measured)) => all.merge(&measured),
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                // A panic is a bug of this tool: pass it on rather than report figures.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        first_error.map_or(Ok(all), Err)
    }
}

fn work<Task, Made>(
    run: Arc<Run>,
    indices: impl Iterator<Item = usize>,
    connection: Made,
) -> Result<Measured, WireError>
where
    Made: Fn(Local, usize) -> Task,
    Task: Future<Output = Result<(), WireError>> + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WireError::Timer)?;
    let local = Local { run, scratch: scratch(), measured: Rc::default() };
    let tasks = LocalSet::new();
    let handles: Vec<_> = indices
        .map(|index| tasks.spawn_local(guard(local.clone(), connection(local.clone(), index))))
        .collect();
    runtime.block_on(tasks.run_until(async {
        let mut first_error = None;
        for handle in handles {
            match handle.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                Err(join) => std::panic::resume_unwind(join.into_panic()),
            }
        }
        first_error.map_or(Ok(()), Err)
    }))?;
    Ok(local.measured.borrow().clone())
}

/// Runs one connection's task; its error ends the run for everybody.
async fn guard(local: Local, task: impl Future<Output = Result<(), WireError>>) -> Result<(), WireError> {
    let result = task.await;
    if result.is_err() {
        local.run.stop_publishing.cancel();
        local.run.leave.cancel();
    }
    result
}
