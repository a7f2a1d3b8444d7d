//! The commands that ask a running node's HTTP API.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use super::Outcome;
use super::api::{ApiArgs, escaped, rows, word};
use super::terminal::{printable, printable_json};

#[derive(Debug, Subcommand)]
pub(super) enum FenceCommand {
    /// List all fences
    List(#[command(flatten)] ApiArgs),
    /// Put a Feature, or all Features of a FeatureCollection one by one, from a GeoJSON file (- for standard input)
    Put {
        /// The file
        file: PathBuf,
        /// Replace all fences by those of the FeatureCollection, or change nothing
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show one fence as it was put
    Get {
        /// The fence's id
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Remove one fence
    Rm {
        /// The fence's id
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PositionCommand {
    /// Where one device is
    Get {
        /// The device's id
        device: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// The devices nearest to a point
    Near {
        /// The point, as lon,lat
        #[arg(allow_hyphen_values = true)]
        point: String,
        /// How many
        #[arg(long, default_value_t = 10)]
        limit: u32,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// The devices within a radius, a box or a fence
    Within {
        /// The middle, as lon,lat; needs --radius-m
        #[arg(long, allow_hyphen_values = true, requires = "radius_m")]
        near: Option<String>,
        /// Metres
        #[arg(long)]
        radius_m: Option<f64>,
        /// West,south,east,north
        #[arg(long, allow_hyphen_values = true, conflicts_with_all = ["near", "fence"])]
        bbox: Option<String>,
        /// A fence's id
        #[arg(long, conflicts_with = "near")]
        fence: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// List sessions
    List(#[command(flatten)] ApiArgs),
    /// Disconnect a client
    Kick {
        /// The client's id
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SinkCommand {
    /// List sinks, with their state and lag
    List(#[command(flatten)] ApiArgs),
    /// Stop a sink from reading
    Pause {
        /// The sink's name
        name: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Let a sink go on
    Resume {
        /// The sink's name
        name: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

pub(super) fn fence(command: FenceCommand) -> Outcome {
    match command {
        FenceCommand::List(api) => {
            let all = api.get("/api/v1/fences")?;
            if api.json {
                say!("{all}");
                return Ok(());
            }
            for feature in all["features"].as_array().into_iter().flatten() {
                let properties = &feature["properties"];
                let id = if feature["id"].is_null() {
                    &properties["id"]
                } else {
                    &feature["id"]
                };
                say!(
                    "{}\t{}\t{}",
                    word(id),
                    word(&feature["geometry"]["type"]),
                    word(&properties["name"])
                );
            }
            Ok(())
        }
        FenceCommand::Put { file, replace, api } => put_fences(&file, replace, &api),
        FenceCommand::Get { id, api } => {
            let feature = api
                .get(&format!("/api/v1/fences/{}", escaped(&id)))?
                .to_string();
            if api.json {
                say!("{feature}");
            } else {
                say!("{}", printable_json(&feature));
            }
            Ok(())
        }
        FenceCommand::Rm { id, api } => {
            api.send("DELETE", &format!("/api/v1/fences/{}", escaped(&id)), None)
        }
    }
}

fn put_fences(file: &std::path::Path, replace: bool, api: &ApiArgs) -> Outcome {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).map_err(|error| error.to_string())?
    } else {
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
    };
    if replace {
        return api.send("PUT", "/api/v1/fences", Some(&text));
    }
    let value: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let features = match value["type"].as_str() {
        Some("FeatureCollection") => value["features"].as_array().cloned().unwrap_or_default(),
        _ => vec![value],
    };
    for (at, feature) in features.iter().enumerate() {
        let id = if feature["id"].is_null() {
            &feature["properties"]["id"]
        } else {
            &feature["id"]
        };
        if id.is_null() {
            return Err(format!(
                "/features/{at}: a fence needs an id, as the Feature's id or properties.id"
            ));
        }
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let put = api.send(
            "PUT",
            &format!("/api/v1/fences/{}", escaped(&id)),
            Some(&feature.to_string()),
        );
        put.map_err(|error| format!("/features/{at} ({id}): {error}"))?;
        say!("{}", printable(&id));
    }
    Ok(())
}

pub(super) fn position(command: PositionCommand) -> Outcome {
    let (api, answer) = match command {
        PositionCommand::Get { device, api } => {
            let one = api.get(&format!("/api/v1/positions/{}", escaped(&device)))?;
            (api, serde_json::json!({ "data": [one] }))
        }
        PositionCommand::Near { point, limit, api } => {
            let answer = api.get(&format!(
                "/api/v1/positions?near={}&limit={limit}",
                escaped(&point)
            ))?;
            (api, answer)
        }
        PositionCommand::Within {
            near,
            radius_m,
            bbox,
            fence,
            api,
        } => {
            let query = match (near, radius_m, bbox, fence) {
                (Some(near), Some(radius_m), _, _) => {
                    format!("near={}&radius_m={radius_m}", escaped(&near))
                }
                (_, _, Some(bbox), _) => format!("bbox={}", escaped(&bbox)),
                (_, _, _, Some(fence)) => format!("fence={}", escaped(&fence)),
                _ => return Err("say --near and --radius-m, --bbox or --fence".into()),
            };
            let answer = api.list(&format!("/api/v1/positions?{query}&limit=10000"))?;
            (api, answer)
        }
    };
    if api.json {
        say!("{answer}");
        return Ok(());
    }
    for found in answer["data"].as_array().into_iter().flatten() {
        let distance = found["distance_m"]
            .as_f64()
            .map_or_else(String::new, |metres| format!("\t{metres:.0} m"));
        say!(
            "{}\t{}\t{},{}\t{}{distance}",
            word(&found["device"]),
            word(&found["region"]),
            found["lon"],
            found["lat"],
            found["ts"]
        );
    }
    Ok(())
}

pub(super) fn client(command: ClientCommand) -> Outcome {
    match command {
        ClientCommand::List(api) => rows(
            &api,
            "/api/v1/clients",
            &["client_id", "connected", "persistent"],
        ),
        ClientCommand::Kick { id, api } => {
            api.send("DELETE", &format!("/api/v1/clients/{}", escaped(&id)), None)
        }
    }
}

pub(super) fn sink(command: SinkCommand) -> Outcome {
    match command {
        SinkCommand::List(api) => rows(
            &api,
            "/api/v1/sinks",
            &[
                "name",
                "type",
                "state",
                "lag_events",
                "lag_seconds",
                "written",
                "dead_letters",
                "last_error",
            ],
        ),
        SinkCommand::Pause { name, api } => api.send(
            "POST",
            &format!("/api/v1/sinks/{}/pause", escaped(&name)),
            None,
        ),
        SinkCommand::Resume { name, api } => api.send(
            "POST",
            &format!("/api/v1/sinks/{}/resume", escaped(&name)),
            None,
        ),
    }
}
