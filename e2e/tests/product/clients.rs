//! The examples and the README's words, followed to the letter by somebody who has just read them.

use std::fs;

use anyhow::{Context, Result, ensure};
use flightcluster_e2e::cluster::TestNamespace;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::json;
use tokio::process::Command;

use crate::operator::repository;
use crate::product::{LIMIT, Product, in_namespace};
use crate::programs::{path_text, python};

/// A Job that knows nothing but the connection Secret and the CA in it.
const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: question}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      securityContext:
        runAsNonRoot: true
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: main
          image: localhost/flightcluster:dev
          args: [query, --format, csv, 'SELECT count(*) AS rows FROM words']
          env:
            - name: FLIGHTCLUSTER_URI
              valueFrom: {secretKeyRef: {name: demo-connection, key: uri}}
            - name: FLIGHTCLUSTER_TOKEN
              valueFrom: {secretKeyRef: {name: demo-connection, key: token}}
            - name: FLIGHTCLUSTER_DATABASE
              valueFrom: {secretKeyRef: {name: demo-connection, key: database}}
            - {name: FLIGHTCLUSTER_CA, value: /etc/flightcluster/ca.crt}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts: [{name: connection, mountPath: /etc/flightcluster, readOnly: true}]
      volumes: [{name: connection, secret: {secretName: demo-connection}}]
";

async fn apply_file(namespace: &TestNamespace, path: &str) -> Result<()> {
    let file = repository(path);
    // As a user does it, by kubectl's own apply.
    namespace
        .kubectl(&["apply", "--filename", path_text(&file)?])
        .await
        .map(drop)
}

/// The first Python block of the README that reads a mounted connection Secret.
fn snippet_of_the_readme() -> Result<String> {
    let readme = fs::read_to_string(repository("README.md")).context("reading the README")?;
    let blocks = readme.split("```python\n").skip(1);
    let mut code = blocks.filter_map(|block| block.split("```").next());
    let found = code.find(|code| code.contains("/etc/flightcluster"));
    found
        .map(str::to_owned)
        .context("the README has no such Python lines any more")
}

/// S0-34, S1-14: install the chart, apply the sample, query, on plain Kubernetes.
#[tokio::test]
async fn the_sample_becomes_ready_and_a_job_uses_its_connection_secret_as_it_is() -> Result<()> {
    in_namespace("sample", async |namespace| {
        apply_file(namespace, "examples/flightcluster.yaml").await?;
        let demo = Product::new(namespace, "demo");
        demo.wait_until_ready().await?;
        demo.put("default.words", 0, 250).await?;

        namespace.apply_yaml(JOB).await?;
        let ended = |job: &Job| {
            let conditions = job
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref());
            let ends = ["Complete", "Failed"];
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|each| ends.contains(&each.type_.as_str()) && each.status == "True")
        };
        namespace
            .wait_for::<Job>("question", "its end", LIMIT, ended)
            .await?;
        let pods = namespace.pods("job-name=question").await?;
        let answer = namespace.logs(&pods[0].name_any(), "main").await?;
        assert_eq!(answer, "rows\n250\n");

        let columns = namespace
            .kubectl(&["get", "fltc", "demo", "--no-headers"])
            .await?;
        let columns: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(columns[..6], ["demo", "True", "Ready", "1/1", "1/1", "1/1"]);
        Ok(())
    })
    .await
}

/// S0-31: the recipe for clients that need the CA is executed.
#[tokio::test]
async fn the_python_lines_of_the_readme_work_with_the_default_cluster() -> Result<()> {
    in_namespace("readme", async |namespace| {
        apply_file(namespace, "examples/flightcluster.yaml").await?;
        let demo = Product::new(namespace, "demo");
        demo.wait_until_ready().await?;
        // Once it answers, so does it for those who don't try again.
        assert_eq!(
            demo.query("default", "SELECT 1 AS one").await?,
            json!([{"one": 1}])
        );
        let folder = demo.connection().await?;
        let code = snippet_of_the_readme()?.replace("/etc/flightcluster", path_text(&folder)?);
        let output = Command::new(python()?)
            .args(["-B", "-c", &code])
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(
            told.contains("one: int64") && told.contains("[[1]]"),
            "{told}"
        );
        Ok(())
    })
    .await
}
