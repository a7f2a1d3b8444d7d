//! Apache Kafka, one node (KRaft), from its published Java archives: in a temporary folder, on free ports of loopback.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by several test binaries, each of which uses a part"
)]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{free_port, signal};

/// Killed, by its own pid, when dropped.
pub struct Kafka {
    folder: tempfile::TempDir,
    pub port: u16,
    child: Option<Child>,
}

/// As the console consumer prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Consumed {
    pub partition: u32,
    /// `CreateTime:` and epoch milliseconds.
    pub time: String,
    /// `name:value`, parted by commas.
    pub headers: String,
    pub key: String,
    pub value: String,
}

impl Consumed {
    pub fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.split(',');
        headers
            .find_map(|header| header.strip_prefix(name)?.strip_prefix(':'))
            .unwrap()
    }
}

impl Kafka {
    pub fn start() -> Self {
        let mut kafka = Self::prepare();
        kafka.run();
        kafka
    }

    /// Everything but started.
    pub fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, controller) = (free_port(), free_port());
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
             log.dirs={data}\nnum.partitions=3\nauto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n\
             message.timestamp.after.max.ms=3600000\nlog.retention.ms=-1\n",
            data = folder.path().join("data").display(),
        );
        std::fs::write(folder.path().join("server.properties"), properties).unwrap();
        let kafka = Kafka {
            folder,
            port,
            child: None,
        };
        let format = [
            "format",
            "-t",
            "AAAAAAAAAAAAAAAAAAAAAQ",
            "-c",
            "server.properties",
        ];
        kafka.java("kafka.tools.StorageTool", &format);
        kafka
    }

    /// Starts the broker on its data, and waits until it answers.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut command = self.command("kafka.Kafka");
        command.arg("server.properties");
        let command = command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(120);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.folder.path().join("log"));
            assert!(
                Instant::now() < deadline,
                "Kafka does not start: {:?}",
                log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Everything that Kafka's own consumer gets of a topic, or of those that a pattern names, by partition in its order.
    /// On a busy machine its group may not stand before it gives up, so it is asked again while there are not
    /// `at_least` so many.
    pub fn consume(&self, topic: &str, isolation: &str, at_least: usize) -> Vec<Consumed> {
        self.consume_as(topic, isolation, at_least, "StringDeserializer")
    }

    /// `deserializer` of the values; `BytesDeserializer` writes what is no plain ASCII as `\xHH`.
    pub fn consume_as(
        &self,
        topic: &str,
        isolation: &str,
        at_least: usize,
        deserializer: &str,
    ) -> Vec<Consumed> {
        let mut consumed = Vec::new();
        for _ in 0..5 {
            consumed = self.consume_once(topic, isolation, deserializer);
            if consumed.len() >= at_least {
                break;
            }
        }
        consumed
    }

    fn consume_once(&self, topic: &str, isolation: &str, deserializer: &str) -> Vec<Consumed> {
        let servers = self.servers();
        let deserializer =
            format!("value.deserializer=org.apache.kafka.common.serialization.{deserializer}");
        let said = self.java(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &[
                "--bootstrap-server",
                &servers,
                "--include",
                topic,
                "--from-beginning",
                "--timeout-ms",
                "6000",
                "--isolation-level",
                isolation,
                "--formatter-property",
                "print.partition=true",
                "--formatter-property",
                "print.timestamp=true",
                "--formatter-property",
                "print.headers=true",
                "--formatter-property",
                "print.key=true",
                "--formatter-property",
                &deserializer,
            ],
        );
        let mut records: Vec<Consumed> = said.lines().map(consumed).collect();
        records.sort_by_key(|record| record.partition);
        records
    }

    /// One of the command line tools; what it says.
    pub fn java(&self, class: &str, arguments: &[&str]) -> String {
        let done = self.command(class).args(arguments).output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        let complained = String::from_utf8_lossy(&done.stderr);
        let consumed = complained.contains("Processed a total of");
        assert!(
            done.status.success() || consumed,
            "{class} {arguments:?}: {said}{complained}"
        );
        said
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal("KILL", &[child.id()]);
            child.wait().unwrap();
        }
    }

    /// Stops it where it is: connections stay, and nobody answers.
    pub fn freeze(&self) {
        signal("STOP", &[self.child.as_ref().unwrap().id()]);
    }

    pub fn thaw(&self) {
        signal("CONT", &[self.child.as_ref().unwrap().id()]);
    }

    fn command(&self, class: &str) -> Command {
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-cp")
            .arg(archives().join("*"))
            .arg(class)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

fn consumed(line: &str) -> Consumed {
    let mut parts = line.splitn(5, '\t');
    let mut part = || parts.next().unwrap_or_else(|| panic!("{line}")).to_owned();
    let (first, second, headers, key, value) = (part(), part(), part(), part(), part());
    let (time, partition) = if first.starts_with("Partition:") {
        (second, first)
    } else {
        (first, second)
    };
    Consumed {
        partition: partition["Partition:".len()..].parse().unwrap(),
        time,
        headers,
        key,
        value,
    }
}

/// Where `scripts/setup-kafka` puts them.
fn archives() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    let mut found: Vec<PathBuf> = std::fs::read_dir(cache.join("meridian"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("kafka-") && !name.ends_with(".partial")
        })
        .collect();
    found.sort();
    found
        .pop()
        .unwrap_or_else(|| panic!("Kafka's archives are missing: run scripts/setup --tests"))
}
