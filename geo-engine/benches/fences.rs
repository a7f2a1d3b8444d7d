//! A point against many fences, and a fix before and behind the log.

#![allow(missing_docs, reason = "criterion's macro makes a function of its own")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use meridian_geo_engine::{Coordinate, Fence, FenceIndex, Fix, GeoEngine, Settings};

/// Polygons of 32 vertices on a lattice of 0.02 degree, so that a place is in one of them or in none.
fn index(count: usize) -> FenceIndex {
    let side = (count as f64).sqrt().ceil() as usize;
    let fences = (0..count).map(|number| {
        let (lat, lon) = ((number / side) as f64 * 0.02 - 3.0, (number % side) as f64 * 0.02 - 3.0);
        let positions: Vec<String> = (0..=32)
            .map(|vertex| {
                let (sin, cos) = (f64::from(vertex % 32) / 32.0 * std::f64::consts::TAU).sin_cos();
                format!("[{:.7},{:.7}]", lon + 0.009 * cos, lat + 0.009 * sin)
            })
            .collect();
        let text = format!(
            r#"{{"type":"Feature","id":"f{number}","geometry":{{"type":"Polygon","coordinates":[[{}]]}}}}"#,
            positions.join(",")
        );
        Arc::new(Fence::from_geojson(&text, 1).expect("a fence"))
    });
    FenceIndex::new(fences.collect())
}

fn places() -> Vec<Coordinate> {
    let spread =
        |step: u32, prime: u32| f64::from(step.wrapping_mul(prime) % 10_000) / 10_000.0 * 0.6 - 3.0;
    (0..1_024)
        .filter_map(|step| Coordinate::from_degrees(spread(step, 7_919), spread(step, 104_729)))
        .collect()
}

fn benches(criterion: &mut Criterion) {
    let places = places();
    for count in [1_000, 100_000] {
        let index = index(count);
        let mut next = places.iter().cycle();
        criterion.bench_function(&format!("containing/{count}"), |bencher| {
            bencher.iter(|| {
                black_box(
                    index
                        .containing(*next.next().expect("a cycle"))
                        .fences
                        .len(),
                )
            });
        });
        criterion.bench_function(&format!("safe_radius/{count}"), |bencher| {
            bencher.iter(|| black_box(index.safe_radius_m(*next.next().expect("a cycle"), 50.0)));
        });
        let settings = Settings {
            min_distance_m: 50.0,
            max_silence_ms: Some(300_000),
            max_speed_mps: None,
            max_future_ms: 120_000,
        };
        let mut engine = GeoEngine::new(settings);
        engine.set_fences(Arc::new(index));
        let start = Fix::new(
            1_700_000_000_000,
            Coordinate::from_degrees(-2.9, -2.9).expect("a place"),
        );
        engine.observe("truck-7", "r", &start, None, false, start.ts_ms);
        let near = Fix::new(
            start.ts_ms + 1_000,
            Coordinate::from_degrees(-2.900_05, -2.9).expect("a place"),
        );
        criterion.bench_function(&format!("admit_inside_safe_radius/{count}"), |bencher| {
            bencher.iter(|| {
                black_box(engine.admit("truck-7", "r", black_box(&near), None, near.ts_ms))
            });
        });
        let mut step = 0;
        criterion.bench_function(&format!("observe_moving/{count}"), |bencher| {
            bencher.iter_batched(
                || {
                    step += 1;
                    Fix::new(
                        start.ts_ms + 2_000 + i64::from(step) * 60_000,
                        places[step as usize % 8],
                    )
                },
                |fix| black_box(engine.observe("truck-8", "r", &fix, None, false, fix.ts_ms)),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(fences, benches);
criterion_main!(fences);
