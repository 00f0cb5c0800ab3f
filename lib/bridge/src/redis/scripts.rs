//! What happens in Redis in one step, whoever dies.
//!
//! Each script can be run again after a broken connection: it finds that it has been run, or does a thing that may be done twice.
//! Redis's time for 1,000 elements of 222 bytes, roughly, against LPOP of as many (1.0): claiming by SORT BY nosort STORE and LTRIM 1.7,
//! by LPOP and RPUSH in the script 6.5; reading them with LRANGE behind the script 1.4. A claim of all that waits is a RENAME.

use crate::redis::{Connection, RedisError};

/// From this version on SORT with BY nosort and LIMIT looks at nothing but the range, and a script may run on a full server.
const FAST_MAJOR_VERSION: u32 = 7;

/// A script that runs when the server's memory is full: each frees what it takes.
const FLAGS: &str = "#!lua flags=allow-oom\n";

/// `[elements in the claim, elements left]`. The name stands in the hash before an element moves, so that none is ever in a list
/// that nobody knows. A claim that is held already stays as it is: its reply was lost.
///
/// KEYS source, claims, claim; ARGV name, value, elements.
const CLAIM_HEAD: &str = "
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 and redis.call('EXISTS', KEYS[3]) == 1 then
  return {redis.call('LLEN', KEYS[3]), redis.call('LLEN', KEYS[1])}
end
local waiting = redis.call('LLEN', KEYS[1])
if waiting == 0 then redis.call('HDEL', KEYS[2], ARGV[1]) return {0, 0} end
local wanted = tonumber(ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if waiting <= wanted then
  redis.call('RENAME', KEYS[1], KEYS[3])
  return {waiting, 0}
end
";
const MOVE_FAST: &str = "
redis.call('SORT', KEYS[1], 'BY', 'nosort', 'LIMIT', 0, wanted, 'STORE', KEYS[3])
";
/// For servers whose SORT would load the whole list.
const MOVE_ANY: &str = "
local first = 0
while first < wanted do
  local last = math.min(first + 1000, wanted) - 1
  redis.call('RPUSH', KEYS[3], unpack(redis.call('LRANGE', KEYS[1], first, last)))
  first = last + 1
end
";
/// What was copied leaves its list, or is no claim: a user who may not trim lists would get it again and again.
const CLAIM_TAIL: &str = "
local trimmed = redis.pcall('LTRIM', KEYS[1], wanted, -1)
if trimmed.err then
  redis.call('DEL', KEYS[3])
  redis.call('HDEL', KEYS[2], ARGV[1])
  return trimmed
end
return {wanted, waiting - wanted}
";

/// How many of the claims were still held. KEYS claims, claim...; ARGV name...
const SETTLE: &str = "
local held = 0
for i = 1, #ARGV do
  redis.call('DEL', KEYS[i + 1])
  held = held + redis.call('HDEL', KEYS[1], ARGV[i])
end
return held
";

/// The length of the parked list after it got these elements of a claim, or PARK_FULL or PARK_GONE.
///
/// KEYS claim, parked, businesses; ARGV longest, business, time, (first, last)...
const PARK: &str = "
if redis.call('EXISTS', KEYS[1]) == 0 then return -2 end
local more = 0
for i = 4, #ARGV, 2 do more = more + ARGV[i + 1] - ARGV[i] + 1 end
local parked = redis.call('LLEN', KEYS[2])
if parked > 0 and parked + more > tonumber(ARGV[1]) then return -1 end
redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3])
for i = 4, #ARGV, 2 do
  local first, last = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  while first <= last do
    local stop = math.min(first + 999, last)
    local elements = redis.call('LRANGE', KEYS[1], first, stop)
    if #elements > 0 then parked = redis.call('RPUSH', KEYS[2], unpack(elements)) end
    first = stop + 1
  end
end
return parked
";
/// The parked list is at its bound.
pub(crate) const PARK_FULL: i64 = -1;
/// The claim is no longer ours: somebody took us for dead and put it back.
pub(crate) const PARK_GONE: i64 = -2;

/// How many elements went back, or -1 when the claim is not held any more. The last of the claim goes first, so that the order is
/// the old one. KEYS claims, claim, source; ARGV name, value.
const PUT_BACK: &str = "
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end
local elements = redis.call('LLEN', KEYS[2])
if elements > 0 then
  if redis.call('EXISTS', KEYS[3]) == 0 then
    redis.call('RENAME', KEYS[2], KEYS[3])
  else
    for i = 1, elements do redis.call('RPOPLPUSH', KEYS[2], KEYS[3]) end
  end
end
redis.call('HDEL', KEYS[1], ARGV[1])
return elements
";

/// The number of dead letters after this one, whose element goes to a list of its own; PARK_GONE as above. It is tried again when the
/// letter cannot be written: nothing is left behind then.
///
/// KEYS claim, dead, oversize; ARGV index, letter.
const OVERSIZE: &str = "
local element = redis.call('LINDEX', KEYS[1], ARGV[1])
if not element then return -2 end
redis.call('RPUSH', KEYS[3], element)
local letters = redis.pcall('RPUSH', KEYS[2], ARGV[2])
if type(letters) == 'table' then redis.call('RPOP', KEYS[3]) end
return letters
";

