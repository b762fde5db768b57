//! What the charts install: an operator with its own ServiceAccount and no more rights than it uses.

use anyhow::{Context, Result, ensure};
use flightcluster_e2e::cluster::TestCluster;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};

use crate::operator::{self, NAMESPACE, RELEASE, SELECTOR};
use crate::product::in_namespace;

/// Verb, API group and resource of what an operator that was broken into must not be able to do.
const FORBIDDEN: [(&str, &str, &str); 12] = [
    ("*", "*", "*"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("delete", "", "persistentvolumeclaims"),
    ("delete", "", "namespaces"),
    ("get", "", "nodes"),
    ("patch", "flightcluster.io", "flightclusters"),
    ("delete", "flightcluster.io", "flightclusters"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("impersonate", "", "serviceaccounts"),
    ("create", "", "serviceaccounts/token"),
];

fn is_operator(subjects: Option<&Vec<Subject>>) -> bool {
    subjects
        .into_iter()
        .flatten()
        .any(|subject| subject.name == RELEASE && subject.namespace.as_deref() == Some(NAMESPACE))
}

async fn is_allowed(cluster: &TestCluster, what: (&str, &str, &str)) -> Result<bool> {
    let (verb, group, resource) = what;
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{NAMESPACE}:{RELEASE}")),
            groups: Some(vec!["system:serviceaccounts".to_owned()]),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                namespace: Some("default".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(cluster.client());
    let answer = api.create(&PostParams::default(), &review).await;
    let status = answer.context("asking for the operator's rights")?.status;
    Ok(status.context("an answer has a status")?.allowed)
}

#[tokio::test]
async fn the_operator_has_the_rights_of_its_chart_and_no_others() -> Result<()> {
    let cluster = TestCluster::connect().await?;
    let namespace = operator::install(&cluster).await?;
    let pods = namespace.pods(SELECTOR).await?;
    let spec = pods[0].spec.as_ref().context("a pod has a spec")?;
    assert_eq!(spec.service_account_name.as_deref(), Some(RELEASE));

    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client());
    let bound: Vec<String> = bindings
        .list(&ListParams::default())
        .await?
        .iter()
        .filter(|binding| is_operator(binding.subjects.as_ref()))
        .map(|binding| format!("{} {}", binding.name_any(), binding.role_ref.name))
        .collect();
    assert_eq!(bound, [format!("{RELEASE} {RELEASE}")]);
    let bindings: Api<RoleBinding> = Api::all(cluster.client());
    let bound: Vec<String> = bindings
        .list(&ListParams::default())
        .await?
        .iter()
        .filter(|binding| is_operator(binding.subjects.as_ref()))
        .map(|binding| format!("{} {}", binding.namespace().unwrap(), binding.role_ref.name))
        .collect();
    assert_eq!(bound, [format!("{NAMESPACE} {RELEASE}-own")]);

    for what in FORBIDDEN {
        ensure!(
            !is_allowed(&cluster, what).await?,
            "the operator may {what:?}"
        );
    }
    // The other half, that it may do what it has to, is proved by every other test.
    assert!(is_allowed(&cluster, ("patch", "apps", "statefulsets")).await?);
    Ok(())
}

#[tokio::test]
async fn namespaces_of_these_tests_refuse_pods_that_are_not_restricted() -> Result<()> {
    in_namespace("restricted", async |namespace| {
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: lax}, \
                   spec: {containers: [{name: main, image: 'localhost/busybox:1'}]}}";
        let refused = namespace.apply_yaml(pod).await.unwrap_err().to_string();
        ensure!(
            refused.contains("violates PodSecurity \"restricted"),
            "{refused}"
        );
        Ok(())
    })
    .await
}
