//! What an agent does with policies.

use daemoneye_eventbus::AccessPolicy;
use serde_json::{Value, json};

use super::{BusRole, error};

impl BusRole {
    /// `load_policy` reads the file at `path` and does nothing with it; `reload` puts it in force.
    pub(super) async fn policy(&mut self, command: &Value) -> Result<Value, Value> {
        let path = command["path"].as_str().expect("the harness names the file");
        let policy = AccessPolicy::load(path).map_err(|e| error(&e, &format!("{e:?}")))?;
        if command["do"] == "load_policy" {
            return Ok(json!({}));
        }
        let change = self.agent().broker().reload_policy(policy).await.map_err(|e| error(&e, "reload"))?;
        Ok(json!({ "revoked": change.revoked, "granted": change.granted }))
    }
}