/// How many parked elements of a business that is no longer served are left after some went back to the queue's head.
///
/// KEYS parked, queue, businesses; ARGV business, elements.
const UNPARK: &str = "
for i = 1, math.min(tonumber(ARGV[2]), redis.call('LLEN', KEYS[1])) do redis.call('RPOPLPUSH', KEYS[1], KEYS[2]) end
local left = redis.call('LLEN', KEYS[1])
if left == 0 then redis.call('HDEL', KEYS[3], ARGV[1]) end
return left
";

/// A script, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    Claim,
    Settle,
    Park,
    PutBack,
    Oversize,
    Unpark,
}

impl Script {
    const ALL: [Self; 6] =
        [Self::Claim, Self::Settle, Self::Park, Self::PutBack, Self::Oversize, Self::Unpark];

    fn text(self, fast: bool) -> String {
        let flags = if fast { FLAGS } else { "" };
        let body = match self {
            Self::Claim => [CLAIM_HEAD, if fast { MOVE_FAST } else { MOVE_ANY }, CLAIM_TAIL].concat(),
            Self::Settle => SETTLE.to_owned(),
            Self::Park => PARK.to_owned(),
            Self::PutBack => PUT_BACK.to_owned(),
            Self::Oversize => OVERSIZE.to_owned(),
            Self::Unpark => UNPARK.to_owned(),
        };
        format!("{flags}{body}")
    }
}

/// The digests under which a server knows the scripts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scripts {
    digests: [String; Script::ALL.len()],
}

impl Scripts {
    /// Gives the scripts to the server.
    pub(crate) async fn load(connection: &mut Connection) -> Result<Self, RedisError> {
        let fast = major_version(connection).await? >= FAST_MAJOR_VERSION;
        Self::load_as(connection, fast).await
    }

    async fn load_as(connection: &mut Connection, fast: bool) -> Result<Self, RedisError> {
        let mut scripts = Self::default();
        for (script, digest) in Script::ALL.into_iter().zip(&mut scripts.digests) {
            let text = script.text(fast);
            let words: [&[u8]; 3] = [b"SCRIPT", b"LOAD", text.as_bytes()];
            *digest = connection.ask("SCRIPT LOAD", &words).await?.text().unwrap_or_default();
        }
        Ok(scripts)
    }

    /// Queues a call.
    pub(crate) fn queue(
        &self,
        connection: &mut Connection,
        script: Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) {
        connection.queue_header(3 + keys.len() + arguments.len());
        connection.queue_word(b"EVALSHA");
        connection.queue_word(self.digests[script as usize].as_bytes());
        connection.queue_word(keys.len().to_string().as_bytes());
        keys.iter().for_each(|key| connection.queue_word(key.as_bytes()));
        arguments.iter().for_each(|argument| connection.queue_word(argument));
    }
}

/// The first number of the server's version; 0 when it does not tell.
async fn major_version(connection: &mut Connection) -> Result<u32, RedisError> {
    let info = match connection.ask("INFO", &[b"INFO", b"server"]).await {
        Ok(reply) => reply.text().unwrap_or_default(),
        // A server that only lacks INFO, or refuses it to this user.
        Err(RedisError::Refused { refusal, .. }) if matches!(refusal.kind(), "ERR" | "NOPERM") => {
            String::new()
        }
        Err(error) => return Err(error),
    };
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    Ok(version.and_then(|version| version.split('.').next()?.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kiteq_testkit::Redis;

    use super::*;
    use crate::redis::{Address, Dialer, Reply};

    async fn numbers(connection: &mut Connection, key: &str) -> Vec<usize> {
        let words = [b"LRANGE".as_slice(), key.as_bytes(), b"0", b"-1"];
        let Reply::Array(elements) = connection.ask("LRANGE", &words).await.unwrap() else {
            panic!("a list")
        };
        elements.iter().map(|element| element.text().unwrap().parse().unwrap()).collect()
    }

    /// The scripts for older servers run on newer ones too.
    #[tokio::test]
    async fn a_claim_has_the_first_elements_in_their_order_on_servers_of_any_version() {
        let redis = Redis::start().await;
        let dialer = Dialer {
            address: Address::parse(&redis.host()).unwrap(),
            timeout: Duration::from_secs(10),
            tls: None,
            name: "test".into(),
        };
        let mut connection = dialer.connect().await.unwrap();
        for fast in [true, false] {
            connection.ask("DEL", &[b"DEL", b"queue", b"claims", b"claim"]).await.unwrap();
            let texts: Vec<String> = (0..6000).map(|number: usize| number.to_string()).collect();
            let words = [b"RPUSH".as_slice(), b"queue"].into_iter().chain(texts.iter().map(String::as_bytes));
            connection.ask("RPUSH", &words.collect::<Vec<_>>()).await.unwrap();
            let scripts = Scripts::load_as(&mut connection, fast).await.unwrap();
            // Asked again, it is the same claim.
            for _ in 0..2 {
                let arguments: [&[u8]; 3] = [b"name", b"queue 1", b"2500"];
                scripts.queue(&mut connection, Script::Claim, &["queue", "claims", "claim"], &arguments);
                connection.flush().await.unwrap();
                let counts = Reply::Array(vec![Reply::Integer(2500), Reply::Integer(3500)]);
                assert_eq!(connection.reply().await.unwrap(), counts, "fast: {fast}");
            }
            assert_eq!(numbers(&mut connection, "claim").await, (0..2500).collect::<Vec<_>>());
            assert_eq!(numbers(&mut connection, "queue").await, (2500..6000).collect::<Vec<_>>());
        }
    }
}
