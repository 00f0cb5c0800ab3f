//! How fast a store takes messages of 1 KiB, beside what the file system does with the same bytes.
//!
//! `cargo run --release -p kiteq-store --example append_rate -- [MESSAGES] [DIRECTORY] [keep|settle]`
//!
//! The bare loop writes the same bytes in the same batches into one preallocated file; with sync=group both make every
//! batch durable. `keep` leaves all messages in the store and then measures how long a restart takes to find them again.

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kiteq_protocol::{Message, MessageId, MessageKind, pb};
use kiteq_store::{AppendOutcome, SharedStore, Slot};
use prost::Message as _;

const BODY_BYTES: usize = 1024;
/// Messages in one call.
const BATCH: usize = 64;
/// Calls that are not answered yet.
const CALLS_IN_FLIGHT: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let messages: u64 = arguments.next().unwrap_or_else(|| "1000000".to_owned()).parse()?;
    let directory = arguments.next().unwrap_or_else(|| "./append-rate-data".to_owned());
    let keep = arguments.next().as_deref() == Some("keep");
    println!("{messages} messages of {BODY_BYTES} bytes below {directory}");
    println!("{:<16} {:>12} {:>12} {:>8}", "", "bare msg/s", "store msg/s", "ratio");
    for sync in ["os", "group"] {
        std::fs::create_dir_all(&directory)?;
        let bare = bare_rate(Path::new(&directory), messages, sync == "group")?;
        let place = format!("{directory}/store");
        let store = kiteq_store::open(&format!("mmap://{place}?sync={sync}"))?;
        store.recover(&mut |_| {})?;
        let rate = store_rate(&store, messages, !keep)?;
        println!("{sync:<16} {bare:>12.0} {rate:>12.0} {:>8.2}", rate / bare);
        store.close()?;
        drop(store);
        if keep {
            restart(&place, sync)?;
        }
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

fn bare_rate(directory: &Path, messages: u64, sync: bool) -> Result<f64, Box<dyn Error>> {
    let path = directory.join("bare");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    // As much as the store has waiting when it writes.
    let record = BODY_BYTES + 150;
    let buffer = vec![7; record * BATCH * CALLS_IN_FLIGHT];
    let started = Instant::now();
    let mut written = 0;
    let mut offset = 0;
    while written < messages {
        file.write_all_at(&buffer, offset)?;
        if sync {
            file.sync_data()?;
        }
        written += (BATCH * CALLS_IN_FLIGHT) as u64;
        offset = (offset + buffer.len() as u64) % (256 << 20);
    }
    let rate = written as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

fn store_rate(store: &SharedStore, messages: u64, settle: bool) -> Result<f64, Box<dyn Error>> {
    let header = pb::Header {
        message_id: "0".repeat(32),
        topic: "trade".to_owned(),
        message_type: "pay-succ".to_owned(),
        expired_time: 2_000_000_000,
        deliver_limit: 100,
        group_id: "p-example".to_owned(),
        commit: true,
        fly: false,
        ..pb::Header::default()
    };
    let encoded = pb::BytesMessage { header, body: vec![b'b'; BODY_BYTES].into() }.encode_to_vec();
    let template = Message::decode(MessageKind::Bytes, &encoded.into())?;
    let mut random = fastrand::Rng::new();
    let (answered, answers) = mpsc::sync_channel(CALLS_IN_FLIGHT);
    let refused = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut sent = 0;
    let mut in_flight = 0;
    while sent < messages || in_flight > 0 {
        if sent < messages && in_flight < CALLS_IN_FLIGHT {
            let batch: Vec<Message> = (0..BATCH)
                .map(|_| {
                    let mut message = template.clone();
                    message.id = MessageId(random.u128(..).to_le_bytes());
                    message
                })
                .collect();
            let (answered, refused) = (answered.clone(), refused.clone());
            store.append(
                batch,
                Box::new(move |outcomes| {
                    let slots: Vec<Slot> = outcomes
                        .iter()
                        .filter_map(|(_, outcome)| match outcome {
                            AppendOutcome::Stored(slot) => Some(*slot),
                            _ => None,
                        })
                        .collect();
                    refused.fetch_add((outcomes.len() - slots.len()) as u64, Ordering::Relaxed);
                    // The other end waits for every answer.
                    let _ = answered.send(slots);
                }),
            );
            sent += BATCH as u64;
            in_flight += 1;
            continue;
        }
        let slots = answers.recv_timeout(Duration::from_secs(60))?;
        in_flight -= 1;
        if settle {
            store.settle(slots);
        }
    }
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    match refused.load(Ordering::Relaxed) {
        0 => Ok(rate),
        refused => Err(format!("{refused} messages were refused").into()),
    }
}

fn restart(place: &str, sync: &str) -> Result<(), Box<dyn Error>> {
    let (before, cpu_before) = (resident_mib(), cpu_seconds());
    let started = Instant::now();
    let store = kiteq_store::open(&format!("mmap://{place}?sync={sync}"))?;
    let mut found = 0u64;
    let mut peak = 0;
    store.recover(&mut |_| {
        found += 1;
        if found.is_multiple_of(1_000_000) {
            peak = peak.max(resident_mib());
        }
    })?;
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
    println!("restart: {found} messages found in {took:.1} s ({cpu:.1} s of CPU time)");
    println!("         {before} MiB resident before, {peak} MiB at most");
    let started = Instant::now();
    let (sender, receiver) = mpsc::sync_channel(4);
    let mut read = 0u64;
    let slots: Vec<Slot> = (0..u32::try_from(found)?).map(Slot).collect();
    for part in slots.chunks(512) {
        let sender = sender.clone();
        store.load(
            part.to_vec(),
            Box::new(move |loaded| {
                // The other end waits for every answer.
                let _ = sender.send(loaded.iter().filter(|loaded| loaded.is_ok()).count());
            }),
        );
        read += receiver.recv_timeout(Duration::from_secs(60))? as u64;
    }
    let rate = read as f64 / started.elapsed().as_secs_f64();
    println!("read back: {read} messages, {rate:.0} msg/s, {} MiB resident", resident_mib());
    store.close()?;
    Ok(())
}

/// CPU time of this process so far; the machine may have other things to do.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may contain spaces; user and system time are the 12th and 13th fields after it, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks =
        |index: usize| fields.split_whitespace().nth(index).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
