//! What an agent does with policies.

use daemoneye_eventbus::AccessPolicy;
use serde_json::{Value, json};

use super::{BusRole, error};

impl BusRole {
    /// Component, user and number of each.
    pub(super) async fn refusals(&mut self) -> Value {
        let refusals = self.agent().broker().refusals().await.into_iter().map(|refusal| {
            let component = refusal.component.as_ref().map(|component| component.as_str());
            json!([component, refusal.uid, refusal.count])
        });
        json!({ "refusals": refusals.collect::<Vec<_>>() })
    }

    /// Asks so many times for topics that are refused, a few of them or each another.
    pub(super) async fn decline(&mut self, command: &Value) -> Result<Value, Value> {
        let (count, topics) = (command["count"].as_u64().expect("a number"), command["topics"].as_u64());
        for index in 0..count {
            let topic = format!("no.row.t{}", index % topics.expect("a number"));
            let refused = self.client().publisher(&topic).await;
            assert!(refused.is_err(), "it is in no row");
        }
        Ok(json!({}))
    }

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
