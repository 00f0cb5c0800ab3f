//! What happens in Redis in one step, whoever dies.
//!
//! Each script can be run again after a broken connection: it finds that it has been run, or does a thing that may be done twice.
//!
//! A claim is a RENAME of all that waits, so that no element is copied: reading it with LRANGE and settling its head with LTRIM costs
//! Redis what LPOP of as many costs. Where a claim is to leave some for others its elements are copied, which costs more than twice that
//! by SORT BY nosort STORE, and about seven times by LRANGE and RPUSH in the script. Elements are named by their place from the list's
//! end, which settling the head does not change.

use crate::redis::{Connection, RedisError};

/// From this version on SORT with BY nosort and LIMIT looks at nothing but the range, and a script may run on a full server.
const FAST_MAJOR_VERSION: u32 = 7;

/// A script that runs when the server's memory is full: each frees what it takes.
const FLAGS: &str = "#!lua flags=allow-oom\n";

/// How many elements the claim has. The name stands in the hash before an element moves, so that none is ever in a list that nobody
/// knows. A claim that is held already stays as it is, for its reply was lost; it has none while it is being put back. A user who may not
/// trim lists could not settle what is claimed: trimming nothing finds that out before. A queue that was to expire does not take along
/// what is claimed.
///
/// KEYS source, claims, claim; ARGV name, value, the most elements or 0 for all.
const CLAIM_HEAD: &str = "
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return redis.call('LLEN', KEYS[3]) end
local waiting = redis.call('LLEN', KEYS[1])
if waiting == 0 then return 0 end
local trims = redis.pcall('LTRIM', KEYS[1], 0, -1)
if trims.err then return trims end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local most = tonumber(ARGV[3])
if most > 0 and most < waiting then
";
const COPY_FAST: &str = "
redis.call('SORT', KEYS[1], 'BY', 'nosort', 'LIMIT', 0, most, 'STORE', KEYS[3])
";
/// For servers whose SORT would load the whole list.
const COPY_ANY: &str = "
local first = 0
while first < most do
  local last = math.min(first + 1000, most) - 1
  redis.call('RPUSH', KEYS[3], unpack(redis.call('LRANGE', KEYS[1], first, last)))
  first = last + 1
end
";
const CLAIM_TAIL: &str = "
  redis.call('LTRIM', KEYS[1], most, -1)
  return most
end
local moved = redis.pcall('RENAME', KEYS[1], KEYS[3])
if moved.err then
  redis.call('HDEL', KEYS[2], ARGV[1])
  return moved
end
redis.pcall('PERSIST', KEYS[3])
return waiting
";

/// How many of the claims were still held. Of each the given number of elements stays, the last ones.
///
/// KEYS claims, claim...; ARGV (name, elements)...
const SETTLE: &str = "
local held = 0
for i = 2, #KEYS do
  local name, keep = ARGV[2 * i - 3], ARGV[2 * i - 2]
  held = held + redis.call('EXISTS', KEYS[i])
  if keep ~= '0' then
    redis.call('LTRIM', KEYS[i], '-' .. keep, -1)
  elseif redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('LTRIM', KEYS[i], 1, 0)
    redis.call('HDEL', KEYS[1], name)
  end
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

/// `[elements of the claim that are still to go back, 1 when none is]`, the first -1 when the claim is not held any more.
///
/// A claim may be as long as its queue was. So it goes back in steps that Redis can take between others, each of a bounded number of
/// elements and each leaving both lists in their order: the shorter one is moved, either the claim's end to the head of its source, or
/// the source's head to the end of the claim, which then takes the source's name. First of all the list gets another name, so that
/// an owner who lives after all neither reads nor settles what may have got elements that are not its own.
///
/// KEYS claims, claim, list that goes back, source; ARGV name, value, elements.
const PUT_BACK: &str = "
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {-1, 1} end
local trims = redis.pcall('LTRIM', KEYS[4], 0, -1)
if trims.err then return trims end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAMENX', KEYS[2], KEYS[3]) end
local held, waiting = redis.call('LLEN', KEYS[3]), redis.call('LLEN', KEYS[4])
local count = math.min(held, waiting, tonumber(ARGV[3]))
local left = count
while left > 0 do
  local some = math.min(left, 1000)
  left = left - some
  if held <= waiting then
    local elements, turned = redis.call('LRANGE', KEYS[3], -some, -1), {}
    for i = 1, some do turned[i] = elements[some + 1 - i] end
    redis.call('LPUSH', KEYS[4], unpack(turned))
    redis.call('LTRIM', KEYS[3], 0, -some - 1)
  else
    redis.call('RPUSH', KEYS[3], unpack(redis.call('LRANGE', KEYS[4], 0, some - 1)))
    redis.call('LTRIM', KEYS[4], some, -1)
  end
