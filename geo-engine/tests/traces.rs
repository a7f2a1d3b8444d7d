//! Recorded traces against an independent oracle's results, once with every fix and once through suppression.

mod oracle;

use oracle::{Path, check};

#[test]
fn helsinki_quick() {
    check("helsinki_quick", Path::Observe);
    check("helsinki_quick", Path::Suppress);
}

#[test]
fn liverpool_bus() {
    check("liverpool_bus", Path::Observe);
    check("liverpool_bus", Path::Suppress);
}

#[test]
fn austin_dups() {
    check("austin_dups", Path::Observe);
    check("austin_dups", Path::Suppress);
}

#[test]
fn austin_raworder() {
    check("austin_raworder", Path::Observe);
    check("austin_raworder", Path::Suppress);
}

#[test]
fn austin_disorder() {
    check("austin_disorder", Path::Observe);
    check("austin_disorder", Path::Suppress);
}

#[test]
fn edge_synthetic() {
    check("edge_synthetic", Path::Observe);
    check("edge_synthetic", Path::Suppress);
}

#[test]
fn austin_bus_observed() {
    check("austin_bus", Path::Observe);
}

#[test]
fn austin_bus_suppressed() {
    check("austin_bus", Path::Suppress);
}
