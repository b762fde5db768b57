//! Plays the dynamic provisioner behind the node's default StorageClass.
//!
//! A claim that the scheduler gave a node to gets a directory and a `local` PersistentVolume bound
//! to it; a larger request grows the volume's stated size; a released volume is deleted with its
//! directory. The kubelet sets the group of the files (`fsGroup`), as it does for any local volume.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// The name under which the StorageClass knows this provisioner.
pub const NAME: &str = "flightcluster.io/e2e-local";

/// The name of the default StorageClass.
pub const STORAGE_CLASS: &str = "local";

const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Serves claims until the future is dropped. `volumes` is the folder for the directories.
///
/// Errors: none end it; what fails is written to standard error and tried again when the object
/// changes or is listed anew.
pub async fn run(client: Client, volumes: PathBuf) {
    let claims = serve_claims(&client, &volumes);
    let released = delete_released(&client);
    tokio::join!(claims, released);
}

async fn serve_claims(client: &Client, volumes: &Path) {
    let api: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let watch = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let result = watch
        .try_for_each(|claim| async move {
            if let Err(error) = serve(client, volumes, &claim).await {
                eprintln!("provisioner: claim {}: {error:#}", claim.name_any());
            }
            Ok(())
        })
        .await;
    report_end(result);
}

async fn delete_released(client: &Client) {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let watch = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let result = watch
        .try_for_each(|volume| async move {
            if let Err(error) = delete_if_released(client, &volume).await {
                eprintln!("provisioner: volume {}: {error:#}", volume.name_any());
            }
            Ok(())
        })
        .await;
    report_end(result);
}

fn report_end(result: Result<(), watcher::Error>) {
    if let Err(error) = result {
        eprintln!("provisioner: the watch ended: {error}");
    }
}

/// Does what one claim needs now: nothing, a new volume, or a larger one.
async fn serve(client: &Client, volumes: &Path, claim: &PersistentVolumeClaim) -> Result<()> {
    let Some(spec) = &claim.spec else {
        return Ok(());
    };
    if spec.storage_class_name.as_deref() != Some(STORAGE_CLASS)
        || claim.metadata.deletion_timestamp.is_some()
    {
        return Ok(());
    }
    let requests = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    let size = requests
        .and_then(|requests| requests.get("storage"))
        .context("no size asked")?;
    match &spec.volume_name {
        Some(volume) => grow(client, claim, volume, size).await,
        None => match claim.annotations().get(SELECTED_NODE) {
            Some(node) => create(client, volumes, claim, node, size).await,
            None => Ok(()),
        },
    }
}

async fn create(
    client: &Client,
    volumes: &Path,
    claim: &PersistentVolumeClaim,
    node: &str,
    size: &Quantity,
) -> Result<()> {
    let uid = claim.uid().context("a stored claim has a uid")?;
    let name = format!("pvc-{uid}");
    let folder = volumes.join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // Like a freshly made file system: only root and, by `fsGroup`, the pod's group may write.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("opening {}", folder.display()))?;
    let volume = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: NAME}},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()),
            "storageClassName": STORAGE_CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(),
                "name": claim.name_any(),
                "uid": uid,
            },
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    }))
    .context("writing a volume")?;
    let api: Api<PersistentVolume> = Api::all(client.clone());
    match api.create(&PostParams::default(), &volume).await {
        // The claim changed again before it was bound: the volume is there already.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(drop).context("creating the volume"),
    }
}

/// Enlarges what the volume and the claim say they hold; the directory itself has no limit.
async fn grow(
    client: &Client,
    claim: &PersistentVolumeClaim,
    volume: &str,
    size: &Quantity,
) -> Result<()> {
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref());
    let Some(held) = capacity.and_then(|capacity| capacity.get("storage")) else {
        return Ok(()); // Not bound yet: the binding takes over the volume's size.
    };
    if held == size {
        return Ok(());
    }
    let namespace = claim.namespace().context("a claim has a namespace")?;
    let capacity = BTreeMap::from([("storage", size)]);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let patch = json!({"spec": {"capacity": capacity}});
    volumes
        .patch(volume, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .context("enlarging the volume")?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({"status": {"capacity": capacity, "conditions": []}});
    claims
        .patch_status(
            &claim.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .context("reporting the larger size")?;
    Ok(())
}

async fn delete_if_released(client: &Client, volume: &PersistentVolume) -> Result<()> {
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if volume
        .annotations()
        .get(PROVISIONED_BY)
        .is_none_or(|by| by != NAME)
        || phase != Some("Released")
        || volume.metadata.deletion_timestamp.is_some()
    {
        return Ok(());
    }
    let spec = volume.spec.as_ref().context("a volume has a spec")?;
    if spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return Ok(());
    }
    let local = spec.local.as_ref().context("a volume of ours is local")?;
    fs::remove_dir_all(&local.path).with_context(|| format!("removing {}", local.path))?;
    let api: Api<PersistentVolume> = Api::all(client.clone());
    api.delete(&volume.name_any(), &DeleteParams::default())
        .await
        .context("deleting the volume")?;
    Ok(())
}
