//! Tokens with few rights, and the InfluxDB 3 client that uses one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flightcluster_e2e::cluster::{Progress, TestNamespace, wait_until};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::product::{IMAGE, LIMIT, Product, in_namespace};

/// The kubelet brings a changed Secret into pods within its sync period, ten seconds in the node.
const RELOAD_LIMIT: Duration = Duration::from_secs(90);

/// A token and its entry for a token Secret.
struct Token {
    secret: String,
    entry: String,
}

/// Makes a token with the product's own command in a pod of the product's image.
async fn create_token(namespace: &TestNamespace, name: &str, permission: &str) -> Result<Token> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("token-{name}")},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "main",
                "image": IMAGE,
                "args": ["token", "create", "--name", name, "--permission", permission],
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    });
    namespace.apply_yaml(&pod.to_string()).await?;
    let pod = format!("token-{name}");
    let ended = |pod: &Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    namespace
        .wait_for::<Pod>(&pod, "its end", LIMIT, ended)
        .await?;
    let text = namespace.logs(&pod, "main").await?;
    let (head, entry) = text.split_once("\n- ").context("no entry was printed")?;
    let secret = head
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.contains(' '));
    Ok(Token {
        secret: secret.context("no token was printed")?.to_owned(),
        entry: format!("- {}\n", entry.trim_end()),
    })
}

async fn write_tokens(namespace: &TestNamespace, tokens: &[&Token]) -> Result<()> {
    let entries: String = tokens.iter().map(|token| token.entry.as_str()).collect();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "tokens"},
        "stringData": {"tokens.yaml": entries},
    });
    namespace.apply_yaml(&secret.to_string()).await.map(drop)
}

#[tokio::test]
async fn tokens_of_a_secret_give_their_rights_and_no_others() -> Result<()> {
    in_namespace("tokens", async |namespace| {
        let reader = create_token(namespace, "reader", "read:weather").await?;
        let stranger = create_token(namespace, "stranger", "admin:elsewhere*").await?;
        write_tokens(namespace, &[&reader]).await?;
        let demo = Product::new(namespace, "demo");
        demo.apply("{auth: {tokenSecrets: [tokens]}}").await?;
        demo.wait_until_ready().await?;
        demo.put("weather.stations", 0, 3).await?;

        // influxdb3-python, unmodified, over TLS.
        let sql = "SELECT id, name FROM stations ORDER BY id";
        let influx = async |token: &str| -> Result<Value> {
            demo.run("influx.py", &["weather", sql, token]).await
        };
        let rows = json!([
            {"id": 0, "name": "row 0"}, {"id": 1, "name": "row 1"}, {"id": 2, "name": "row 2"},
        ]);
        let everywhere =
            |outcome: &Value| json!({"all": outcome, "pandas": outcome, "reader": outcome});
        assert_eq!(influx(&reader.secret).await?, everywhere(&rows));

        let denied = async |token: &str| -> Result<Value> {
            demo.run("denied.py", &["weather", "stations", token]).await
        };
        let (no, who) = ("FlightUnauthorizedError", "FlightUnauthenticatedError");
        let expected = json!({"read": "done", "write": no, "drop": no, "anonymous": who});
        assert_eq!(denied(&reader.secret).await?, expected);
        // Not in the Secret yet: nobody knows it.
        let expected = json!({"read": who, "write": who, "drop": who, "anonymous": who});
        assert_eq!(denied(&stranger.secret).await?, expected);

        // Another entry in the Secret works without a restart; and it is the wrong database.
        let pods = demo.selector("querier");
        let before = namespace.pods(&pods).await?;
        write_tokens(namespace, &[&reader, &stranger]).await?;
        let expected = json!({"read": no, "write": no, "drop": no, "anonymous": who});
        wait_until("the new token", RELOAD_LIMIT, async || {
            let found = denied(&stranger.secret).await?;
            Ok(if found == expected {
                Progress::Done(())
            } else {
                Progress::Waiting(found.to_string())
            })
        })
        .await?;
        assert_eq!(influx(&stranger.secret).await?, everywhere(&json!(no)));
        let after = namespace.pods(&pods).await?;
        ensure!(
            before[0].metadata.uid == after[0].metadata.uid,
            "the querier was replaced"
        );
        let count = demo
            .query("weather", "SELECT count(*) AS n FROM stations")
            .await?;
        assert_eq!(
            count,
            json!([{"n": 3}]),
            "something was written without the right"
        );
        Ok(())
    })
    .await
}
