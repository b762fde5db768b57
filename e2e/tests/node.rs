//! Tests of the node itself: what the product's tests rely on works as in any Kubernetes.
//!
//! They run inside a node: `flightcluster-node run -- cargo test -p flightcluster-e2e --features
//! node --test node`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flightcluster_e2e::cluster::s3::S3Server;
use flightcluster_e2e::cluster::{Progress, Signal, TestCluster, TestNamespace, wait_until};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt};

/// Far beyond what any step takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Pods that fulfil the restricted Pod Security Standard, like the product's.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web-headless}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: web-headless
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: httpd
          image: localhost/busybox:1
          command: [sh, -c, 'hostname > /data/index.html; exec httpd -f -p 8080 -h /data']
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 1Gi}}
";

/// A pod that does nothing, with what `spec` adds to its container.
fn idle_pod(name: &str, container: &str, pod: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: localhost/busybox:1
      {container}
  {pod}
"
    )
}

async fn in_namespace(
    prefix: &str,
    body: impl AsyncFnOnce(&TestNamespace) -> Result<()>,
) -> Result<()> {
    TestCluster::connect()
        .await?
        .in_namespace(prefix, body)
        .await
}

async fn addresses(name: &str) -> Vec<IpAddr> {
    let found = tokio::net::lookup_host((name, 80)).await;
    found
        .into_iter()
        .flatten()
        .map(|address| address.ip())
        .collect()
}

