//! The connection on which a drain claims and reads.
//!
//! Pages are asked for ahead, the first of a claim together with the claim; their elements are read from the socket's buffer one by
//! one. When the connection breaks, what was asked for and not read to its end is asked for again on the next one: a claim by the same
//! name is the same claim.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Instant;

use crate::config::ClaimMode;
use crate::drain::claims::{Claims, Slot};
use crate::drain::page_size::PageSize;
use crate::redis::{
    Connection, Dialer, Head, Keys, Owner, RedisError, Reply, Script, Scripts, head, short_bulk, skip_crlf,
    unix_ms,
};

type Opening = Pin<Box<dyn Future<Output = Result<(Connection, Scripts), RedisError>> + Send>>;

enum State {
    Down { until: Instant },
    Opening(Opening),
    Up(Box<(Connection, Scripts)>),
}

/// What is asked for, in the order of the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Claim(Slot),
    Elements(Slot),
}

/// Where the reading of elements stands.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// Elements of the current reply that are still to come.
    left: Option<usize>,
    /// Bytes of an element that is too large to be held, with its line end.
    skip: usize,
    /// What the current reply has brought.
    elements: usize,
    bytes: usize,
}

/// What happened on a link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// There is more to read, or a connection.
    More,
    /// It broke, or could not be opened.
    Failed(RedisError),
}

/// What reading gives.
pub(crate) trait Reader {
    fn claims(&mut self) -> &mut Claims;
    /// The claim of this page has so many elements.
    fn claimed(&mut self, slot: Slot, elements: u64);
    /// The next element of a page.
    fn element(&mut self, slot: Slot, index: u32, bytes: &[u8]);
    /// The next element of a page is too large to be held.
    fn oversize(&mut self, slot: Slot, index: u32, bytes: usize);
    /// All elements of a page have been given.
    fn ended(&mut self, slot: Slot);
    /// Whether no more may be read now.
    fn is_full(&self) -> bool;
}

/// What a link has to know.
pub(crate) struct LinkContext {
    pub(crate) dialer: Dialer,
    pub(crate) keys: Keys,
    pub(crate) owner: Owner,
    pub(crate) mode: ClaimMode,
    /// Larger elements are not held.
    pub(crate) element_bytes_max: usize,
    /// Elements of a claim, at most; 0 for all that wait.
    pub(crate) claim_max: u64,
}

pub(crate) struct Link {
    context: LinkContext,
    state: State,
    expected: VecDeque<Expected>,
    reading: Reading,
    page_size: PageSize,
    /// Bytes that the buffer has to hold before reading goes on.
    wanted_bytes: usize,
    progress_at: Instant,
}

impl Link {
    pub(crate) fn new(context: LinkContext, now: Instant) -> Self {
        Self {
            context,
            state: State::Down { until: now },
            expected: VecDeque::new(),
            reading: Reading::default(),
            page_size: PageSize::default(),
            wanted_bytes: 0,
            progress_at: now,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Elements that the next page may have, from 1 to `max`.
    pub(crate) fn page_elements(&self, max: usize) -> usize {
        self.page_size.elements(max)
    }

    /// Whether no further page may be asked for before one is read to its end.
    pub(crate) fn is_far_ahead(&self) -> bool {
        self.unread() >= self.page_size.pages()
    }

    /// Pages that were asked for and not read to their end.
    pub(crate) fn unread(&self) -> usize {
        self.expected.iter().filter(|expected| matches!(expected, Expected::Elements(_))).count()
    }

    /// When an answer is overdue, if one is awaited.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        (self.is_up() && !self.expected.is_empty()).then(|| self.progress_at + self.context.dialer.timeout)
    }

    /// An answer is overdue.
    pub(crate) fn overdue(&self) -> RedisError {
        RedisError::Timeout { step: "waiting for claims", timeout: self.context.dialer.timeout }
    }

    /// Waiting is over because reading was paused.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.progress_at = now;
    }

