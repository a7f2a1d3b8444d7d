//! `[sinks.NAME]`: where events go. One function per `type`, all of one shape.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_sinks::Filter;
use meridian_sinks::file::FileOptions;
use meridian_sinks::timescale::TimescaleOptions;

use super::reader::Reader;
use super::{DAY, SECOND, units};

/// `[sinks.NAME]`
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// `events`, `regions`, `devices`, `fences`: which events it gets. Default all.
    pub filter: Filter,
    /// `timeout`: how long the far side may take for a batch before it counts as hanging. Default 30s.
    pub timeout: Duration,
    /// `type`, and what goes with it.
    pub kind: SinkKind,
}

/// `type`
#[derive(Debug, Clone)]
pub enum SinkKind {
    /// `file`: newline-delimited JSON.
    File(FileOptions),
    /// `timescale`: PostgreSQL, with or without TimescaleDB.
    Timescale(Box<TimescaleOptions>),
}

/// What `type` may be.
const KINDS: &str = "file or timescale";

pub(super) fn read_sinks(reader: &mut Reader, base: &Path) -> BTreeMap<String, SinkConfig> {
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
        let kind = match section.text("type").as_deref() {
            Some("file") => section.file(),
            Some("timescale") => section.timescale(timeout),
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
