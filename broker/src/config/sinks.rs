//! `[sinks.NAME]`: where events go. One function per `type`, all of one shape.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_sinks::Filter;
use meridian_sinks::file::FileOptions;
use meridian_sinks::kafka::{Format, KafkaOptions};
use meridian_sinks::timescale::TimescaleOptions;
use meridian_sinks::webhook::WebhookOptions;

use super::reader::Reader;
use super::{DAY, SECOND, units};

/// `[sinks.NAME]`
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// `events`, `regions`, `devices`, `fences`: which events it gets. Default all.
    pub filter: Filter,
    /// `timeout`: how long the far side may take for a batch before it counts as hanging. Default 30s.
    pub timeout: Duration,
    /// `batch_max`: events of one batch. Default 2000, and 100 for a webhook.
    pub batch_max: usize,
    /// `type`, and what goes with it.
    pub kind: SinkKind,
}

/// `type`
#[derive(Debug, Clone)]
pub enum SinkKind {
    /// `file`: newline-delimited JSON.
    File(FileOptions),
    /// `kafka`: records of Apache Kafka.
    Kafka(Box<KafkaOptions>),
    /// `timescale`: PostgreSQL, with or without TimescaleDB.
    Timescale(Box<TimescaleOptions>),
    /// `webhook`: signed HTTP requests.
    Webhook(Box<WebhookOptions>),
}

/// What `type` may be.
const KINDS: &str = "file, kafka, timescale or webhook";

/// What is kept for sinks, within the data folder: cursors, dead letters, and which ones are paused.
pub(crate) const FOLDER: &str = "sinks";

pub(super) fn read_sinks(
    reader: &mut Reader,
    base: &Path,
    data_dir: &Path,
) -> BTreeMap<String, SinkConfig> {
    let mut sinks = BTreeMap::new();
    for name in reader.subsections("sinks") {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.len() > 64 || !name.chars().all(plain) {
            reader.mistake(
                &format!("sinks.{name}"),
                "must be at most 64 letters, digits, - and _".into(),
            );
        }
        let mut section = Section {
            reader: &mut *reader,
            name: &name,
            base,
        };
        let timeout = section.timeout();
        let filter = section.filter();
        let r#type = section.text("type");
        let batch_max = if r#type.as_deref() == Some("webhook") {
            100
        } else {
            2000
        };
        let batch_max = section.number("batch_max", batch_max, 1, 100_000);
        let kind = match r#type.as_deref() {
            Some("file") => section.file(),
            Some("kafka") => section.kafka(timeout),
            Some("timescale") => section.timescale(timeout),
            Some("webhook") => section.webhook(timeout, data_dir),
            other => {
                let what = match other {
                    Some(other) => format!("`{other}` is no kind of sink: write {KINDS}"),
                    None => format!("is needed: {KINDS}"),
                };
                section.mistake("type", what);
                reader.ignore_section(&format!("sinks.{name}"));
                None
            }
        };
        if let Some(kind) = kind {
            let sink = SinkConfig {
                filter,
                timeout,
                batch_max: usize::try_from(batch_max).unwrap_or(usize::MAX),
                kind,
            };
            sinks.insert(name, sink);
        }
    }
    sinks
}

/// One sink's section being read.
struct Section<'a> {
    reader: &'a mut Reader,
    name: &'a str,
    base: &'a Path,
}

