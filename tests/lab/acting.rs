//! Operations on hosts of the lab, begun and waited for.

use serde_json::{Value, json};

use super::central::Central;
use super::{Host, Lab, until};

/// All hosts enrolled and read so far that their service managers are known.
pub(crate) async fn enrolled(lab: &Lab) -> Central {
    let central = Central::start();
    for host in lab.hosts() {
        central.enrol(&host);
    }
    for host in lab.hosts() {
        until("the facts", async || {
            central.try_get(&format!("/api/v1/fleet/servers/{}/facts", host.name)).await.ok()
        })
        .await;
    }
    central
}

/// Does it on these hosts and waits for its end; the problem where it is refused.
pub(crate) async fn operate(
    central: &Central,
    kind: &str,
    hosts: &[Host],
    parameters: Value,
) -> Result<Value, String> {
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    let body = json!({ "operation_type": kind, "server_ids": names, "parameters": parameters });
    let begun = central.post("/api/v1/fleet/operations", &body).await?;
    Ok(central.ended(&begun).await)
}

/// What became of it on this host.
pub(crate) fn result<'a>(operation: &'a Value, host: &Host) -> &'a Value {
    let results = operation["results"].as_array().unwrap();
    results.iter().find(|result| result["server_name"] == host.name.as_str()).unwrap()
}
