//! `/openapi.json`: the API as OpenAPI 3.1 describes it. Kept by hand; the tests hold it against the router.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::{GUARDED, OPEN};
    use super::*;

    const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Each operation with its path and method.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().iter();
                methods
                    .filter(|(method, _)| METHODS.contains(&method.as_str()))
                    .map(move |(method, operation)| {
                        (path.clone(), method.clone(), operation.clone())
                    })
            })
            .collect()
    }

    #[test]
    fn the_document_has_exactly_the_routers_routes() {
        let routed: BTreeSet<(String, String)> = OPEN
            .iter()
            .chain(GUARDED)
            .flat_map(|(path, methods)| {
                methods
                    .iter()
                    .map(|method| ((*path).to_owned(), (*method).to_owned()))
            })
            .collect();
        let described: BTreeSet<(String, String)> = operations(&document())
            .into_iter()
            .map(|(path, method, _)| (path, method))
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_operation_says_what_it_does_takes_and_answers() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations(&document) {
            let place = format!("{method} {path}");
            assert!(
                operation["summary"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{place}"
            );
            let id = operation["operationId"].as_str().unwrap_or_default();
            assert!(!id.is_empty() && ids.insert(id.to_owned()), "{place}: {id}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.keys().any(|status| status.starts_with('2')),
                "{place}"
            );
            let named: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            let parameters = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let in_path: BTreeSet<&str> = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            assert_eq!(in_path, named, "{place}");
            let open = OPEN.iter().any(|(open, _)| *open == path);
            assert_eq!(
                operation["security"] == serde_json::json!([]),
                open,
                "{place}"
            );
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    for (name, member) in members {
                        match member {
                            Value::String(text) if name == "$ref" => found.push(text),
                            other => references(other, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap_or(reference);
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
