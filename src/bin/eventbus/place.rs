//! Which broker a command is about, and how it is reached.

use std::path::PathBuf;
use std::time::Duration;

use daemoneye_eventbus::{
    Component, ConnectError, ConnectOptions, Connection, EventBusClient, Instance, LaunchToken, Needed,
    Refusal,
};

use crate::output::notice;

/// Where a broker listens.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// The broker's socket
    #[arg(long, value_name = "PATH", default_value = "/tmp/daemoneye.sock")]
    socket: PathBuf,
    /// The socket of a named instance in place of a path: /tmp/daemoneye-NAME.sock
    #[arg(long, value_name = "NAME", conflicts_with = "socket", value_parser = instance)]
    instance: Option<Instance>,
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        self.instance.as_ref().map_or_else(|| self.socket.clone(), Instance::socket_path)
    }
}

fn instance(name: &str) -> Result<Instance, String> {
    Instance::new(name).map_err(|error| error.to_string())
}

fn client_id(id: &str) -> Result<String, String> {
    Component::from_client_id(id).map(|_| id.to_owned()).map_err(|error| error.to_string())
}

/// How a client comes to a broker, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Reach {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The client's id: a component's name, or that and `-` and more. One client has a name at a time
    #[arg(long, value_name = "CLIENT_ID", value_parser = client_id)]
    pub(crate) id: Option<String>,
    /// The broker's key file, if it is not beside the socket
    #[arg(long, value_name = "PATH", conflicts_with = "token_file")]
    key_file: Option<PathBuf>,
    /// A file with the launch token of the component
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// The user that the broker runs as, if that is neither root nor yours
    #[arg(long, value_name = "UID")]
    pub(crate) broker_uid: Option<u32>,
}

/// Why a broker can't be reached, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    #[error("the token file {path} can't be used: {source}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("{error}; {}", advice(error))]
    Connect { error: ConnectError },
}

impl Reach {
    /// Connects as `id`.
    pub(crate) async fn connect(&self, id: &str) -> Result<EventBusClient, ReachError> {
        let options = self.options(id)?;
        EventBusClient::connect(options).await.map_err(|error| ReachError::Connect { error })
    }

    /// The id that was asked for, or that of a stranger.
    pub(crate) fn id_or_strange(&self, command: &str) -> String {
        self.id.clone().unwrap_or_else(|| strange_id(command))
    }

    /// The key file that was named, or the one that the broker writes.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.place.path().with_added_extension("key"))
    }

    /// How to connect as `id`.
    pub(crate) fn options(&self, id: &str) -> Result<ConnectOptions, ReachError> {
        let mut options = ConnectOptions::new(id).path(self.place.path());
        if let Some(path) = &self.key_file {
            options = options.key_file(path);
        }
        if let Some(path) = &self.token_file {
            let no_token = |source| ReachError::Token { path: path.clone(), source };
            options = options.token(LaunchToken::read_file(path).map_err(no_token)?);
        }
        if let Some(uid) = self.broker_uid {
            options = options.expected_broker_uid(uid);
        }
        Ok(options)
    }
}

/// Says that the broker has gone, or is back.
pub(crate) fn tell_connection(now: &Connection) {
    match now {
        Connection::Up => notice("back at the broker"),
        Connection::Away(why) => notice(&format!("{why}; looking for the next one")),
        // The end of the command says it.
        _ => {}
    }
}

/// The id of a client that no table knows: it has what anyone has, and takes nobody's name.
pub(crate) fn strange_id(command: &str) -> String {
    format!("eventbus-{command}-{}", std::process::id())
}

/// What to do about it.
pub(crate) fn advice(error: &ConnectError) -> &'static str {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match error {
        ConnectError::NoBroker { source, .. } => match source.kind() {
            NotFound | ConnectionRefused => {
                "start one with `eventbus broker`, or say where it is with --socket or --instance"
            }
            PermissionDenied => {
                "the socket's owner decides who may connect: see --socket-mode of `eventbus broker`"
            }
            _ => "`eventbus doctor` looks closer",
        },
        ConnectError::ForeignBroker { .. } => "if that is as it should be, say so with --broker-uid",
        ConnectError::KeyFile { .. } => "--key-file names another; the broker writes it anew at each start",
        ConnectError::Refused(Refusal::NameTaken { .. }) => {
            "a name is one client's at a time, and `agent` needs a token: --id says another"
        }
        ConnectError::Refused(Refusal::BadName { .. }) => "--id says another",
        ConnectError::Refused(Refusal::Unproven { needed: Needed::Key, .. }) => {
            "this user has to be able to read the key file beside the socket, or --key-file names it"
        }
        ConnectError::Refused(Refusal::Unproven { .. }) => "--token-file names it",
        _ => "`eventbus doctor` looks closer",
    }
}

/// The size of a ring on the command line.
pub(crate) fn ring_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes: &usize| bytes.is_power_of_two());
    bytes
        .filter(|bytes| (64 << 10..=1 << 30).contains(bytes))
        .ok_or_else(|| "a ring has a power of two of bytes, from 65536 to 1073741824".into())
}

/// A time on the command line: seconds, or a number with `ms`, `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number of seconds, or one with ms, s, m or h".into()),
    };
    let number: f64 =
        number.parse().map_err(|_| "a time begins with a number, such as 10 or 1.5".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "no time is that long, or short".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_are_not_guessed() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        for (text, expected) in
            [("10", 10_000), ("1.5", 1500), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "-1", "1d", "1 s", "inf", "nan", "1e300", "1s1"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
