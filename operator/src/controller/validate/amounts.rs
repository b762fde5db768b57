//! Amounts of resources: one that no API server takes is found before anything is written, not when a
//! StatefulSet is refused after half of the objects.

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Problem, Problems};
use crate::controller::quantity::is_amount;

/// Checks what a role asks for; `field` is that of the resources.
pub(super) fn check_resources(
    resources: Option<&ResourceRequirements>,
    field: &str,
    problems: &mut Problems,
) {
    let Some(resources) = resources else {
        return;
    };
    for (kind, amounts) in [
        ("limits", &resources.limits),
        ("requests", &resources.requests),
    ] {
        for (name, amount) in amounts.iter().flatten() {
            check(amount, &format!("{field}.{kind}.{name}"), problems);
        }
    }
}

/// Checks the amounts in a partial pod; `field` is that of its spec.
pub(super) fn check_pod(pod: &PodSpec, field: &str, problems: &mut Problems) {
    check_resources(
        pod.resources.as_ref(),
        &format!("{field}.resources"),
        problems,
    );
    for (name, amount) in pod.overhead.iter().flatten() {
        check(amount, &format!("{field}.overhead.{name}"), problems);
    }
    let containers = pod
        .containers
        .iter()
        .map(|container| ("containers", container));
    let init = pod.init_containers.iter().flatten();
    for (list, container) in containers.chain(init.map(|container| ("initContainers", container))) {
        let field = format!("{field}.{list}[{}].resources", container.name);
        check_resources(container.resources.as_ref(), &field, problems);
    }
    for volume in pod.volumes.iter().flatten() {
        if let Some(limit) = volume
            .empty_dir
            .as_ref()
            .and_then(|dir| dir.size_limit.as_ref())
        {
            let field = format!("{field}.volumes[{}].emptyDir.sizeLimit", volume.name);
            check(limit, &field, problems);
        }
    }
}

fn check(amount: &Quantity, field: &str, problems: &mut Problems) {
    if !is_amount(&amount.0) {
        let message = format!(
            "{:?} is no amount; write for example 500m of cpu, 2Gi of memory",
            amount.0
        );
        problems.push(Problem::new(field, message));
    }
}
