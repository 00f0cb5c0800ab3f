//! What a MySQL store's URI says.

use std::path::PathBuf;
use std::time::Duration;

use crate::dedupe::DedupeLimits;
use crate::error::OpenError;
use crate::uri::StoreUri;

const PORT: u16 = 3306;
const CONNECTIONS_MAX: u64 = 20;
/// One for writing, one for loads, one for pages, one for everything else.
const CONNECTIONS_MIN: u64 = 4;
const SHARDS: u64 = 4;
const BATCH_ROWS_MAX: u64 = 2_000;
const PURGE_ROWS_MAX: u64 = 10_000;
const RESIDENT_MAX: u64 = 1_000_000;
const TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Not at all.
    Off,
    /// Always; who the server is is not checked.
    Required,
    /// Always; the server's certificate must be signed by the given authority and name its host.
    Verified,
}

/// How messages are kept in MySQL.
#[derive(Debug, Clone)]
pub(crate) struct MysqlOptions {
    /// Where everything is written.
    pub(crate) master: Address,
    /// Where bodies are read first, when there is one.
    pub(crate) slave: Option<Address>,
    /// Prefix of the databases' names.
    pub(crate) database: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) connections_max: usize,
    /// Databases; divides 16.
    pub(crate) shard_count: u8,
    /// Rows of one transaction, about.
    pub(crate) batch_rows_max: usize,
    /// Settled rows deleted by one statement.
    pub(crate) purge_rows_max: usize,
    /// How often settled rows are deleted.
    pub(crate) purge_interval: Duration,
    pub(crate) dedupe: DedupeLimits,
    /// Messages that may have a slot.
    pub(crate) resident_max: usize,
    /// Owners without a port that may be taken over.
    pub(crate) adopt: Vec<String>,
    pub(crate) tls: Tls,
    /// File with the certificate of the authority, PEM.
    pub(crate) tls_authority: Option<PathBuf>,
    /// How long connecting, and one round trip, may take.
    pub(crate) timeout: Duration,
}

impl MysqlOptions {
    /// Reads `mysql://MASTER[:PORT][,SLAVE[:PORT]]?db=...`.
    pub(crate) fn read(mut uri: StoreUri<'_>) -> Result<Self, OpenError> {
        let (master, slave) = addresses(&uri)?;
        let database = decoded(&mut uri, "db")?.unwrap_or_else(|| "kite".to_owned());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '$';
        if database.is_empty() || database.len() > 60 || !database.chars().all(is_plain) {
            return Err(
                uri.error(format!("db={database}: a database name has up to 60 letters, digits, _, - and $"))
            );
        }
        let shard_count = uri.number("shardnum", SHARDS, 1, 16)?;
        if 16 % shard_count != 0 {
            return Err(uri.error(format!(
                "shardnum={shard_count}: must divide 16, so 1, 2, 4, 8 or 16: the last hexadecimal digit of a \
                 message's id chooses its database"
            )));
        }
        let tls_authority = decoded(&mut uri, "tlsCa")?.map(PathBuf::from);
        let tls = match uri.text("tls") {
            None | Some("off") if tls_authority.is_none() => Tls::Off,
            Some("required") => Tls::Required,
            None | Some("verified") => Tls::Verified,
            Some("off") => return Err(uri.error("tlsCa is given and tls=off")),
            Some(text) => {
                return Err(uri.error(format!("tls={text}: expected off, required or verified")));
            }
        };
        if tls == Tls::Verified && tls_authority.is_none() {
            return Err(uri.error("tls=verified needs tlsCa=FILE, the certificate of the authority"));
        }
        let options = Self {
            master,
            slave,
            database,
            username: decoded(&mut uri, "username")?.unwrap_or_else(|| "root".to_owned()),
            password: decoded(&mut uri, "password")?.unwrap_or_default(),
            connections_max: size(uri.number("maxConn", CONNECTIONS_MAX, CONNECTIONS_MIN, 1000)?),
            shard_count: shard_count as u8,
            batch_rows_max: size(uri.number("batchUpdateSize", BATCH_ROWS_MAX, 1, 100_000)?),
            purge_rows_max: size(uri.number("batchDelSize", PURGE_ROWS_MAX, 1, 1_000_000)?),
            purge_interval: Duration::from_secs(uri.number("flushSeconds", 1, 1, 3600)?),
            dedupe: uri.dedupe()?,
            resident_max: size(uri.number("resident", RESIDENT_MAX, 1, u64::from(u32::MAX - 1))?),
            adopt: decoded(&mut uri, "adopt")?
                .map(|names| names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
                .unwrap_or_default(),
            tls,
            tls_authority,
            timeout: uri.duration("timeout", TIMEOUT)?,
        };
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&options.timeout) {
            return Err(uri.error("timeout must be between 100ms and 60s"));
        }
        uri.finish()?;
        Ok(options)
    }

