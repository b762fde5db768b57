//! The resource versions of everything in a namespace: equal ones prove that nobody wrote.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Context, Result};
use flightcluster_crds::v1alpha1::FlightCluster;
use flightcluster_e2e::cluster::TestNamespace;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// `Kind/name` to `uid@resourceVersion`.
pub(crate) type Versions = BTreeMap<String, String>;

/// What a FlightCluster is made of, without the object itself.
pub(crate) async fn owned(namespace: &TestNamespace, cluster: &str) -> Result<Versions> {
    let selector = format!("app.kubernetes.io/instance={cluster}");
    let mut versions = Versions::new();
    add::<StatefulSet>(namespace, &selector, &mut versions).await?;
    add::<Service>(namespace, &selector, &mut versions).await?;
    add::<ConfigMap>(namespace, &selector, &mut versions).await?;
    add::<Secret>(namespace, &selector, &mut versions).await?;
    add::<ServiceAccount>(namespace, &selector, &mut versions).await?;
    add::<PodDisruptionBudget>(namespace, &selector, &mut versions).await?;
    add::<Pod>(namespace, &selector, &mut versions).await?;
    Ok(versions)
}

/// What a FlightCluster is made of, the object itself, its volumes, and what the operator told.
pub(crate) async fn everything(namespace: &TestNamespace, cluster: &str) -> Result<Versions> {
    let mut versions = owned(namespace, cluster).await?;
    add::<FlightCluster>(namespace, "", &mut versions).await?;
    add::<PersistentVolumeClaim>(namespace, "", &mut versions).await?;
    let events = namespace.api::<Event>().list(&ListParams::default()).await;
    for event in events.context("listing events")? {
        if event
            .regarding
            .as_ref()
            .is_some_and(|of| of.kind.as_deref() == Some("FlightCluster"))
        {
            insert(&event, &mut versions);
        }
    }
    Ok(versions)
}

async fn add<K>(namespace: &TestNamespace, selector: &str, versions: &mut Versions) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned,
{
    let list = ListParams::default().labels(selector);
    let objects = namespace.api::<K>().list_metadata(&list).await;
    for object in objects.with_context(|| format!("listing {}", K::kind(&())))? {
        versions.insert(name_of::<K>(&object.name_any()), version(&object));
    }
    Ok(())
}

fn insert<K: Resource<DynamicType = ()>>(object: &K, versions: &mut Versions) {
    versions.insert(name_of::<K>(&object.name_any()), version(object));
}

fn name_of<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{}/{name}", K::kind(&()))
}

fn version<K: Resource>(object: &K) -> String {
    let (uid, version) = (object.uid(), object.resource_version());
    format!(
        "{}@{}",
        uid.unwrap_or_default(),
        version.unwrap_or_default()
    )
}
