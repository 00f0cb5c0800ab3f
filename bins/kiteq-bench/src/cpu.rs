//! CPU time and memory of processes, from /proc.

use std::path::Path;

use serde::Serialize;

/// The unit of CPU times in /proc: the kernel shows them to user space in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// User plus system CPU time of a process so far, in seconds; `None` when it cannot be read.
#[must_use]
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<f64> {
    // The command's name may hold spaces and parentheses: the fields begin after the last one. utime and stime are the
    // 14th and 15th of all fields, the state is the third.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND)
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Of that, memory of its own, which the kernel cannot take back.
    pub anonymous: u64,
    /// Of that, pages of files, such as mapped segments, which the kernel can take back.
    pub file: u64,
    /// The most that was resident at once.
    pub peak: u64,
}

/// Memory of a process; `None` when it cannot be read.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    parse_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_status(status: &str) -> Option<Memory> {
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident: bytes("VmRSS")?,
        anonymous: bytes("RssAnon")?,
        file: bytes("RssFile")?,
        peak: bytes("VmHWM")?,
    })
}

/// CPU time over a measurement, of this process and of the broker where it runs on this machine.
#[derive(Debug, Clone, Default)]
pub struct CpuWatch {
    broker_pid: Option<u32>,
    begin: [Option<f64>; 2],
    end: [Option<f64>; 2],
}

impl CpuWatch {
    /// Notes the times so far.
    #[must_use]
    pub fn start(broker_pid: Option<u32>) -> Self {
        let mut watch = Self { broker_pid, ..Self::default() };
        watch.begin = watch.read();
        watch
    }

    /// Notes the end.
    pub fn stop(&mut self) {
        self.end = self.read();
    }

    fn read(&self) -> [Option<f64>; 2] {
        [cpu_seconds(std::process::id()), self.broker_pid.and_then(cpu_seconds)]
    }

    /// Seconds of this process and of the broker from the start to the end.
    #[must_use]
    pub fn whole(&self) -> [Option<f64>; 2] {
        std::array::from_fn(|who| Some(self.end[who]? - self.begin[who]?))
    }
}

/// The process of this machine that listens on `port`, where its sockets may be looked at: same user, or root.
#[must_use]
pub fn listener_pid(port: u16) -> Option<u32> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| listening_sockets(&table, port))
        .collect();
    let owns = |process: &Path| {
        let descriptors = std::fs::read_dir(process.join("fd")).ok()?;
        let targets = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets
            .filter_map(|target| target.to_str().map(str::to_owned))
            .find(|target| sockets.contains(target))
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|process| Some((process.file_name().to_str()?.parse().ok()?, process.path())))
        .find_map(|(pid, path)| owns(&path).map(|_| pid))
}

/// The sockets of /proc/net/tcp that listen on `port`, as their descriptors' link targets name them.
fn listening_sockets(table: &str, port: u16) -> Vec<String> {
    let inodes = table.lines().filter_map(|line| listening_inode(line, port));
    inodes.map(|inode| format!("socket:[{inode}]")).collect()
}

/// The inode of a line of /proc/net/tcp, when that is a socket that listens on `port`.
fn listening_inode(line: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
    listens.then(|| fields.get(9).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(parse_stat(stat), Some(3.0));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn own_memory_and_cpu_time_can_be_read() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.anonymous);
        assert!(cpu_seconds(std::process::id()).is_some());
        assert!(cpu_seconds(u32::MAX).is_none());
    }

    #[test]
    fn the_listener_of_a_port_is_found() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listener_pid(port), Some(std::process::id()));
    }
}
