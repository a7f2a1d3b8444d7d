//! A PostgreSQL server of its own: a fresh cluster in a temporary folder, on a free port of loopback.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{alive, free_port, signal};

/// Ended, by its own pid, when dropped.
pub struct Postgres {
    folder: tempfile::TempDir,
    pub port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl Postgres {
    /// Starts a fresh one.
    pub fn start() -> Self {
        let mut postgres = Self::prepare();
        postgres.run();
        postgres
    }

    /// Everything but started. `option`s go to the server as `-c`.
    pub fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let postgres = Postgres {
            folder,
            port: free_port(),
            options: Vec::new(),
            child: None,
        };
        let done = postgres
            .command("initdb")
            .args([
                "--username=meridian",
                "--auth=trust",
                "--no-sync",
                "--no-instructions",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .output()
            .unwrap();
        assert!(done.status.success(), "initdb: {done:?}");
        postgres
    }

    pub fn option(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// Puts a file where the server reads it, as its own.
    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// Starts the server on its data, and waits until it answers.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut command = self.command("postgres");
        let port = format!("port={}", self.port);
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        for option in [
            "listen_addresses=127.0.0.1",
            &port,
            &sockets,
            // A process that is killed leaves its writes to the system: only a power cut would need this.
            "fsync=off",
            "shared_buffers=16MB",
        ]
        .into_iter()
        .chain(self.options.iter().map(String::as_str))
        {
            command.args(["-c", option]);
        }
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.child = Some(child.unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.psql("postgres", "select 1").is_err() {
            assert!(Instant::now() < deadline, "no answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let there = "select count(*) from pg_database where datname = 'meridian'";
        if self.psql("postgres", there).unwrap() == "0" {
            self.psql("postgres", "create database meridian").unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("postgres://meridian@127.0.0.1:{}/meridian", self.port)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What `psql` says: one row a line, columns parted by `|`.
    pub fn query(&self, sql: &str) -> String {
        let said = self.psql("meridian", sql);
        said.unwrap_or_else(|said| panic!("{sql}: {said}"))
    }

    pub fn count(&self, table: &str) -> u64 {
        self.query(&format!("select count(*) from {table}"))
            .parse()
            .unwrap()
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let done = Command::new(binary("psql"))
            .args(["-h", "127.0.0.1", "-U", "meridian", "-d", database, "-At"])
            .args(["-p", &self.port.to_string(), "-v", "ON_ERROR_STOP=1"])
            .args(["-X", "-q", "-c", sql])
            .env("PGSSLMODE", "prefer")
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .unwrap();
        if done.status.success() {
            Ok(String::from_utf8(done.stdout)
                .unwrap()
                .trim_end()
                .to_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into_owned())
        }
    }

    /// `kill -9` of the server and all its processes; what was committed is there after the next [`Postgres::run`].
    pub fn kill(&mut self) {
        let pids = self.pids();
        signal("KILL", &pids);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        // The backends are no children of ours: wait until they are gone, since the next server asks for that.
        let deadline = Instant::now() + Duration::from_secs(20);
        while pids.iter().any(|pid| alive(*pid)) {
            assert!(Instant::now() < deadline, "a backend does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server's processes where they are: connections stay, and nobody answers.
    pub fn freeze(&self) {
        signal("STOP", &self.pids());
    }

    pub fn thaw(&self) {
        signal("CONT", &self.pids());
    }

    /// The postmaster first, then its children.
    fn pids(&self) -> Vec<u32> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let pid = child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(pid).chain(children).collect()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(binary(name));
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// PostgreSQL refuses to run as root; Debian's package brings a user for it.
fn other_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let done = Command::new("id").args(arguments).output().unwrap();
        assert!(
            done.status.success(),
            "there is no user postgres: run scripts/setup --tests"
        );
        String::from_utf8(done.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

/// Debian keeps the server's programs off the path, by version: the newest one counts.
fn binary(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path())
        .collect();
    let number = |path: &Path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.and_then(|name| name.parse::<u32>().ok()).unwrap_or(0)
    };
    versions.sort_by_key(|path| number(path));
    let found = versions.pop().map(|path| path.join("bin").join(name));
    found
        .filter(|path| path.exists())
        .unwrap_or_else(|| panic!("PostgreSQL's {name} is missing: run scripts/setup --tests"))
}