    /// Waits for the connection, or for more on it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn event(&mut self) -> LinkEvent {
        loop {
            match &mut self.state {
                State::Down { until } => {
                    tokio::time::sleep_until((*until).into()).await;
                    self.state = State::Opening(open(&self.context));
                }
                State::Opening(opening) => match opening.await {
                    Ok(connected) => {
                        self.state = State::Up(Box::new(connected));
                        return LinkEvent::More;
                    }
                    Err(error) => return LinkEvent::Failed(error),
                },
                State::Up(connected) => {
                    return match connected.0.fill(self.wanted_bytes).await {
                        Ok(()) => {
                            self.progress_at = Instant::now();
                            LinkEvent::More
                        }
                        Err(error) => LinkEvent::Failed(error),
                    };
                }
            }
        }
    }

    /// Gives the connection up until then.
    pub(crate) fn down(&mut self, until: Instant) {
        self.state = State::Down { until };
        self.reading = Reading::default();
        self.wanted_bytes = 0;
    }

    /// Slots whose elements were not read to their end, which are no longer expected.
    pub(crate) fn take_unread(&mut self) -> Vec<Slot> {
        let unread = self.expected.drain(..).filter_map(|expected| match expected {
            Expected::Elements(slot) => Some(slot),
            Expected::Claim(_) => None,
        });
        unread.collect()
    }

    /// Queues what it takes to read a page: to make its claim, unless Redis has said that it is ours, and its elements from where
    /// reading stands.
    pub(crate) fn ask(&mut self, slot: Slot, claims: &Claims) {
        let State::Up(connected) = &mut self.state else { return };
        let Some((page, claim)) = claims.page(slot).zip(claims.claim_of(slot)) else { return };
        let (connection, scripts) = &mut **connected;
        if self.expected.is_empty() {
            self.progress_at = Instant::now();
        }
        let LinkContext { keys, owner, mode, claim_max, .. } = &self.context;
        let source = keys.source(&claim.source);
        if *mode == ClaimMode::Pop {
            connection.queue(&[b"LPOP", source.as_bytes(), page.wanted.to_string().as_bytes()]);
            self.expected.push_back(Expected::Elements(slot));
            return;
        }
        let name = owner.claim(page.claim);
        let key = keys.claim(&name);
        let from = page.first + u64::from(page.read);
        let to = page.first + u64::from(page.wanted.max(1)) - 1;
        // Nothing of a claim is settled before its length is known: until then places are counted from its head.
        let (from, to) = if claim.elements.is_none() {
            let value = format!("{} {}", claim.source.text(), unix_ms());
            let most = claim_max.to_string();
            let arguments = [name.as_bytes(), value.as_bytes(), most.as_bytes()];
            scripts.queue(connection, Script::Claim, &[&source, &keys.claims(), &key], &arguments);
            self.expected.push_back(Expected::Claim(slot));
            (from.to_string(), to.to_string())
        } else {
            (claim.place_from_end(from).to_string(), claim.place_from_end(to).to_string())
        };
        connection.queue(&[b"LRANGE", key.as_bytes(), from.as_bytes(), to.as_bytes()]);
        self.expected.push_back(Expected::Elements(slot));
    }

    /// Writes what was asked for.
    pub(crate) async fn flush(&mut self) -> Result<(), RedisError> {
        match &mut self.state {
            State::Up(connected) => connected.0.flush().await,
            _ => Ok(()),
        }
    }

    /// Reads what is there, until `reader` is full.
    pub(crate) fn read(&mut self, reader: &mut impl Reader) -> Result<(), RedisError> {
        self.wanted_bytes = 0;
        while !reader.is_full() {
            let State::Up(connected) = &mut self.state else { return Ok(()) };
            let connection = &mut connected.0;
            let Some(&expected) = self.expected.front() else {
                let surplus = connection.inbound().len();
                return if surplus == 0 {
                    Ok(())
                } else {
                    Err(RedisError::Protocol {
                        reason: format!("{surplus} bytes came that nobody asked for"),
                    })
                };
            };
            let done = match expected {
                Expected::Claim(slot) => read_claim(connection, slot, reader)?,
                Expected::Elements(slot) => {
                    let limit = self.context.element_bytes_max;
                    let read = read_elements(connection, slot, &mut self.reading, limit, reader)?;
                    self.wanted_bytes = read.unwrap_or(0);
                    if read.is_none() {
                        let Reading { elements, bytes, .. } = std::mem::take(&mut self.reading);
                        self.page_size.brought(elements, bytes);
                    }
                    read.is_none()
                }
            };
            if !done {
                return Ok(());
            }
            self.expected.pop_front();
        }
        Ok(())
    }
}

