//! `meridian user`: a users file with argon2id hashes.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::terminal::printable;

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user, or give one a new password, which is asked for, or is the first line of standard input
    Add {
        /// The user's name
        name: String,
        /// The users file
        #[arg(long, default_value = "users.toml")]
        file: PathBuf,
    },
    /// Remove a user
    Rm {
        /// The user's name
        name: String,
        /// The users file
        #[arg(long, default_value = "users.toml")]
        file: PathBuf,
    },
    /// List the users' names
    List {
        /// The users file
        #[arg(long, default_value = "users.toml")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Users {
    #[serde(default)]
    users: BTreeMap<String, User>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    password: String,
}

pub(super) fn run(command: UserCommand) -> Outcome {
    match command {
        UserCommand::Add { name, file } => {
            let mut users = read(&file)?;
            let password = read_password()?;
            if password.is_empty() {
                return Err("an empty password is refused: anybody could guess it".into());
            }
            let hash = Argon2::default()
                .hash_password(password.as_bytes())
                .map_err(|error| error.to_string())?;
            users.users.insert(
                name,
                User {
                    password: hash.to_string(),
                },
            );
            write(&file, &users)
        }
        UserCommand::Rm { name, file } => {
            let mut users = read(&file)?;
            users
                .users
                .remove(&name)
                .ok_or_else(|| format!("{} has no user {name}", file.display()))?;
            write(&file, &users)
        }
        UserCommand::List { file, json } => {
            let users = read(&file)?;
            let names: Vec<&String> = users.users.keys().collect();
            if json {
                say!("{}", serde_json::json!(names));
            } else {
                names.iter().for_each(|name| say!("{}", printable(name)));
            }
            Ok(())
        }
    }
}

/// Asks twice and without an echo on a terminal; takes one line of whatever else standard input is.
fn read_password() -> Result<String, String> {
    let failed = |error: std::io::Error| format!("the password could not be read: {error}");
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(failed)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let password = rpassword::prompt_password("password: ").map_err(failed)?;
    let again = rpassword::prompt_password("once more: ").map_err(failed)?;
    if password == again {
        Ok(password)
    } else {
        Err("the two passwords differ".into())
    }
}

fn read(file: &Path) -> Result<Users, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Users::default()),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

/// Whole or not at all, and readable by its owner only.
fn write(file: &Path, users: &Users) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let partial = PathBuf::from(format!("{}.partial", file.display()));
    let text = toml::to_string(users).map_err(|error| error.to_string())?;
    let mut options = std::fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed)?;
    out.write_all(text.as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(failed)?;
    std::fs::rename(&partial, file).map_err(failed)
}
