//! An agent that issues launch tokens, and clients that come with them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemoneye_eventbus::{
    Component, ConnectError, ConnectOptions, EventBusClient, LaunchToken, StartError, TokenTerms,
};
use serde_json::{Value, json};

use super::{BusRole, error};
use crate::support::DEADLINE;

/// What a client proves, as its role says: `token` (a file), `key` (a file), or that its standard input is a token.
pub(super) fn proving(mut options: ConnectOptions, role: &Value) -> Result<ConnectOptions, Value> {
    if role["stdin"] == "token" {
        options = options.token(LaunchToken::take_stdin().expect("a token"));
    }
    if let Some(path) = role["token"].as_str() {
        let token = LaunchToken::read_file(Path::new(path)).map_err(|e| error(&e, &format!("{e:?}")))?;
        options = options.token(token);
    }
    if let Some(path) = role["key"].as_str() {
        options = options.key_file(path);
    }
    Ok(options)
}

/// A session of its own: the broker says whose the name is.
fn apart(options: ConnectOptions) -> ConnectOptions {
    options.shares_session(false)
}

fn kind(error: &ConnectError) -> String {
    match error {
        ConnectError::Refused(refusal) => format!("{refusal:?}"),
        other => format!("{other:?}"),
    }
}

impl BusRole {
    pub(super) async fn identity(&mut self, command: &Value) -> Result<Value, Value> {
        let number = |key: &str| command[key].as_u64().map(|n| u32::try_from(n).expect("a small number"));
        match command["do"].as_str().expect("a command says what to do") {
            "issue" => {
                let name = command["component"].as_str().expect("a component");
                let mut terms = TokenTerms::new(Component::from_client_id(name).expect("a legal name"));
                if let Some(uid) = number("uid") {
                    terms = terms.uid(uid);
                }
                if let Some(pid) = number("pid") {
                    terms = terms.pid(pid);
                }
                if let Some(valid) = command["valid_ms"].as_u64() {
                    terms = terms.valid_for(Duration::from_millis(valid));
                }
                let issued = self.agent().broker().issue_token(terms).await;
                let token = issued.map_err(|e: StartError| error(&e, &format!("{e:?}")))?;
                let file = Path::new(command["file"].as_str().expect("a file"));
                token.write_file(file, number("owner")).map_err(|e| error(&e, &format!("{e:?}")))?;
                Ok(json!({}))
            }
            "members" => {
                let members = self.agent().broker().members().await;
                let identity = |member: &daemoneye_eventbus::Member| {
                    json!([member.uid, member.pid, format!("{:?}", member.identity)])
                };
                let by_name = members.iter().map(|member| (member.component.to_string(), identity(member)));
                Ok(Value::Object(by_name.collect()))
            }
            // A second session of the same process.
            _ => {
                let id = command["id"].as_str().expect("an id");
                let path = command["path"].as_str().expect("a path");
                let options = proving(apart(ConnectOptions::new(id).path(path).deadline(DEADLINE)), command)?;
                let client = EventBusClient::connect(options).await.map_err(|e| error(&e, &kind(&e)))?;
                let before = std::mem::replace(&mut self.bus, super::Bus::Client(Arc::new(client)));
                let super::Bus::Client(before) = before else { panic!("it is a client") };
                let why = tokio::time::timeout(DEADLINE, before.disconnected()).await;
                Ok(json!({ "before": why.map_or_else(|_| "lives".into(), |why| why.to_string()) }))
            }
        }
    }
}
