//! What the broker's process used, from `/proc`.

use std::fs;
use std::io;

/// A broker under test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// CPU seconds used so far, user and system.
    pub(crate) fn cpu_seconds(self) -> io::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name in brackets may hold anything; utime and stime are fields 14 and 15 (proc(5)).
        let ticks = stat.rsplit_once(") ").and_then(|(_, rest)| {
            let mut fields = rest.split(' ').skip(11).map(str::parse::<u64>);
            Some(fields.next()?.ok()? + fields.next()?.ok()?)
        });
        // Linux gives user space 100 ticks a second on every architecture.
        ticks
            .map(|ticks| ticks as f64 / 100.0)
            .ok_or_else(|| io::Error::other("unreadable /proc/PID/stat"))
    }

    /// Resident bytes.
    pub(crate) fn resident_bytes(self) -> io::Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other("unreadable /proc/PID/smaps_rollup"))
    }
}
