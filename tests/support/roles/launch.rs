//! An agent that starts a collector with one end of a connection, as another user and without a path; and that collector.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use daemoneye_eventbus::{Component, StartError, TokenTerms};
use serde_json::{Value, json};

use super::{BusRole, answer, error};
use crate::support::{ANSWER, as_user, in_role};

/// The life of a process that was started with its connection: it does what its role says `then`, answers once, and stays while its
/// session does.
pub(super) async fn live(role: &Value) {
    // An heir, which holds the connection beyond this process's death.
    let heir =
        (role["heir"] == true).then(|| Command::new("sleep").arg("60").spawn().expect("it starts").id());
    let mut bus = match BusRole::start(role).await {
        Ok(bus) => bus,
        Err(error) => return answer(&error),
    };
    let stdin = std::fs::read_link("/proc/self/fd/0").expect("it is open");
    assert_eq!(stdin, Path::new("/dev/null"), "a child of ours inherits nothing");
    let mut results = Vec::new();
    for command in role["then"].as_array().into_iter().flatten() {
        results.push(bus.carry_out(command).await.unwrap_or_else(|error| error));
    }
    answer(&json!({ "results": results, "heir": heir }));
    bus.client().disconnected().await;
}

/// At the first line of input it connects, and leaves the connection to a child that ends when that does. At the end of the input it
/// dies.
pub(super) fn orphan(role: &Value) {
    answer(&json!({}));
    let mut heirs = Vec::new();
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        let path = role["path"].as_str().expect("the harness names the path");
        let connection = OwnedFd::from(UnixStream::connect(path).expect("a broker listens"));
        let heir = Command::new("cat").stdin(connection).stdout(Stdio::null()).spawn().expect("it starts");
        answer(&json!({ "heir": heir.id() }));
        heirs.push(heir);
    }
}

/// A process that goes with this one.
#[derive(Debug)]
pub(super) struct Launched(Child);

impl Drop for Launched {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl BusRole {
    /// Starts a role of user `as`, invited as `component` and `uid`, or with a launch token for these (the role's `stdin` is `token`), and yields its first answer, and its pid.
    pub(super) async fn launch(&mut self, command: &Value) -> Result<Value, Value> {
        let component = command["component"].as_str().expect("a component");
        let component = Component::from_client_id(component).expect("a legal name");
        let number = |key: &str| command[key].as_u64().map(|uid| u32::try_from(uid).expect("a uid"));
        let failed = |e: StartError| error(&e, &format!("{e:?}"));
        let stdin: Stdio = if command["role"]["stdin"] == "token" {
            let terms = TokenTerms::new(component).uid(number("uid").expect("a uid"));
            let token = self.agent().broker().issue_token(terms).await.map_err(failed)?;
            token.pipe().expect("descriptors").into()
        } else {
            let end = self.agent().broker().socket_pair(&component, number("uid")).await;
            end.map_err(failed)?.into()
        };
        let binary = Path::new(command["binary"].as_str().expect("a path"));
        let mut process = as_user(number("as").expect("a user"), &command["role"], binary);
        in_role(&mut process, &command["role"]).stdin(stdin).stdout(Stdio::piped());
        let mut child = process.spawn().expect("the role starts");
        // The command holds the end as well.
        drop(process);
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let pid = child.id();
        self.launched.push(Launched(child));
        let first = tokio::task::spawn_blocking(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            lines.find_map(|line| Some(line.split_once(ANSWER)?.1.to_owned()))
        });
        let first = first.await.expect("nothing panics").expect("it answers");
        let first: Value = serde_json::from_str(&first).expect("a role answers in JSON");
        Ok(json!({ "said": first, "pid": pid }))
    }
}