    /// Without the password.
    pub(crate) fn describe(&self) -> String {
        let slave = self.slave.as_ref().map_or_else(String::new, |slave| format!(",{slave}"));
        format!(
            "mysql://{}{slave}?db={}&username={}&shardnum={}",
            self.master, self.database, self.username, self.shard_count
        )
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn addresses(uri: &StoreUri<'_>) -> Result<(Address, Option<Address>), OpenError> {
    if uri.place.contains('@') {
        return Err(uri.error("name and password are the parameters username=NAME&password=PASSWORD"));
    }
    let mut addresses =
        uri.place.trim_end_matches('/').split(',').map(|text| {
            let (host, port) = match text.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()),
                None => (text, Some(PORT)),
            };
            match port {
                Some(port) if !host.is_empty() && port != 0 => Ok(Address { host: host.to_owned(), port }),
                _ => Err(uri
                    .error(format!("{text:?} is no HOST:PORT; write for example mysql://db1:3306?db=kite"))),
            }
        });
    let master = addresses.next().ok_or_else(|| uri.error("no address"))??;
    let slave = addresses.next().transpose()?;
    if addresses.next().is_some() {
        return Err(uri.error("more than two addresses; there is one master and at most one slave"));
    }
    Ok((master, slave))
}

/// A parameter with `%XX` and `+` undone, as existing configurations have them.
fn decoded(uri: &mut StoreUri<'_>, name: &'static str) -> Result<Option<String>, OpenError> {
    let Some(text) = uri.text(name) else { return Ok(None) };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let byte =
                    digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(|| {
                        uri.error(format!(
                            "{name}: a % is followed by two hexadecimal digits; %25 is the % itself"
                        ))
                    })?;
                rest = &after[2..];
                byte
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).map(Some).map_err(|_| uri.error(format!("{name} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Result<MysqlOptions, OpenError> {
        MysqlOptions::read(StoreUri::parse(uri).unwrap())
    }

    #[test]
    fn the_form_of_existing_configurations_is_read() {
        let options = read(
            "mysql://master:3306,slave:3307?db=kite&username=root&password=r%26o+t&maxConn=20&shardnum=4\
             &batchUpdateSize=1000&batchDelSize=5000&flushSeconds=2",
        )
        .unwrap();
        assert_eq!(options.master.to_string(), "master:3306");
        assert_eq!(options.slave.as_ref().unwrap().to_string(), "slave:3307");
        assert_eq!((options.username.as_str(), options.password.as_str()), ("root", "r&o t"));
        assert_eq!((options.connections_max, options.shard_count), (20, 4));
        assert_eq!((options.batch_rows_max, options.purge_rows_max), (1000, 5000));
        assert_eq!(options.purge_interval, Duration::from_secs(2));
        assert_eq!(options.describe(), "mysql://master:3306,slave:3307?db=kite&username=root&shardnum=4");
    }

    #[test]
    fn everything_has_a_default() {
        let options = read("mysql://db1").unwrap();
        assert_eq!(options.master.to_string(), "db1:3306");
        assert_eq!((options.slave, options.database.as_str(), options.shard_count), (None, "kite", 4));
        assert_eq!((options.resident_max, options.tls), (1_000_000, Tls::Off));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for (uri, word) in [
            ("mysql://db1?shardnum=3", "divide 16"),
            ("mysql://db1?shardnum=32", "from 1 to 16"),
            ("mysql://root:root@db1", "username=NAME"),
            ("mysql://a,b,c", "at most one slave"),
            ("mysql://", "HOST:PORT"),
            ("mysql://db1:port", "HOST:PORT"),
            ("mysql://db1?db=ki`te", "database name"),
            ("mysql://db1?tls=verified", "tlsCa"),
            ("mysql://db1?tls=maybe", "off, required or verified"),
            ("mysql://db1?password=100%", "%25"),
            ("mysql://db1?maxCon=3", "\"maxConn\""),
            ("mysql://db1?timeout=1ms", "100ms"),
        ] {
            let error = read(uri).unwrap_err().to_string();
            assert!(error.contains(word), "{uri}: {error}");
        }
    }

    #[test]
    fn names_without_a_port_may_be_listed_for_takeover() {
        assert_eq!(read("mysql://db1?adopt=web-01,web-02").unwrap().adopt, ["web-01", "web-02"]);
    }
}