impl Section<'_> {
    fn file(&mut self) -> Option<SinkKind> {
        let path = self.needed("path", "the file to write");
        let rotate_bytes = self.key("rotate_size");
        let rotate_bytes = self
            .reader
            .measured(&rotate_bytes, &units::BYTES, 1024..=1 << 40);
        let rotate_age = self.duration_or_off("rotate_age", SECOND..=365 * DAY, None);
        let keep = self.key("keep");
        let keep = self.reader.number(&keep, 0, 0, 1_000_000);
        let mut options = FileOptions::new(self.base.join(path?));
        if let Some(bytes) = rotate_bytes {
            options.rotate_bytes = bytes;
        }
        options.rotate_age = rotate_age;
        options.keep = (keep > 0).then_some(keep);
        Some(SinkKind::File(options))
    }

    fn timescale(&mut self, timeout: Duration) -> Option<SinkKind> {
        let url = self.needed("url", "postgres://user@host/database");
        let ca = self.path("ca");
        let ages = 60 * 60 * SECOND..=36_500 * DAY;
        let compress_after = self.duration_or_off("compress_after", ages.clone(), Some(7 * DAY));
        let retention = self.duration_or_off("retention", ages, None);
        let mut options = match TimescaleOptions::new(self.name, &url?, ca.as_deref()) {
            Ok(options) => options,
            Err(what) => {
                self.mistake("url", what);
                return None;
            }
        };
        options.timeout = timeout;
        options.compress_after = compress_after;
        options.retention = retention;
        Some(SinkKind::Timescale(Box::new(options)))
    }

    fn kafka(&mut self, timeout: Duration) -> Option<SinkKind> {
        let servers = self.needed("bootstrap_servers", "\"host:9092\"");
        let mut options = KafkaOptions::new(self.name, &servers.unwrap_or_default());
        options.timeout = timeout;
        if let Some(prefix) = self.text("topic_prefix") {
            // As Kafka itself has it; and 200 leave room for what comes behind.
            let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if prefix.len() > 200 || !prefix.chars().all(fine) {
                let what = "must be at most 200 letters, digits, dots, - and _";
                self.mistake("topic_prefix", what.into());
            }
            options.topic_prefix = prefix;
        }
        let at_most = |number: u64| i32::try_from(number).ok().filter(|&number| number > 0);
        options.partitions = at_most(self.number("partitions", 0, 0, 10_000));
        options.replication = at_most(self.number("replication", 0, 0, 9));
        let key = self.key("format");
        let format = self.reader.parsed(&key, |text| match text {
            "json" => Ok(Format::Json),
            "protobuf" => Ok(Format::Protobuf),
            other => Err(format!("`{other}` is no format: write json or protobuf")),
        });
        options.format = format.unwrap_or_default();
        let key = self.key("transactional");
        options.transactional = self.reader.boolean(&key, false);
        let section = self.key("properties");
        for (name, value) in self.reader.texts_below(&section) {
            if let Err(what) = options.property(&name, &value) {
                self.mistake(&format!("properties.{name}"), what);
            }
        }
        Some(SinkKind::Kafka(Box::new(options)))
    }

    fn webhook(&mut self, timeout: Duration, data_dir: &Path) -> Option<SinkKind> {
        let url = self.needed("url", "https://host/path");
        let (secret, ca) = (self.text("secret"), self.path("ca"));
        let cursors = data_dir.join(FOLDER).join(format!("{}.cursors", self.name));
        match WebhookOptions::new(&url?, secret, ca.as_deref(), cursors) {
            Ok(mut options) => {
                options.timeout = timeout;
                Some(SinkKind::Webhook(Box::new(options)))
            }
            Err(what) => {
                self.mistake("url", what);
                None
            }
        }
    }

    fn filter(&mut self) -> Filter {
        let mut list = |key: &str| {
            let key = self.key(key);
            self.reader.text_list(&key, &[])
        };
        Filter {
            events: list("events"),
            regions: list("regions"),
            devices: list("devices"),
            fences: list("fences"),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("sinks.{}.{key}", self.name)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let key = self.key(key);
        self.reader.text(&key)
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(|path| self.base.join(path))
    }

    fn timeout(&mut self) -> Duration {
        let key = self.key("timeout");
        let range = Duration::from_millis(100)..=60 * 60 * SECOND;
        let timeout = self.reader.measured(&key, &units::DURATION, range);
        timeout.unwrap_or(30 * SECOND)
    }

    fn duration_or_off(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let key = self.key(key);
        self.reader
            .measured_or_off(&key, &units::DURATION, range, default)
    }

    fn number(&mut self, key: &str, default: u64, min: u64, max: u64) -> u64 {
        let key = self.key(key);
        self.reader.number(&key, default, min, max)
    }

    fn needed(&mut self, key: &str, what: &str) -> Option<String> {
        let text = self.text(key);
        if text.is_none() {
            self.mistake(key, format!("is needed: {what}"));
        }
        text
    }

    fn mistake(&mut self, key: &str, what: String) {
        let key = self.key(key);
        self.reader.mistake(&key, what);
    }
}
