//! The files of `testdata/geo`.

use std::io::Read;
use std::sync::Arc;

use meridian_geo_engine::{Fence, FenceIndex, split_collection};
use serde_json::Value;

/// A row of a trace, as a device would send it.
pub(crate) struct Row {
    pub(crate) device: String,
    pub(crate) payload: String,
}

/// A trace, its fences, and what is expected of it.
pub(crate) struct Case {
    pub(crate) trace: String,
    pub(crate) region: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) fences: Arc<FenceIndex>,
    pub(crate) events: Value,
    pub(crate) devices: Value,
    pub(crate) stops: Value,
    pub(crate) queries: Value,
    /// `None`: every row is accepted.
    pub(crate) classes: Option<Value>,
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/geo")
}

fn read(name: &str) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(folder().join(name)) {
        return Some(text);
    }
    let packed = std::fs::read(folder().join(format!("{name}.gz"))).ok()?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_string(&mut text)
        .expect("whole gzip");
    Some(text)
}

fn json(name: &str) -> Option<Value> {
    read(name).map(|text| serde_json::from_str(&text).expect("JSON"))
}

impl Case {
    pub(crate) fn load(trace: &str) -> Self {
        let manifest = json("manifest.json").expect("the manifest");
        let traces = manifest["traces"].as_array().expect("traces");
        let entry = traces
            .iter()
            .find(|entry| entry["trace"] == trace)
            .expect("a trace of the manifest");
        let mut fences = Vec::new();
        for file in entry["fences"].as_array().expect("fences") {
            let text = read(&format!(
                "fences/{}.geojson",
                file.as_str().expect("a name")
            ))
            .expect("a fence file");
            for (id, feature) in
                split_collection(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
            {
                let fence = Fence::from_geojson(&feature, 7).expect("checked by the split");
                assert_eq!(fence.id(), id);
                fences.push(Arc::new(fence));
            }
        }
        let expected = |kind: &str| json(&format!("expected/{trace}.{kind}.json"));
        Case {
            trace: trace.to_owned(),
            region: entry["region"].as_str().expect("a region").to_owned(),
            rows: read(&format!("traces/{trace}.csv"))
                .expect("a trace")
                .lines()
                .skip(1)
                .map(row)
                .collect(),
            fences: Arc::new(FenceIndex::new(fences)),
            events: expected("events").expect("events"),
            devices: expected("devices").expect("devices"),
            stops: expected("stops").expect("stops"),
            queries: expected("queries").expect("queries"),
            classes: expected("rows"),
        }
    }
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.split(',').collect();
    let names = ["ts", "lat", "lon", "speed_mps", "course_deg", "accuracy_m"];
    let filled = names
        .iter()
        .zip(&cells[1..])
        .filter(|(_, cell)| !cell.is_empty());
    let fields: Vec<String> = filled
        .map(|(name, cell)| format!("\"{name}\":{cell}"))
        .collect();
    Row {
        device: cells[0].to_owned(),
        payload: format!("{{{}}}", fields.join(",")),
    }
}