end
if count < math.min(held, waiting) then return {held, 0} end
if held > waiting then redis.call('RENAME', KEYS[3], KEYS[4]) end
redis.call('HDEL', KEYS[1], ARGV[1])
return {held, 1}
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

    fn text(self, is_fast: bool) -> String {
        let flags = if is_fast { FLAGS } else { "" };
        let body = match self {
            Self::Claim => [CLAIM_HEAD, if is_fast { COPY_FAST } else { COPY_ANY }, CLAIM_TAIL].concat(),
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
        let is_fast = major_version(connection).await? >= FAST_MAJOR_VERSION;
        Self::load_as(connection, is_fast).await
    }

    async fn load_as(connection: &mut Connection, is_fast: bool) -> Result<Self, RedisError> {
        let mut scripts = Self::default();
        for (script, digest) in Script::ALL.into_iter().zip(&mut scripts.digests) {
            let text = script.text(is_fast);
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

    async fn connect(redis: &Redis) -> Connection {
        let dialer = Dialer {
            address: Address::parse(&redis.host()).unwrap(),
            timeout: Duration::from_secs(10),
            tls: None,
            name: "test".into(),
        };
        dialer.connect().await.unwrap()
    }

    async fn push(connection: &mut Connection, key: &str, numbers: std::ops::Range<usize>) {
        let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
        let words =
            [b"RPUSH".as_slice(), key.as_bytes()].into_iter().chain(texts.iter().map(String::as_bytes));
        connection.ask("RPUSH", &words.collect::<Vec<_>>()).await.unwrap();
    }

    async fn list(connection: &mut Connection, key: &str) -> Vec<usize> {
        let words = [b"LRANGE".as_slice(), key.as_bytes(), b"0", b"-1"];
        let Reply::Array(elements) = connection.ask("LRANGE", &words).await.unwrap() else {
            panic!("a list")
        };
        elements.iter().map(|element| element.text().unwrap().parse().unwrap()).collect()
    }

    async fn run(
        connection: &mut Connection,
        scripts: &Scripts,
        script: Script,
        keys: &[&str],
        arguments: &[&str],
    ) -> Reply {
        let arguments: Vec<&[u8]> = arguments.iter().map(|text| text.as_bytes()).collect();
        scripts.queue(connection, script, keys, &arguments);
        connection.flush().await.unwrap();
        connection.reply().await.unwrap()
    }

    const CLAIM_KEYS: [&str; 3] = ["queue", "claims", "claim"];
    const BACK_KEYS: [&str; 4] = ["claims", "claim", "back", "queue"];

    fn all(range: std::ops::Range<usize>) -> Vec<usize> {
        range.collect()
    }

    /// The scripts for older servers run on newer ones too.
    #[tokio::test]
    async fn a_claim_has_all_that_waits_and_is_settled_from_its_head() {
        let redis = Redis::start().await;
        let mut connection = connect(&redis).await;
        for is_fast in [true, false] {
            push(&mut connection, "queue", 0..6000).await;
            let scripts = Scripts::load_as(&mut connection, is_fast).await.unwrap();
            connection.ask("EXPIRE", &[b"EXPIRE", b"queue", b"100"]).await.unwrap();
            // Asked again, it is the same claim.
            for _ in 0..2 {
                let claimed =
                    run(&mut connection, &scripts, Script::Claim, &CLAIM_KEYS, &["name", "queue 1", "0"])
                        .await;
                assert_eq!(claimed, Reply::Integer(6000), "fast: {is_fast}");
                push(&mut connection, "queue", 6000..6001).await;
            }
            let expires = connection.ask("TTL", &[b"TTL", b"claim"]).await.unwrap();
            assert_eq!(expires, Reply::Integer(-1), "never");
            for keep in [3500, 3500, 1, 0] {
                let arguments = ["name", &keep.to_string()];
                let held =
                    run(&mut connection, &scripts, Script::Settle, &["claims", "claim"], &arguments).await;
                assert_eq!(held, Reply::Integer(1));
                assert_eq!(list(&mut connection, "claim").await, all(6000 - keep..6000));
            }
            let exists = connection.ask("EXISTS", &[b"EXISTS", b"claims"]).await.unwrap();
            assert_eq!(exists, Reply::Integer(0));
            connection.ask("DEL", &[b"DEL", b"queue"]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_claim_that_has_a_bound_leaves_the_rest() {
        let redis = Redis::start().await;
        let mut connection = connect(&redis).await;
        for is_fast in [true, false] {
            connection.ask("DEL", &[b"DEL", b"queue", b"claims", b"claim"]).await.unwrap();
            push(&mut connection, "queue", 0..6000).await;
            let scripts = Scripts::load_as(&mut connection, is_fast).await.unwrap();
            // Asked again, it is the same claim.
            for _ in 0..2 {
                let arguments = ["name", "queue 1", "2500"];
                let claimed = run(&mut connection, &scripts, Script::Claim, &CLAIM_KEYS, &arguments).await;
                assert_eq!(claimed, Reply::Integer(2500), "fast: {is_fast}");
            }
            assert_eq!(list(&mut connection, "claim").await, all(0..2500));
            assert_eq!(list(&mut connection, "queue").await, all(2500..6000));
        }
    }

    /// Puts back a claim of `held` elements while others wait, in steps; somebody looks at each step.
    async fn put_back_with(held: usize, waiting: usize) {
        let redis = Redis::start().await;
        let mut connection = connect(&redis).await;
        let scripts = Scripts::load(&mut connection).await.unwrap();
        push(&mut connection, "queue", 0..held).await;
        run(&mut connection, &scripts, Script::Claim, &CLAIM_KEYS, &["name", "queue 1", "0"]).await;
        push(&mut connection, "queue", held..held + waiting).await;
        let mut steps = 0;
        loop {
            let arguments = ["name", "queue 1", "1500"];
            let reply = run(&mut connection, &scripts, Script::PutBack, &BACK_KEYS, &arguments).await;
            let Reply::Array(reply) = reply else { panic!("two numbers, not {reply:?}") };
            steps += 1;
            let both = [list(&mut connection, "back").await, list(&mut connection, "queue").await].concat();
            assert_eq!(both, all(0..held + waiting), "step {steps} of {held} and {waiting}");
            if reply[1] == Reply::Integer(1) {
                break;
            }
            // The owner lives after all: it finds nothing of its own.
            let name = ["name", "2"];
            let settled = run(&mut connection, &scripts, Script::Settle, &["claims", "claim"], &name).await;
            assert_eq!(settled, Reply::Integer(0));
            let again =
                run(&mut connection, &scripts, Script::Claim, &CLAIM_KEYS, &["name", "queue 1", "0"]).await;
            assert_eq!(again, Reply::Integer(0));
        }
        assert_eq!(steps, held.min(waiting).div_ceil(1500).max(1));
        assert_eq!(list(&mut connection, "queue").await.len(), held + waiting);
        let late =
            run(&mut connection, &scripts, Script::PutBack, &BACK_KEYS, &["name", "queue 1", "1"]).await;
        assert_eq!(late, Reply::Array(vec![Reply::Integer(-1), Reply::Integer(1)]));
    }

    #[tokio::test]
    async fn a_claim_goes_back_in_its_order_whichever_list_is_longer() {
        for (held, waiting) in [(10, 1), (10, 4000), (4000, 10), (4000, 5000), (5000, 4000)] {
            put_back_with(held, waiting).await;
        }
    }
}
