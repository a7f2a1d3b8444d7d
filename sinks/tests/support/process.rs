//! Signals to processes that a test started, by their pids.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::net::TcpListener;
use std::process::{Command, Stdio};

pub fn signal(name: &str, pids: &[u32]) {
    for pid in pids {
        // A child of a server may have ended by itself.
        let _gone = Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }
}

pub fn alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // A zombie has ended; whoever started it has not asked yet.
    state.is_ok_and(|state| !state.contains(") Z"))
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