#[tokio::test]
async fn pods_of_a_stateful_set_are_found_by_their_own_names_and_by_their_service() -> Result<()> {
    in_namespace("dns", async |namespace| {
        namespace.apply_yaml(WEB).await?;
        let pods = namespace.wait_until_ready("app=web", 2, LIMIT).await?;
        for pod in &pods {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            let address: IpAddr = address.context("a Ready pod has an address")?.parse()?;
            let headless = namespace.service_name("web-headless");
            let name = format!("{}.{headless}", pod.name_any());
            wait_until("the pod's DNS name", LIMIT, async || {
                let found = addresses(&name).await;
                Ok(if found == [address] {
                    Progress::Done(())
                } else {
                    Progress::Waiting(format!("{found:?}"))
                })
            })
            .await?;
        }
        let service = namespace.service_address("web", "http").await?;
        assert_eq!(
            addresses(&namespace.service_name("web")).await,
            [service.ip()]
        );
        // From a pod through the cluster IP to itself or its neighbour on the same node.
        for _ in 0..4 {
            let page = namespace
                .exec("web-0", &["wget", "-q", "-O-", "http://web"])
                .await?;
            assert!(page.starts_with("web-"), "{page}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_claim_of_the_default_class_is_writable_by_the_pods_group_and_outlives_the_pod()
-> Result<()> {
    in_namespace("volume", async |namespace| {
        namespace.apply_yaml(WEB).await?;
        namespace.wait_until_ready("app=web", 2, LIMIT).await?;
        namespace
            .exec("web-0", &["sh", "-c", "echo kept > /data/file; sync"])
            .await?;
        let owner = namespace
            .exec("web-0", &["stat", "-c", "%u:%g", "/data/file"])
            .await?;
        assert_eq!(owner.trim(), "65532:65532");
        namespace.delete_pod("web-0").await?;
        namespace.wait_until_ready("app=web", 2, LIMIT).await?;
        let text = namespace.exec("web-0", &["cat", "/data/file"]).await?;
        assert_eq!(text.trim(), "kept");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_claim_grows_and_its_volume_goes_with_it() -> Result<()> {
    in_namespace("growth", async |namespace| {
        namespace.apply_yaml(WEB).await?;
        namespace.wait_until_ready("app=web", 2, LIMIT).await?;
        let patch = r#"{"spec": {"resources": {"requests": {"storage": "2Gi"}}}}"#;
        namespace
            .kubectl(&["patch", "pvc", "data-web-0", "--patch", patch])
            .await?;
        let claim: PersistentVolumeClaim = namespace
            .wait_for(
                "data-web-0",
                "its new size",
                LIMIT,
                |claim: &PersistentVolumeClaim| {
                    let status = claim.status.as_ref();
                    let capacity = status.and_then(|status| status.capacity.as_ref());
                    capacity.is_some_and(|capacity| capacity["storage"].0 == "2Gi")
                },
            )
            .await?;
        let name = claim
            .spec
            .and_then(|spec| spec.volume_name)
            .context("a bound claim")?;
        let volumes: Api<PersistentVolume> = Api::all(namespace.cluster().client());
        let volume = volumes.get(&name).await?;
        let folder = volume
            .spec
            .and_then(|spec| spec.local)
            .context("a local volume")?
            .path;
        assert!(std::fs::exists(&folder)?);
        namespace.kubectl(&["delete", "statefulset", "web"]).await?;
        namespace.kubectl(&["delete", "pvc", "data-web-0"]).await?;
        wait_until("the end of the volume", LIMIT, async || {
            let volume = volumes.get_opt(&name).await?;
            Ok(match volume {
                None => Progress::Done(()),
                Some(volume) => Progress::Waiting(format!("{:?}", volume.status)),
            })
        })
        .await?;
        assert!(!std::fs::exists(&folder)?);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_changed_secret_reaches_a_running_pod() -> Result<()> {
    const SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: word}, stringData: ";
    in_namespace("secret", async |namespace| {
        namespace
            .apply_yaml(&format!("{SECRET}{{word: first}}}}"))
            .await?;
        let container = "command: [sleep, infinity]\n      \
             volumeMounts: [{name: word, mountPath: /word}]";
        let volumes = "volumes: [{name: word, secret: {secretName: word}}]";
        namespace
            .apply_yaml(&idle_pod("reader", container, volumes))
            .await?;
        namespace.wait_until_ready("app=reader", 1, LIMIT).await?;
        let before = namespace.container_id("reader", "main").await?;
        namespace
            .apply_yaml(&format!("{SECRET}{{word: second}}}}"))
            .await?;
        wait_until("the second word", LIMIT, async || {
            let word = namespace.exec("reader", &["cat", "/word/word"]).await?;
            Ok(if word == "second" {
                Progress::Done(())
            } else {
                Progress::Waiting(word)
            })
        })
        .await?;
        assert_eq!(namespace.secret("word").await?["word"], b"second");
        assert_eq!(namespace.container_id("reader", "main").await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_process_beyond_its_memory_limit_is_oom_killed() -> Result<()> {
    in_namespace("oom", async |namespace| {
        let container = "command: [tail, /dev/zero]\n      \
             resources: {limits: {memory: 32Mi}}";
        namespace
            .apply_yaml(&idle_pod("eater", container, "restartPolicy: Never"))
            .await?;
        let pod: Pod = namespace
            .wait_for("eater", "its end", LIMIT, |pod: &Pod| {
                let phase = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref());
                matches!(phase, Some("Failed" | "Succeeded"))
            })
            .await?;
        let status = pod
            .status
            .context("a status")?
            .container_statuses
            .context("containers")?;
        let end = status[0]
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        assert_eq!(end.context("an end")?.reason.as_deref(), Some("OOMKilled"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_killed_container_process_is_restarted_in_the_same_pod() -> Result<()> {
    in_namespace("kill", async |namespace| {
        namespace.apply_yaml(WEB).await?;
        let pods = namespace.wait_until_ready("app=web", 2, LIMIT).await?;
        let killed = namespace
            .kill_container_process("web-1", "httpd", Signal::KILL)
            .await?;
        namespace
            .wait_for_restart("web-1", "httpd", &killed, LIMIT)
            .await?;
        let after = namespace.wait_until_ready("app=web", 2, LIMIT).await?;
        assert_eq!(after[1].uid(), pods[1].uid());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_s3_server_keeps_an_object_and_is_reached_from_pods() -> Result<()> {
    in_namespace("s3", async |namespace| {
        let server = S3Server::start(namespace.cluster(), &["bucket"]).await?;
        let url = format!("{}/bucket/folder/object", server.endpoint());
        let user = format!("{}:{}", server.access_key(), server.secret_key());
        let curl = async |words: &[&str]| -> Result<String> {
            let signing = format!("aws:amz:{}:s3", server.region());
            let output = tokio::process::Command::new("curl")
                .args(["--silent", "--show-error", "--fail", "--user", &user])
                .args(["--aws-sigv4", &signing])
                .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
                .args(words)
                .output()
                .await?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(String::from_utf8(output.stdout)?)
        };
        curl(&["--request", "PUT", "--data", "content", &url]).await?;
        assert_eq!(curl(&[&url]).await?, "content");
        namespace
            .apply_yaml(&idle_pod("client", "command: [sleep, infinity]", ""))
            .await?;
        namespace.wait_until_ready("app=client", 1, LIMIT).await?;
        let refused = namespace
            .exec("client", &["wget", "-O-", &url])
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("403"), "{refused:#}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn helm_installs_a_chart_and_waits_for_its_pods() -> Result<()> {
    in_namespace("helm", async |namespace| {
        let chart = namespace.cluster().folder().join("test-chart");
        std::fs::create_dir_all(chart.join("templates"))?;
        std::fs::write(
            chart.join("Chart.yaml"),
            "{apiVersion: v2, name: test, version: 1.0.0, kubeVersion: '>=1.30.0-0'}",
        )?;
        let pod = idle_pod(
            "{{ .Release.Name }}",
            "command: [sleep, {{ .Values.duration }}]",
            "",
        );
        std::fs::write(chart.join("templates/pod.yaml"), pod)?;
        let values = [("duration", "infinity")];
        namespace
            .cluster()
            .helm_install(namespace.name(), "idle", &chart, &values)
            .await?;
        let pods = namespace.pods("app=idle").await?;
        let status = pods[0].status.as_ref().context("a status")?;
        assert_eq!(status.phase.as_deref(), Some("Running"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failing_test_leaves_logs_events_and_objects_but_no_secret_values() -> Result<()> {
    let cluster = TestCluster::connect().await?;
    let mut name = String::new();
    let outcome: Result<()> = cluster
        .in_namespace("dump", async |namespace| {
            name = namespace.name().to_owned();
            let secret = "{apiVersion: v1, kind: Secret, metadata: {name: hidden}, \
                 stringData: {key: do-not-tell}}";
            namespace.apply_yaml(secret).await?;
            let container = "command: [sh, -c, 'echo last words; exec sleep infinity']";
            namespace
                .apply_yaml(&idle_pod("speaker", container, ""))
                .await?;
            namespace.wait_until_ready("app=speaker", 1, LIMIT).await?;
            anyhow::bail!("on purpose")
        })
        .await;
    assert_eq!(outcome.unwrap_err().to_string(), "on purpose");
    let dumps = std::env::var_os("FLIGHTCLUSTER_RUN_DUMPS").context("inside a node")?;
    let folder = std::path::PathBuf::from(dumps).join(&name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file));
    assert_eq!(read("speaker.main.log")?, "last words\n");
    assert!(read("events.txt")?.contains("Started"));
    let objects = read("objects.yaml")?;
    assert!(objects.contains("name: speaker") && !objects.contains("ZG8tbm90LXRlbGw"));
    let secrets = read("secrets.txt")?;
    assert!(secrets.contains("hidden") && !secrets.contains("do-not-tell"));
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

#[tokio::test]
async fn shared_work_is_done_once() -> Result<()> {
    let cluster = TestCluster::connect().await?;
    let done = std::cell::Cell::new(0);
    let action = async || {
        done.set(done.get() + 1);
        Ok(())
    };
    cluster.once("harness-test", action).await?;
    cluster.once("harness-test", action).await?;
    assert_eq!(done.get(), 1);
    Ok(())
}
