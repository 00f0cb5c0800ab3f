//! Connections.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow, MySqlSslMode};
use sqlx::{ConnectOptions, Connection, Either};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::fault::{Fault, FaultKind};
use super::options::{Address, MysqlOptions, Tls};
use crate::mailbox::lock;

/// A connection that nothing was sent over for so long is tried before it is trusted.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Read committed: no locks on gaps, none on rows that a condition passes over. A backslash escapes, and a value that does
/// not fit is an error. Waiting for a lock ends before the answer would be given up.
const SESSION: &str = "SET SESSION sql_mode='STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', autocommit=1, \
                       innodb_lock_wait_timeout=";

/// Where to connect, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    options: MySqlConnectOptions,
    place: String,
    timeout: Duration,
}

impl Target {
    pub(super) fn new(options: &MysqlOptions, address: &Address) -> Self {
        let mut connect = MySqlConnectOptions::new()
            .host(&address.host)
            .port(address.port)
            .username(&options.username)
            .statement_cache_capacity(0)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .ssl_mode(match options.tls {
                Tls::Off => MySqlSslMode::Disabled,
                Tls::Required => MySqlSslMode::Required,
                Tls::Verified => MySqlSslMode::VerifyIdentity,
            })
            // Statements carry whole messages, which have no place in a log.
            .disable_statement_logging();
        if !options.password.is_empty() {
            connect = connect.password(&options.password);
        }
        if let Some(file) = &options.tls_authority {
            connect = connect.ssl_ca(file);
        }
        Self { options: connect, place: format!("mysql://{address}"), timeout: options.timeout }
    }

    async fn connect(&self) -> Result<MySqlConnection, Fault> {
        let connecting = timeout(self.timeout, self.options.connect()).await;
        let mut connection = match connecting {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                let fault = Fault::of(&error, self.place.clone());
                // Whatever it was, nothing of ours was sent.
                let kind = match fault.kind {
                    FaultKind::Refused => FaultKind::Refused,
                    _ => FaultKind::Unreachable,
                };
                return Err(Fault { kind, ..fault });
            }
            Err(_) => {
                let reason = format!("no connection within {:?}", self.timeout);
                return Err(Fault::unreachable(self.place.clone(), reason));
            }
        };
        let lock_wait = (self.timeout.as_secs() / 2).max(1);
        let session = format!("{SESSION}{lock_wait}; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED");
        match run(&mut connection, &session, &self.place, self.timeout).await {
            Ok(_) => Ok(connection),
            Err(fault) => Err(Fault { kind: FaultKind::Unreachable, ..fault }),
        }
    }
}

/// What one statement answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Rows written; of an update, rows that its condition fits.
    pub(super) affected: u64,
    pub(super) rows: Vec<MySqlRow>,
}

async fn run(
    connection: &mut MySqlConnection,
    sql: &str,
    place: &str,
    limit: Duration,
) -> Result<Vec<Answer>, Fault> {
    let mut answers = Vec::new();
    let mut answer = Answer::default();
    let reading = async {
        let mut results = sqlx::raw_sql(sql).fetch_many(&mut *connection);
        loop {
            match results.try_next().await {
                Ok(Some(Either::Left(done))) => {
                    answer.affected = done.rows_affected();
                    answers.push(std::mem::take(&mut answer));
                }
                Ok(Some(Either::Right(row))) => answer.rows.push(row),
                Ok(None) => return Ok(()),
                Err(error) => return Err(Fault::of(&error, place.to_owned())),
            }
        }
    };
    match timeout(limit, reading).await {
        Ok(Ok(())) => Ok(answers),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(Fault::timed_out(place.to_owned(), limit)),
    }
}

/// A connection that is made when it is needed, and again when it was lost.
pub(super) struct Link {
    target: Arc<Target>,
    connection: Option<MySqlConnection>,
    used_at: Instant,
}

impl Link {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, connection: None, used_at: Instant::now() }
    }

    /// For people.
    pub(super) fn place(&self) -> &str {
        &self.target.place
    }

    /// Carries out the statements of a text in order, until one fails. After an error in a transaction, call
    /// [`Link::roll_back`].
    ///
    /// # Errors
    /// See [`FaultKind`].
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the link then.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Vec<Answer>, Fault> {
        if let Some(connection) = &mut self.connection
            && self.used_at.elapsed() > IDLE_MAX
        {
            let is_alive = timeout(self.target.timeout, connection.ping()).await;
            if !matches!(is_alive, Ok(Ok(()))) {
                self.connection = None;
            }
        }
        if self.connection.is_none() {
            self.connection = Some(self.target.connect().await?);
        }
        let Some(connection) = &mut self.connection else { return Ok(Vec::new()) };
        let result = run(connection, sql, &self.target.place, self.target.timeout).await;
        self.used_at = Instant::now();
        if let Err(fault) = &result
            && !fault.spares_connection()
        {
            // What is still under way on it must not be taken for the answer to the next statement.
            self.connection = None;
        }
        result
    }

    /// Carries out statements that only read. When the connection had broken since it was used last, they are asked again on a new one.
    ///
    /// # Errors
    /// See [`FaultKind`].
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the link then.
    pub(super) async fn read(&mut self, sql: &str) -> Result<Vec<Answer>, Fault> {
        let (was_connected, begun) = (self.is_connected(), Instant::now());
        match self.run(sql).await {
            // An answer that did not come in time would not come sooner now.
            Err(fault)
                if was_connected
                    && fault.kind == FaultKind::Lost
                    && begun.elapsed() < self.target.timeout =>
            {
                self.run(sql).await
            }
            result => result,
        }
    }

    /// Ends a failed transaction, with the connection if need be.
    pub(super) async fn roll_back(&mut self) {
        if self.connection.is_some() && self.run("ROLLBACK").await.is_err() {
            self.connection = None;
        }
    }

    /// Whether it is connected, as far as is known.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            // The server finds out by itself otherwise.
            let _ = timeout(self.target.timeout, connection.close()).await;
        }
    }
}

/// Connections for whatever comes now and then.
pub(super) struct Pool {
    target: Arc<Target>,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Link>>,
}

/// A connection of a pool. Dropping it closes the connection; [`Lease::give_back`] keeps it for the next one.
pub(super) struct Lease {
    link: Link,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(target: Arc<Target>, connections_max: usize) -> Self {
        Self { target, permits: Arc::new(Semaphore::new(connections_max)), idle: Mutex::default() }
    }

    /// Waits for a connection, which may have to be made.
    ///
    /// # Errors
    /// When all are in use for too long.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Fault> {
        let waited = timeout(self.target.timeout, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = waited else {
            let reason = format!("all connections were in use for {:?}; raise maxConn", self.target.timeout);
            return Err(Fault::unreachable(self.target.place.clone(), reason));
        };
        let link = lock(&self.idle).pop().unwrap_or_else(|| Link::new(self.target.clone()));
        Ok(Lease { link, pool: self.clone(), _permit: permit })
    }

    /// Closes those that nobody uses.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        for link in idle {
            link.close().await;
        }
    }
}

impl Lease {
    /// Hands the connection on. Not within a transaction.
    pub(super) fn give_back(self) {
        if self.link.is_connected() {
            lock(&self.pool.idle).push(self.link);
        }
    }
}

impl std::ops::Deref for Lease {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}
