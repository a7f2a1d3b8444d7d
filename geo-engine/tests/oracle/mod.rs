//! Replays a trace and judges the outcome by the rules of `testdata/geo/SEMANTICS.md`.

mod files;
mod judge;
mod replay;

pub(crate) use replay::Path;

/// Replays `trace` and panics at the first disagreement.
pub(crate) fn check(trace: &str, path: Path) {
    let case = files::Case::load(trace);
    let outcome = replay::run(&case, path);
    judge::classes(&case, &outcome);
    judge::events(&case, &outcome);
    judge::devices(&case, &outcome);
    judge::stops(&case, &outcome);
    judge::queries(&case, &outcome);
}