fn open(context: &LinkContext) -> Opening {
    let (dialer, mode) = (context.dialer.clone(), context.mode);
    Box::pin(async move {
        let mut connection = dialer.connect().await?;
        let scripts = match mode {
            ClaimMode::Script => Scripts::load(&mut connection).await?,
            ClaimMode::Pop => Scripts::default(),
        };
        Ok((connection, scripts))
    })
}

fn read_claim(connection: &mut Connection, slot: Slot, reader: &mut impl Reader) -> Result<bool, RedisError> {
    let Some((reply, len)) = Reply::parse(connection.inbound())? else { return Ok(false) };
    connection.consume(len);
    if let Reply::Error(refusal) = reply {
        return Err(RedisError::Refused { command: "claiming", refusal });
    }
    let Some(elements) = reply.integer().and_then(|elements| u64::try_from(elements).ok()) else {
        return Err(RedisError::Protocol { reason: format!("a claim is answered {reply:?}") });
    };
    reader.claimed(slot, elements);
    Ok(true)
}

/// Reads elements as far as they are there. Nothing once all of the reply is read, else the bytes that the next step needs.
fn read_elements(
    connection: &mut Connection,
    slot: Slot,
    reading: &mut Reading,
    element_bytes_max: usize,
    reader: &mut impl Reader,
) -> Result<Option<usize>, RedisError> {
    let mut at = 0;
    let result = read_into(connection.inbound(), &mut at, slot, reading, element_bytes_max, reader);
    connection.consume(at);
    reading.bytes += at;
    let wanted = result?;
    if wanted.is_none() {
        reader.ended(slot);
    }
    Ok(wanted)
}

fn read_into(
    bytes: &[u8],
    at: &mut usize,
    slot: Slot,
    reading: &mut Reading,
    element_bytes_max: usize,
    reader: &mut impl Reader,
) -> Result<Option<usize>, RedisError> {
    let mut left = match reading.left {
        Some(left) => left,
        None => match head(bytes)? {
            None => return Ok(Some(0)),
            Some((Head::Array(count), len)) => {
                *at = len;
                count.unwrap_or(0)
            }
            Some((Head::Bulk(None), len)) => {
                *at = len;
                0
            }
            Some((Head::Error(line), _)) => {
                let refusal = crate::redis::Refusal(String::from_utf8_lossy(line).into_owned());
                return Err(RedisError::Refused { command: "reading a claim", refusal });
            }
            Some((other, _)) => {
                return Err(RedisError::Protocol { reason: format!("elements are answered {other:?}") });
            }
        },
    };
    let first = reader.claims().page(slot).map_or(0, |page| page.read);
    let mut index = first;
    let wanted = take_elements(bytes, at, &mut left, &mut index, slot, reading, element_bytes_max, reader);
    // Also when it went wrong further on: what was taken has a fate.
    reader.claims().read(slot, index - first);
    reading.left = Some(left);
    reading.elements += (index - first) as usize;
    wanted
}

#[allow(
    clippy::too_many_arguments,
    reason = "the innermost loop; its caller accounts for what it leaves behind"
)]
fn take_elements(
    bytes: &[u8],
    at: &mut usize,
    left: &mut usize,
    index: &mut u32,
    slot: Slot,
    reading: &mut Reading,
    element_bytes_max: usize,
    reader: &mut impl Reader,
) -> Result<Option<usize>, RedisError> {
    loop {
        if reading.skip > 0 {
            let skipped = reading.skip.min(bytes.len() - *at);
            *at += skipped;
            reading.skip -= skipped;
            if reading.skip > 0 {
                return Ok(Some(0));
            }
        }
        if *left == 0 {
            return Ok(None);
        }
        let rest = &bytes[*at..];
        let (len, head_len) = match short_bulk(rest) {
            Some(short) => short,
            None => match head(rest)? {
                Some((Head::Bulk(Some(len)), head_len)) => (len, head_len),
                Some((head, _)) => {
                    return Err(RedisError::Protocol { reason: format!("an element is answered {head:?}") });
                }
                None => return Ok(Some(0)),
            },
        };
        if len > element_bytes_max {
            reader.oversize(slot, *index, len);
            *at += head_len;
            reading.skip = len + 2;
        } else {
            let end = head_len + len;
            if rest.len() < end + 2 {
                return Ok(Some(end + 2));
            }
            skip_crlf(&rest[end..])?;
            reader.element(slot, *index, &rest[head_len..end]);
            *at += end + 2;
        }
        *index += 1;
        *left -= 1;
    }
}
